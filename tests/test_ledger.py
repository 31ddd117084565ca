"""The ledger: whatever is changed in it, the audit finds; what is whole, it passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budget.audit import Audit, Auditor, audit, read_checkpoint
from budget.books.erasing import erase
from budget.books.pruning import prune
from budget.engine import Budget
from budget.ledger import GENESIS, Entry, Posting, dumps, make_entry
from budget.money import MAX
from budget.usage import Usage

Counters = dict[tuple[str, int], tuple[int, int]]


def book(n: int) -> tuple[list[Entry], Counters]:
    """A whole ledger of n entries, and the counters that follow from it."""
    entries: list[Entry] = []
    counters: Counters = {}
    head = GENESIS
    for seq in range(1, n + 1):
        pool, start, spent = f"p{seq % 3}", seq // 5 * 100, seq * 7
        kind = ("reserved", "reconciled", "recorded")[seq % 3]
        entry = make_entry(
            head, seq, seq * 1000, kind, f"{seq:032x}", (spent, 1, 2, 3, 1), {"user": "alice"}, {"model": "m",
            "n": seq},
            (Posting(pool, start, spent, seq),),
        )  # fmt: skip
        before = counters.get((pool, start), (0, 0))
        counters[pool, start] = (before[0] + spent, before[1] + seq)
        entries.append(entry)
        head = entry.digest
    return entries, counters


def check(entries: list[Entry], counters: Counters, head: bytes | None = None, seq: int | None = None) -> Audit:
    head = (entries[-1].digest if entries else GENESIS) if head is None else head
    return audit(entries, counters, head, len(entries) if seq is None else seq)


def test_a_whole_one() -> None:
    entries, counters = book(20)
    found = check(entries, counters)
    assert (found.ok, found.entries, found.faults, found.saturated, found.head) == (
        True,
        20,
        [],
        [],
        entries[-1].digest,
    )


def test_an_empty_one() -> None:
    assert check([], {}).ok
    assert check([], {("p", 0): (0, 0)}).ok
    assert not check([], {("p", 0): (1, 0)}).ok
    assert not check([], {}, seq=1).ok


FORGED: dict[str, Any] = {
    "seq": 99, "at_us": 1, "kind": "refunded", "reservation": "f" * 32, "amounts": (0, 0, 0, 0, 0), "digest": b"x" * 32,
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
@pytest.mark.parametrize("at", [0, 9, 19])
def test_a_changed_field_is_found(name: str, at: int) -> None:
    entries, counters = book(20)
    head = entries[-1].digest
    entries[at] = replace(entries[at], **{name: FORGED[name]})
    assert not check(entries, counters, head).ok


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("at", [0, 9, 19])
def test_a_changed_text_is_found(which: int, at: int) -> None:
    """Scope, detail and postings, as they are stored."""
    entries, counters = book(20)
    texts = list(entries[at].texts)
    texts[which] = texts[which].replace("1", "2").replace("alice", "mallory") + " "
    entries[at] = replace(entries[at], texts=tuple(texts))
    assert not check(entries, counters).ok


@pytest.mark.parametrize("unit", range(5))
def test_every_amount_counts(unit: int) -> None:
    entries, counters = book(5)
    amounts = list(entries[2].amounts)
    amounts[unit] += 1
    entries[2] = replace(entries[2], amounts=tuple(amounts))
    found = check(entries, counters)
    assert found.faults == ["entry 3 was changed: its digest does not follow from its content"]


def test_no_field_is_forgotten_here() -> None:
    assert {f.name for f in fields(Entry)} == FORGED.keys() | {
        "texts",
        "scope",
        "detail",
        "moves",
        "content",
        "sealed",
    }


@given(st.integers(0, 19))
def test_a_removed_entry_is_found(at: int) -> None:
    entries, counters = book(20)
    head = entries[-1].digest
    del entries[at]
    assert not check(entries, counters, head, 20).ok


@given(st.integers(0, 19), st.integers(0, 19))
def test_reordered_entries_are_found(one: int, two: int) -> None:
    entries, counters = book(20)
    head = entries[-1].digest
    entries[one], entries[two] = entries[two], entries[one]
    assert check(entries, counters, head).ok == (one == two)


@given(st.integers(0, 20))
def test_an_entry_that_comes_twice_is_found(at: int) -> None:
    entries, counters = book(20)
    entries.insert(at, entries[min(at, 19)])
    assert not check(entries, counters, seq=20).ok


@given(st.integers(1, 20))
def test_entries_missing_at_the_end_are_found(cut: int) -> None:
    entries, counters = book(20)
    kept = entries[:-cut]
    sums = book(20 - cut)[1]  # also where the counters were cut to fit
    assert not check(kept, counters, entries[-1].digest, 20).ok
    found = check(kept, sums, entries[-1].digest, 20)
    assert found.faults == [f"the last entry is {20 - cut}, the account is at 20: entries are missing at the end"]


def test_a_forged_tail_does_not_follow() -> None:
    """Whoever rewrites an entry has to rewrite all after it, and then the account's head gives it away."""
    entries, counters = book(20)
    true_head = entries[-1].digest
    head = entries[9].digest
    for i in range(10, 20):
        e = entries[i]
        amounts = (0, *e.amounts[1:]) if i == 10 else e.amounts
        entries[i] = make_entry(head, e.seq, e.at_us, e.kind, e.reservation, amounts, e.scope, e.detail, e.postings)
        head = entries[i].digest
    assert not check(entries, counters, true_head).ok
    assert check(entries, counters, head).ok  # only the head knows


def test_counters_that_do_not_follow() -> None:
    entries, counters = book(20)
    for key, (spent, reserved) in counters.items():
        for wrong in ((spent + 1, reserved), (spent, reserved - 1)):
            found = check(entries, {**counters, key: wrong})
            assert len(found.faults) == 1
            assert key[0] in found.faults[0]
    assert not check(entries, {**counters, ("ghost", 0): (5, 0)}).ok
    missing = dict(counters)
    missing.popitem()
    assert not check(entries, missing).ok


def test_a_saturated_counter_is_reported_and_no_fault() -> None:
    entry = make_entry(GENESIS, 1, 1, "recorded", None, (MAX + 5, 0, 0, 0, 1), {}, {}, (Posting("p", 0, MAX + 5, 0),))
    found = check([entry], {("p", 0): (MAX, 0)})
    assert (found.ok, len(found.saturated)) == (True, 1)
    entry = make_entry(GENESIS, 1, 1, "recorded", None, (MAX, 0, 0, 0, 1), {}, {}, (Posting("p", 0, MAX, 0),))
    found = check([entry], {("p", 0): (MAX, 0)})
    assert (found.ok, found.saturated) == (True, [])


def test_a_counter_at_its_ceiling_is_always_reported() -> None:
    entry = make_entry(GENESIS, 1, 1, "recorded", None, (5, 0, 0, 0, 1), {}, {}, (Posting("p", 0, 5, 0),))
    found = check([entry], {("p", 0): (MAX, 0)})
    assert found.saturated or found.faults


STRINGS = st.text(max_size=20)


@given(st.dictionaries(STRINGS, STRINGS, max_size=3), STRINGS, STRINGS)
def test_no_two_contents_share_a_digest(scope: dict[str, str], one: str, two: str) -> None:
    """Text cannot move over the border between two fields."""
    entries = [
        make_entry(GENESIS, 1, 1, "recorded", None, (0,) * 5, {**scope, "a": first}, {"b": second}, ())
        for first, second in ((one, two), (one + "\n", two), (one, two + "\n"), (one + two, ""), ("", one + two))
    ]
    contents = [e.texts for e in entries]
    assert len({e.digest for e in entries}) == len(set(contents))


def test_canonical_json() -> None:
    assert dumps({"b": 1, "a": [2**63, None, "é\n"]}) == '{"a":[9223372036854775808,null,"\\u00e9\\n"],"b":1}'
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="Out of range"):
            dumps(bad)
    with pytest.raises(TypeError):
        dumps(object())


def test_what_an_entry_tells() -> None:
    detail = {"model": "m-2026", "usage": {"input": 5}, "estimate": {"usd": "1"}}
    entry = make_entry(GENESIS, 1, 1_700_000_000_000_000, "reconciled", "a" * 32, (25 * 10**7, 9, 5, 4, 1),
                       {"user": "alice", "model": "m"}, detail, ())  # fmt: skip
    assert (entry.usd, entry.tokens, entry.model) == (Decimal("0.25"), 9, "m-2026")
    assert (entry.usage, entry.estimate) == (Usage(input=5), {"usd": "1"})
    assert entry.at.isoformat() == "2023-11-14T22:13:20+00:00"
    shown = entry.to_dict()
    assert (shown["usd"], shown["seq"], shown["digest"]) == ("0.25", 1, entry.digest.hex())


def test_an_entry_put_in_behind_the_last_one_is_found() -> None:
    """What came after an instant must follow, if it is not read: else it was not written by a verb."""
    entries, _ = book(20)
    for forged in (replace(entries[19], seq=21), replace(entries[19], seq=23)):
        auditor = Auditor()
        assert not auditor.read([*entries, forged], 20)
        assert len(auditor.finish(entries[19].digest, 20).faults) == 1
    auditor = Auditor()
    assert auditor.read(entries, 15)
    assert auditor.finish(entries[14].digest, 15).ok


def test_a_pool_that_a_checkpoint_has_twice_is_added_up() -> None:
    """An erasure gives two pools one name."""
    sums = [["a", 0, 5, 1], ["b", 0, 2, 0], ["a", 0, 7, 2], ["a", 9, 1, 0]]
    found = read_checkpoint(4, {"upto": 3, "digest": GENESIS.hex(), "amounts": [0, 0, 0, 0, 0], "sums": sums})
    assert found.sums == {("a", 0): (12, 3), ("b", 0): (2, 0), ("a", 9): (1, 0)}


@pytest.mark.parametrize("store_url", ["memory", "sqlite"], indirect=True)
def test_who_is_erased_again_after_a_prune_has_spent_what_he_had(
    budget_factory: Callable[..., Budget], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint has his pool and his pseudonym's; a rebuild would set their common counter to one of them."""
    monkeypatch.setenv("BUDGET_ERASE_KEY", "a key of sixteen characters")
    budget = budget_factory(limits=["per=user $9/day"])
    books, actor = budget.engine.books, {"actor": "ops", "reason": "asked to"}
    budget.record(usd="1", user="x")
    erase(books, "user", "x", actor)
    budget.record(usd="1", user="x")
    now = max(entry.at_us for entry in books.entries()) + 1
    prune(books, now, now, actor)
    budget.record(usd="1", user="x")
    erase(books, "user", "x", actor)
    assert books.verify().faults == []
    assert books.rebuild().changed == []
    assert [str(state.spent) for state in budget.status()] == ["3"]
