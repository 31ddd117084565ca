"""Retention: old entries become one that stands for them; what is left proves as much as before, on every store."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from budget.audit import Checkpoint
from budget.books.books import Books
from budget.books.pruning import Pruned, prune
from budget.engine import Budget
from budget.ledger import dumps
from budget.stores.records import Records
from budget.stores.redis import RedisStore
from budget.stores.sqlite import SqliteStore

LIMITS = ["$500/day", "per=user $50/hour", "$900/lifetime", "8 concurrent", "$70/1h rolling", "per=user $90/week"]
ACTOR = {"actor": "ops", "reason": "retention"}
DAY = 86_400 * 10**6


@pytest.fixture
def books(budget_factory: Callable[..., Budget], tmp_path: Path) -> Books:
    budget = budget_factory(limits=LIMITS)
    books = budget.engine.books
    books.adopt(Records(f"sqlite:///{tmp_path / 'records.db'}"), always=True)
    books.budget = budget  # type: ignore[attr-defined]
    return books


def budget_of(books: Books) -> Budget:
    return books.budget  # type: ignore[attr-defined,no-any-return]


def use(books: Books, calls: int = 12) -> None:
    budget = budget_of(books)
    for i in range(calls):
        reservation = budget.reserve("$0.5", user=f"u{i % 3}")
        if i % 4:
            budget.reconcile(reservation, usd=f"0.{i:02d}1")
        else:
            budget.refund(reservation)
    while books.drain_step():
        pass


def later(books: Books, days: int = 100, **detail: str) -> Pruned:
    """Prune as somebody would so many days from now, all that is older than 60 days."""
    now = time.time_ns() // 1000 + days * DAY
    return prune(books, now - 60 * DAY, now, {**ACTOR, **detail})


def snapshot(books: Books) -> dict[tuple[str, int], object]:
    return dict(books.store.snapshot("default").buckets)


def test_sums_and_chain_stay_provable(books: Books) -> None:
    use(books)
    before, spent = snapshot(books), sum(entry.amounts[0] for entry in books.entries())
    done = later(books)
    assert (done.entries, done.upto, done.audit.faults) == (24, 24, [])
    found = books.verify()
    assert (found.faults, found.since, found.partial) == ([], 25, False)
    [entry] = books.entries()
    assert (entry.kind, entry.detail["upto"], entry.detail["amounts"][0]) == ("pruned", 24, spent)
    names = books.store.snapshot("default").names
    kinds = {json.loads(names[pool])[1] for pool, _ in snapshot(books)}
    assert kinds == {"lifetime"}  # concurrent, too; all others are long over
    assert {pool for pool, _ in snapshot(books)} == set(names)
    assert snapshot(books).items() <= before.items()
    use(books)
    assert books.verify().faults == []
    again = later(books)
    assert again.audit.faults == []
    [entry] = books.entries()
    assert entry.detail["amounts"][0] == 2 * spent
    assert books.verify().faults == []


def test_what_is_young_stays(books: Books) -> None:
    use(books)
    before = snapshot(books)
    now = time.time_ns() // 1000
    done = prune(books, now - 90 * DAY, now, ACTOR)
    assert (done.entries, done.windows, done.upto) == (0, 0, 0)
    done = prune(books, now, now, ACTOR)  # entries may go at once, windows never before their time
    assert done.entries == 24
    kept = {key: bucket for key, bucket in before.items() if key in snapshot(books)}
    assert kept == snapshot(books) == before
    use(books)
    assert books.verify().faults == []


def test_what_is_open_keeps_its_windows(books: Books) -> None:
    budget = budget_of(books)
    free = budget.reserve("$0", user="u0")  # holds nothing, and must find its windows all the same
    use(books)
    held = budget.reserve("$1", user="u1")
    later(books)
    assert books.verify().faults == []
    budget.reconcile(held, usd="0.9")
    budget.reconcile(free, usd="0.2")
    assert books.verify().faults == []


def test_counters_are_rebuilt_from_a_pruned_ledger(books: Books) -> None:
    from budget.commands import Rebuild

    use(books)
    later(books)
    use(books)
    before = snapshot(books)
    found = books.store.snapshot("default")
    wrong = {key: bucket.at(bucket.spent + 5, bucket.reserved) for key, bucket in found.buckets.items()}
    books.call(Rebuild(found.seq, wrong, found.names))
    assert not books.verify().ok
    assert books.rebuild().audit.faults == []
    assert snapshot(books) == before


def test_a_damaged_ledger_is_not_pruned(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    use(books)
    ledger = books.ledger()
    lines = list(ledger.lines("default", 0))
    monkeypatch.setattr(ledger, "lines", lambda account, after: iter([*lines[:4], *lines[5:]]))
    done = later(books)
    assert done.entries == 0
    assert "entry 5 is missing" in done.audit.faults[0]
    monkeypatch.undo()
    assert len(list(books.entries())) == 24


def test_killed_before_the_entries_go(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    use(books)
    ledger = books.ledger()

    def dies(account: str, upto: int) -> None:
        if upto:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "forget_entries", dies)
        with pytest.raises(KeyboardInterrupt):
            later(books)
    assert len(list(books.entries())) == 25
    assert books.verify().faults == []
    use(books, 1)
    assert later(books).audit.faults == []
    assert [entry.kind for entry in books.entries()] == ["pruned"]
    assert books.verify().faults == []


def test_killed_before_a_server_drops_its_windows(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    if not isinstance(books.store, RedisStore):
        return
    use(books)
    with monkeypatch.context() as patch:
        patch.setattr(books.store, "retire", lambda *args: None)
        later(books)
    assert len(snapshot(books)) > 5
    assert books.verify().faults == []
    later(books)
    assert len(snapshot(books)) == 2
    assert books.verify().faults == []


@pytest.mark.parametrize(
    "damage",
    [
        "update entries set detail = replace(detail, '\"upto\":24', '\"upto\":23') where kind = 'pruned'",
        "update entries set detail = replace(detail, '$sum', '1') where kind = 'pruned'",
        "delete from entries where kind = 'pruned'",
        "delete from entries where seq = 26",
        "update entries set sealed = digest, detail = '{}' where seq = 26",
    ],
)
def test_a_changed_checkpoint_is_found(books: Books, damage: str) -> None:
    use(books)
    later(books)
    use(books)
    ledger = books.ledger()
    if not isinstance(ledger, SqliteStore):
        return
    first = next(iter(books.entries())).detail["sums"][0][2]
    db = sqlite3.connect(ledger.path)
    changed = db.execute(damage.replace("$sum", str(first))).rowcount
    db.commit()
    db.close()
    assert changed == 1
    assert not books.verify().ok


def test_a_forged_checkpoint_is_found(sqlite_url: str, make_budget: Callable[..., Budget]) -> None:
    """An entry in the chain's past that claims to stand for all of it: nobody would read the entries any more."""
    budget = make_budget(sqlite_url, limits=LIMITS)
    use_it = budget.engine.books
    budget.record(usd="1", user="u")
    budget.record(usd="2", user="u")
    found = budget.engine.store.snapshot("default")
    sums = {key: (bucket.spent, bucket.reserved) for key, bucket in found.buckets.items()}
    forged = Checkpoint(found.seq, found.head, (1, 0, 0, 0, 0), sums)
    assert isinstance(budget.engine.store, SqliteStore)
    db = sqlite3.connect(budget.engine.store.path)
    db.execute("update entries set kind = 'pruned', detail = ? where seq = 1", (dumps(forged.to_detail()),))
    db.commit()
    db.close()
    assert "is not in the chain" in use_it.verify().faults[0]


def test_in_portions(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("budget.stores.sqliteadmin._PORTION", 5)
    use(books)
    later(books)
    assert [entry.kind for entry in books.entries()] == ["pruned"]
