"""Replay against an independent walk: its own event loop, windows and prices, in fractions and plain dicts."""

from __future__ import annotations

import csv
import gzip
import json
import os
import sqlite3
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budget import Budget, BudgetError, ConfigError, Limit
from budget.cli import main
from budget.commands import Command, Outcome, Reserve
from budget.prices import Model, PriceBook, Row
from budget.prices.rates import Card, Rates
from budget.replay import Replay, Trace, read_time, replay, walk
from budget.stores.base import Store, open_store

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("BUDGET_DATA") or ROOT.parent / "shared" / "data")
CC = DATA / "traces" / "agent_claude_code_cc_traces.csv.gz"
AZURE = DATA / "traces" / "azure_llm_2023_conv.csv.gz"
MOONCAKE = DATA / "traces" / "mooncake_conversation.csv.gz"
needs_traces = pytest.mark.skipif(not CC.exists(), reason=f"no traces in {DATA}: set BUDGET_DATA")

# One input token of `one` costs $1, so that an example's tokens are its dollars.
BOOK = PriceBook([], "").overlay({
    "one": {"input": "1000000", "output": "0"},
    "cached": {"input": "1000000", "output": "4000000", "cache_read": "100000", "cache_write": {"5m": "2000000"}},
    "fine": {"input": "0.000001", "output": "0"},
})  # fmt: skip
HEAD = "time,user,session,model,input_tokens,output_tokens,duration\n"
START = Fraction(1767225600)  # 2026-01-01T00:00Z


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep short what only measures speed."""
    monkeypatch.setattr(walk, "SAMPLE", 50)


class Recorder:
    """A store that writes down what was asked of it, and can fail at a given command."""

    def __init__(self, store: Store, fail_at: int = -1, error: BaseException | None = None):
        self.store, self.fail_at, self.error = store, fail_at, error
        self.asked: list[tuple[str, Command, Outcome, int | None]] = []

    def call(self, account: str, command: Command, timeout: float, now: int | None = None) -> Outcome:
        if len(self.asked) == self.fail_at and self.error is not None:
            raise self.error
        outcome = self.store.call(account, command, timeout, now)
        self.asked.append((account, command, outcome, now))
        return outcome

    def remove(self, account: str) -> None:
        self.store.remove(account)

    @property
    def accounts(self) -> set[str]:
        return {account for account, *_ in self.asked}

    @property
    def decisions(self) -> list[bool]:
        """Whether each call was admitted, in the order of the replay."""
        first = self.asked[0][0]
        reserves = (asked for asked in self.asked if asked[0] == first and type(asked[1]) is Reserve)
        return [outcome.status == "reserved" for _, _, outcome, _ in reserves]


def play(
    folder: Path, text: str, *limits: str | Limit, store: Any = None, reserve: str = "1", **options: Any
) -> Replay:
    path = folder / "trace.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    trace = Trace(path, start=read_time("2026-01-01"), **options)
    return replay(store or open_store("memory://"), trace, limits, BOOK, reserve=Fraction(reserve), priced_at=0)


def refused(found: Replay) -> list[int]:
    return [limit.refused for limit in found.limits]


# The independent walk.


class Rule(NamedTuple):
    """A limit: how much of what, in windows of so many seconds (None: one for ever), a pool for each of `per`."""

    amount: int
    unit: str
    seconds: int | None
    per: str | None = None


class Recorded(NamedTuple):
    at: Fraction
    end: Fraction | None
    usd: int
    tokens: int
    attributes: dict[str, str]

    def asks(self, unit: str, factor: Fraction = Fraction(1)) -> int:
        if unit in ("requests", "concurrent"):
            return 1
        return ceil({"usd": self.usd, "tokens": self.tokens}[unit] * factor)


def independent(
    calls: Sequence[Recorded], rules: Sequence[Rule], factor: Fraction = Fraction(1)
) -> tuple[list[bool], list[int], list[int]]:
    """Return who is admitted, in the order of time, and each rule's refusals and largest spent."""
    order = sorted(calls, key=lambda call: call.at)
    events = [(call.at, 1, i) for i, call in enumerate(order)]
    events += [(call.end, 0, i) for i, call in enumerate(order) if call.end is not None and call.end > call.at]
    spent: dict[Any, int] = {}
    held: dict[Any, int] = {}
    admitted: dict[int, bool] = {}
    refusals = [0] * len(rules)

    def pool(rule: Rule, call: Recorded) -> Any:
        subject = call.attributes.get(rule.per) if rule.per else None
        return rule, subject, call.at // rule.seconds if rule.seconds else None

    def end(call: Recorded) -> None:
        for rule in rules:
            key = pool(rule, call)
            held[key] -= call.asks(rule.unit, factor)
            spent[key] = spent.get(key, 0) + (0 if rule.unit == "concurrent" else call.asks(rule.unit))

    for _, begins, i in sorted(events):
        call = order[i]
        if not begins:
            if admitted[i]:
                end(call)
            continue
        keys = [pool(rule, call) for rule in rules]
        amounts = [call.asks(rule.unit, factor) for rule in rules]
        over = [
            amount > 0 and spent.get(key, 0) + held.get(key, 0) + amount > rule.amount
            for rule, key, amount in zip(rules, keys, amounts, strict=True)
        ]
        admitted[i] = not any(over)
        refusals = [count + no for count, no in zip(refusals, over, strict=True)]
        if admitted[i]:
            for key, amount in zip(keys, amounts, strict=True):
                held[key] = held.get(key, 0) + amount
            if call.end is None or call.end == call.at:
                end(call)
    most = [max([total for key, total in spent.items() if key[0] == rule], default=0) for rule in rules]
    return [admitted[i] for i in range(len(order))], refusals, most


def shipped_price(model: str) -> tuple[Fraction, Fraction]:
    """Return today's USD per input and output token, from the price sources."""
    for path in (ROOT / "prices").glob("*.toml"):
        for entry in tomllib.loads(path.read_text())["models"]:
            if model == entry["id"]:
                row = [row for row in entry["prices"] if row["from"] <= datetime.now(UTC).date()][-1]
                assert "tiers" not in row, "this walk knows no tiers"
                return Fraction(row["input"]) / 10**6, Fraction(row["output"]) / 10**6
    raise LookupError(model)


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt") as file:
        yield from csv.DictReader(file)


def cost(model: str, given: str, output: str, prices: dict[str, tuple[Fraction, Fraction]] = {}) -> int:  # noqa: B006
    if model not in prices:
        prices[model] = shipped_price(model)
    each, out = prices[model]
    return ceil((int(given) * each + int(output) * out) * 10**9)


def cc_calls() -> list[Recorded]:
    found = []
    for row in rows_of(CC):
        at = START + Fraction(row["offset_s"])
        tokens = int(row["input_tokens"]) + int(row["output_tokens"])
        usd = cost(row["model"], row["input_tokens"], row["output_tokens"])
        found.append(Recorded(at, at + Fraction(row["api_time_s"]), usd, tokens, {"session": row["session_id"]}))
    return found


def azure_calls() -> list[Recorded]:
    found = []
    for row in rows_of(AZURE):
        whole, _, decimals = row["TIMESTAMP"].partition(".")
        seconds = datetime.strptime(whole + "+0000", "%Y-%m-%d %H:%M:%S%z").timestamp()
        at = Fraction(int(seconds)) + Fraction(int(decimals), 10 ** len(decimals))
        given, output = row["ContextTokens"], row["GeneratedTokens"]
        found.append(Recorded(at, None, cost("gpt-4o", given, output), int(given) + int(output), {}))
    return found


NANOS = 10**9
ACCEPTANCE = {
    "cc": (CC, cc_calls, {}, {
        "$20/run": Rule(20 * NANOS, "usd", None, "session"), "$200/day": Rule(200 * NANOS, "usd", 86400),
    }),
    "azure": (AZURE, azure_calls, {"model": "gpt-4o"}, {
        "$2/hour": Rule(2 * NANOS, "usd", 3600), "100 requests/minute": Rule(100, "requests", 60),
    }),
}  # fmt: skip


@cache
def walked(name: str) -> tuple[list[Recorded], list[bool], list[int], list[int]]:
    """The calls of a trace, and what the independent walk finds: admitted, refusals, most spent."""
    _, read, _, rules = ACCEPTANCE[name]
    calls = read()
    return calls, *independent(calls, list(rules.values()))


@needs_traces
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ACCEPTANCE)
def test_real_traces_are_decided_as_an_independent_walk_decides(name: str, store_url: str) -> None:
    path, _, fill, rules = ACCEPTANCE[name]
    calls, admitted, refusals, most = walked(name)
    assert 0 < sum(admitted) < len(admitted)
    store = open_store(store_url)
    try:
        recorder = Recorder(store)
        trace = Trace(path, fill=fill, start=read_time("2026-01-01"))
        today = int(datetime.now(UTC).timestamp()) * 10**6
        found = replay(recorder, trace, list(rules), PriceBook.shipped(), priced_at=today)
    finally:
        store.close()
    assert recorder.decisions == admitted
    assert (found.calls, found.admitted, found.refused) == (len(calls), sum(admitted), len(calls) - sum(admitted))
    in_order = sorted(calls, key=lambda call: call.at)
    assert found.spent == sum(call.usd for call, yes in zip(in_order, admitted, strict=True) if yes)
    assert found.spent + found.refused_cost == sum(call.usd for call in calls)
    assert refused(found) == refusals
    shown = [spent if rule.unit == "usd" else None for spent, rule in zip(most, rules.values(), strict=True)]
    assert [limit.max_spent for limit in found.limits] == shown


@needs_traces
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ACCEPTANCE)
def test_the_command_prints_the_same_figures(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path, _, fill, rules = ACCEPTANCE[name]
    _, admitted, refusals, _ = walked(name)
    options = [f"--set={field}={value}" for field, value in fill.items()] + [f"--limit={text}" for text in rules]
    assert main(["replay", str(path), *options, "--store", "memory://", "--json"], standalone_mode=False) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["calls"], found["admitted"], found["skipped"]) == (len(admitted), sum(admitted), 0)
    assert [(row["limit"], row["refused"]) for row in found["limits"]] == list(zip(rules, refusals, strict=True))
    assert found["calls_per_second"] > 0
    assert found["store_calls_per_second"] > 0


@needs_traces
@pytest.mark.usefixtures("quick")
def test_mooncake_counts_prefix_hits_as_cache_reads() -> None:
    trace = Trace(MOONCAKE, fill={"model": "cached"}, start=read_time("2026-01-01"))
    found = replay(open_store("memory://"), trace, [], BOOK, priced_at=0)
    expected = 0
    for row in rows_of(MOONCAKE):
        hits = int(row["ideal_prefix_cache_hit_tokens"])
        tenths = (int(row["input_tokens"]) - hits) * 10 + hits + int(row["output_tokens"]) * 40
        expected += tenths * NANOS // 10
    assert (found.calls, found.spent) == (12031, expected)


# The rules, one by one.


@pytest.mark.usefixtures("quick")
@settings(max_examples=150)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 40).map(lambda tenths: Fraction(tenths * 30) + Fraction(tenths % 3, 10**7)),
            st.sampled_from(["", "0", "30", "60.0000001", "90", "59.9999999999"]),
            st.integers(0, 9), st.sampled_from(["", "a", "b"]), st.sampled_from(["", "s", "t"]),
        ),
        max_size=30,
    ),
    factor=st.sampled_from(["1", "1.5", "0.5"]),
)  # fmt: skip
def test_any_trace_is_decided_as_an_independent_walk_decides(rows: list[Any], factor: str) -> None:
    text, calls = HEAD, []
    for i, (offset, duration, usd, user, session) in enumerate(rows):
        # Without a session each call is a run of its own; the independent walk gets a session for each.
        attributes = {"session": session or f"lone {i}", **({"user": user} if user else {})}
        at = START + offset
        calls.append(Recorded(at, at + Fraction(duration) if duration else None, usd * NANOS, usd, attributes))
        text += f"{float(offset):.7f},{user},{session},one,{usd},0,{duration}\n"
    rules = {
        "$12/run": Rule(12 * NANOS, "usd", None, "session"),
        "$10/minute": Rule(10 * NANOS, "usd", 60),
        "per=user $15/hour": Rule(15 * NANOS, "usd", 3600, "user"),
        "4 requests/minute": Rule(4, "requests", 60),
        "40 tokens/lifetime": Rule(40, "tokens", None),
        "per=user 2 concurrent": Rule(2, "concurrent", None, "user"),
    }
    admitted, refusals, most = independent(calls, list(rules.values()), Fraction(factor))
    recorder = Recorder(open_store("memory://"))
    with tempfile.TemporaryDirectory() as folder:
        found = play(Path(folder), text, *rules, store=recorder, reserve=factor)
    assert not rows or recorder.decisions == admitted
    assert refused(found) == refusals
    assert [limit.max_spent for limit in found.limits] == [*most[:3], None, None, None]


def test_what_ends_at_an_instant_ends_before_what_begins(tmp_path: Path) -> None:
    # Reserved 9, used 6: whether the second call fits depends on whether the first has ended.
    for begins, admitted in (("0.9999999", 1), ("1.0000000", 2), ("1.0000001", 2)):
        text = HEAD + f"0,,,one,6,0,1.0\n{begins},,,one,4,0,\n"
        assert play(tmp_path, text, "$12/day", reserve="1.5").admitted == admitted


def test_a_call_holds_its_slot_from_its_begin_to_its_end(tmp_path: Path) -> None:
    text = HEAD + "0,,,one,1,0,10\n1,,,one,1,0,\n2,,,one,1,0,10\n9,,,one,1,0,1\n10,,,one,1,0,\n12,,,one,1,0,5\n"
    one = play(tmp_path, text, "1 concurrent", reserve="3")
    assert (one.admitted, refused(one), one.to_dict()["limits"][0]["max_spent_usd"]) == (3, [3], None)
    two = play(tmp_path, text, "2 concurrent", "$4/day")
    assert (two.admitted, refused(two), two.spent) == (4, [1, 1], 4 * NANOS)


def test_a_call_of_no_duration_ends_before_the_next_of_its_instant(tmp_path: Path) -> None:
    assert play(tmp_path, HEAD + "5,,,one,6,0,0\n5,,,one,4,0,0\n", "$12/day", reserve="1.5").admitted == 2


def test_order_is_by_exact_time_below_a_microsecond(tmp_path: Path) -> None:
    late, early = "2026-01-01 10:00:00.0000002,,,one,7,0,\n", "2026-01-01 10:00:00.0000001,,,one,6,0,\n"
    found = play(tmp_path, HEAD + late + early, "$10/day")
    assert (found.admitted, found.spent) == (1, 6 * NANOS)


def test_calls_of_one_instant_stay_in_file_order_when_sorted(tmp_path: Path) -> None:
    found = play(tmp_path, HEAD + "9,,,one,1,0,\n5,,,one,8,0,\n5,,,one,7,0,\n5,,,one,6,0,\n", "$9/day")
    assert found.spent == 9 * NANOS  # the 8 of second 5 first, then the 1 of second 9


def test_a_call_belongs_to_the_window_in_which_it_began(tmp_path: Path) -> None:
    found = play(tmp_path, HEAD + "59.9,,,one,6,0,30\n60,,,one,9,0,\n119,,,one,1,0,\n", "$10/minute")
    assert found.admitted == 3
    assert found.limits[0].max_spent == 10 * NANOS


def test_reserve_scales_money_and_tokens_rounded_up_and_not_requests(tmp_path: Path) -> None:
    text = HEAD + "0,,,fine,1,0,\n"
    recorder = Recorder(open_store("memory://"))
    play(tmp_path, HEAD + "0,,,one,3,0,\n", store=recorder, reserve="1.5")
    assert recorder.asked[0][1].amounts == (4_500_000_000, 5, 5, 0, 1)  # type: ignore[union-attr]
    assert recorder.asked[1][1].actual == (3_000_000_000, 3, 3, 0, 1)  # type: ignore[union-attr]
    # A price of 10^-12 USD: the cost is rounded up to a nano-dollar, and 1.5 of those to two.
    assert play(tmp_path, text, "$0.000000001/day").admitted == 1
    assert play(tmp_path, text, "$0.000000001/day", reserve="1.5").admitted == 0
    assert play(tmp_path, text, "1 requests/day", reserve="1.5").admitted == 1
    assert play(tmp_path, text, "1 tokens/day", reserve="1.5").admitted == 0


def test_each_subject_has_a_pool(tmp_path: Path) -> None:
    rows = [("a", 4), ("b", 4), ("a", 2), ("b", 1), ("", 5), ("", 1)]
    text = HEAD + "".join(f"{i},{user},,one,{usd},0,\n" for i, (user, usd) in enumerate(rows))
    found = play(tmp_path, text, "per=user $5/day", "user=b $9/day")
    assert (found.admitted, refused(found)) == (4, [2, 0])
    assert [limit.max_spent for limit in found.limits] == [5 * NANOS, 5 * NANOS]


def test_each_session_is_a_run_and_a_call_without_one_is_its_own(tmp_path: Path) -> None:
    text = HEAD + "0,,s,one,6,0,\n1,,t,one,5,0,\n2,,s,one,5,0,\n3,,,one,9,0,\n4,,,one,9,0,\n5,,,one,11,0,\n"
    found = play(tmp_path, text, "$10/run")
    assert (found.admitted, refused(found), found.limits[0].max_spent) == (4, [2], 9 * NANOS)


def test_a_cap_shows_the_largest_call_it_admitted(tmp_path: Path) -> None:
    found = play(tmp_path, HEAD + "0,,,one,5,0,\n1,,,one,3,0,\n2,,,one,6,0,\n", "$5/request")
    assert found.to_dict()["limits"] == [{"limit": "$5/request", "refused": 1, "max_spent_usd": "5"}]


def test_a_limit_ends_when_it_does(tmp_path: Path) -> None:
    text = HEAD + "0,ann,,one,3,0,12\n1,ann,,one,3,0,7\n9,ann,,one,3,0,\n10,ann,,one,3,0,\n11,ann,,one,3,0,\n"
    until = datetime(2026, 1, 1, 0, 0, 10, tzinfo=UTC)
    found = play(tmp_path, text, Limit("$5/day", until=until), "$10/week")
    assert (found.admitted, refused(found)) == (3, [2, 0])
    assert [limit.max_spent for limit in found.limits] == [3 * 10**9, 9 * 10**9]


def test_a_refusal_counts_for_every_limit_that_refused(tmp_path: Path) -> None:
    text = HEAD + "0,,,one,3,0,\n1,,,one,4,0,\n2,,,one,8,0,\n3,,,one,1,0,\n"
    found = play(tmp_path, text, "$5/day", "$6/hour", "$7/request", "8 tokens/day", "2 requests/day")
    shown = found.to_dict()
    assert (shown["calls"], shown["admitted"], shown["refused"]) == (4, 2, 2)
    assert (shown["spent_usd"], shown["refused_usd"]) == ("4", "12")
    assert shown["limits"] == [
        {"limit": "$5/day", "refused": 2, "max_spent_usd": "4"},
        {"limit": "$6/hour", "refused": 2, "max_spent_usd": "4"},
        {"limit": "$7/request", "refused": 1, "max_spent_usd": "3"},
        {"limit": "8 tokens/day", "refused": 1, "max_spent_usd": None},
        {"limit": "2 requests/day", "refused": 0, "max_spent_usd": None},
    ]


def test_a_limit_is_shown_as_it_was_given(tmp_path: Path) -> None:
    found = play(tmp_path, HEAD + "0,,,one,3,0,\n", "model=one   $5.00/day", "2M tokens/hour")
    assert [limit.text for limit in found.limits] == ["model=one   $5.00/day", "2M tokens/hour"]
    assert found.limits[0].max_spent == 3 * NANOS
    with pytest.raises(ConfigError, match="one limit, set twice"):
        play(tmp_path, HEAD, "$5/day", "$6/day")


def test_cached_tokens_are_inside_the_input(tmp_path: Path) -> None:
    text = "time,model,input_tokens,output_tokens,cache_read_tokens,cache_write_tokens\n0,cached,100,10,30,20\n"
    found = play(tmp_path, text, "110 tokens/day", "100 input tokens/day", "10 output tokens/day")
    # 50 x $1 + 30 x $0.1 + 20 x $2 + 10 x $4
    assert (found.spent, found.admitted) == (133 * NANOS, 1)
    with pytest.raises(BudgetError, match="below its cached tokens"):
        play(tmp_path, text.replace(",30,20", ",81,20"))


def test_prices_of_today_or_of_then(tmp_path: Path) -> None:
    rows = [Row(int(START) * 10**6 + day * 86400 * 10**6, Rates((Card(0, 10**12 * (day + 1), 0),))) for day in (0, 1)]
    book = PriceBook([Model("one", "acme", tuple(rows))], "")
    path = tmp_path / "trace.csv"
    path.write_text(HEAD + "0,,,one,1,0,\n86399.9999999,,,one,1,0,\n86400,,,one,1,0,\n")
    for priced_at, expected in ((None, 4), (rows[1].from_us, 6), (rows[0].from_us, 3)):
        trace = Trace(path, start=read_time("2026-01-01"))
        found = replay(open_store("memory://"), trace, ["provider=acme $9/day"], book, priced_at=priced_at)
        assert found.spent == expected * NANOS
        assert found.limits[0].max_spent


@pytest.mark.parametrize(("text", "expected"), [
    ("2026-01-01", START), ("2026-01-01T00:00:01", START + 1), ("2026-01-01 01:00:00.5+01:00", START + Fraction(1, 2)),
    ("2025-12-31T23:59:59.12345678901Z", START - 1 + Fraction(12345678901, 10**11)), ("12.5", START + Fraction(25, 2)),
    ("1e-05", START + Fraction(1, 10**5)), ("11.148999999999997", START + Fraction("11.148999999999997")),
    ("20260101T000000.1234567", START + Fraction(1234567, 10**7)), ("-3", START - 3),
])  # fmt: skip
def test_times_are_read_exactly(text: str, expected: Fraction) -> None:
    assert read_time(text, start=read_time("2026-01-01T00:00Z")) == expected * 10**9


def test_a_number_counts_what_its_column_name_says(tmp_path: Path) -> None:
    text = "at_ms,model,input_tokens,output_tokens,took_us\n1500,one,1,0,250000\n"
    path = tmp_path / "trace.csv"
    path.write_text(text)
    [call] = Trace(path, columns={"time": "at_ms", "duration": "took_us"}).calls()
    assert (call.at, call.end) == (1_500_000_000, 1_750_000_000)
    assert read_time("0.1234567", unit=10**6) == Fraction(1234567, 10)  # finer than a nanosecond, and still exact


def test_unix_time_needs_its_start(tmp_path: Path) -> None:
    text = HEAD + "1767225600.5,,,one,1,0,\n"
    notes: list[str] = []
    assert play(tmp_path, text, on_malformed=notes.append).skipped == 1
    assert "--start 1970-01-01" in notes[0]
    [call] = Trace(tmp_path / "trace.csv", start=read_time("1970-01-01")).calls()
    assert call.at == (START + Fraction(1, 2)) * 10**9


def test_set_fills_what_the_trace_lacks_and_nothing_else(tmp_path: Path) -> None:
    text = "TIMESTAMP,ContextTokens,GeneratedTokens,user\n2026-01-01,3,0,\n2026-01-01,4,0,ann\n"
    path = tmp_path / "trace.csv"
    path.write_text(text)
    users = [call.who for call in Trace(path, fill={"model": "one", "user": "bob"}).calls()]
    assert users == [("bob", "", "", "one"), ("ann", "", "", "one")]


BAD_ROWS = {
    "x,,,one,1,0,": "time", "2026-13-01,,,one,1,0,": "time", "-1e12,,,one,1,0,": "1970",
    "0,,,one,,0,": "input_tokens", "0,,,one,-1,0,": "input_tokens", "0,,,one,1.5,0,": "input_tokens",
    "0,,,one,1,n/a,": "output_tokens", "0,,,one,1,0,-1": "duration", "0,,,one,1,0,nan": "duration",
    "0,,,,1,0,": "model", "0,,,one,1,0": "6 fields", "0,,,one,1,0,,": "8 fields",
    "0,a\tb,,one,1,0,": "user", "0,\udcff,,one,1,0,": "user", '0,"a"b,,one,1,0,': "expected",
    f"0,{'u' * 257},,one,1,0,": "user",
}  # fmt: skip


@pytest.mark.parametrize("row", BAD_ROWS)
def test_a_malformed_row_is_reported_and_skipped_or_ends_it(tmp_path: Path, row: str) -> None:
    text = HEAD + f"0,,,one,1,0,\n\n{row}\n1,,,one,2,0,\n"
    notes: list[str] = []
    found = play(tmp_path, text, "$9/day", on_malformed=notes.append)
    assert (found.calls, found.skipped, found.spent) == (2, 1, 3 * NANOS)
    [line] = notes
    assert "line 4:" in line
    again = Trace(tmp_path / "trace.csv", on_malformed=notes.append)
    assert (len([*again.calls(), *again.calls()]), again.skipped) == (4, 1)
    assert BAD_ROWS[row] in line
    with pytest.raises(BudgetError, match="line 4:") as caught:
        play(tmp_path, text, "$9/day")
    assert not isinstance(caught.value, ConfigError)


def test_a_report_shows_nothing_of_a_row(tmp_path: Path) -> None:
    notes: list[str] = []
    text = "time,model,input_tokens,output_tokens\ncanary,one,1,0\n0,one,canary,0\n0,one,0,canary\n0,canary\x07,0,0\n"
    assert play(tmp_path, text, on_malformed=notes.append).skipped == 4
    assert "canary" not in "".join(notes)


def test_counts_may_be_written_as_whole_floats(tmp_path: Path) -> None:
    assert play(tmp_path, HEAD + "0,,,one,3.0,0.0,\n").spent == 3 * NANOS


def test_a_byte_that_is_not_utf8_spoils_nothing_in_a_column_that_is_not_read(tmp_path: Path) -> None:
    text = "time,model,input_tokens,output_tokens,text\n0,one,1,0,caf\udce9\n"
    assert play(tmp_path, text, on_malformed=pytest.fail).calls == 1


def test_missing_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gives model, output_tokens;.*--column model=NAME.*'time', 'input_tokens'"):
        play(tmp_path, "time,input_tokens\n")
    assert play(tmp_path, "time,input_tokens\n0,1\n", fill={"model": "one", "output_tokens": "0"}).calls == 1
    with pytest.raises(ConfigError, match="'TIMESTAMP' is not in the header"):
        play(tmp_path, HEAD, preset="azure")
    with pytest.raises(ConfigError, match="'when' is not in the header"):
        play(tmp_path, HEAD, columns={"time": "when"})
    with pytest.raises(ConfigError, match="'model' stands twice"):
        play(tmp_path, HEAD.replace("user", "model"))
    for options in ({"columns": {"tokens": "model"}}, {"fill": {"modle": "one"}}, {"preset": "gcp"}):
        with pytest.raises(ConfigError, match=r"is none of"):
            play(tmp_path, HEAD, **options)


def test_an_empty_file_is_an_error_and_one_without_rows_is_not(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="empty"):
        play(tmp_path, "\n")
    found = play(tmp_path, HEAD, "$5/day").to_dict()
    assert (found["calls"], found["calls_per_second"], found["limits"][0]["max_spent_usd"]) == (0, None, "0")


def test_a_gzip_is_told_by_its_content_and_a_cut_one_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    packed = gzip.compress((HEAD + "".join(f"{i},,,one,{i * 7919 % 997},0,\n" for i in range(2000))).encode())
    path.write_bytes(packed)
    assert len(list(Trace(path).calls())) == 2000
    path.write_bytes(packed[:-20])
    with pytest.raises(BudgetError, match="after line"):
        list(Trace(path).calls())


def test_what_is_in_order_is_streamed(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    rows = [f"{i},,,one,1,0,\n" for i in range(1000)]
    for order, first_at_hand in ((rows, True), ([*rows[1:], rows[0]], False)):
        notes: list[str] = []
        path.write_text(HEAD + "".join(order) + "bad\n")
        calls = Trace(path, on_malformed=notes.append).calls()
        assert next(calls).at == 0
        assert (not notes) == first_at_hand  # the last row has not been read yet, or all have
        assert len(list(calls)) == 999
        assert len(notes) == 1


def test_nothing_expires_in_a_long_call(tmp_path: Path) -> None:
    # An expired reservation would be booked as spent, with the 6 it reserved, when the second call ends.
    text = HEAD + "0,,,one,4,0,864000\n863000,,,one,1,0,\n864001,,,one,1,0,\n"
    found = play(tmp_path, text, "$20/lifetime", reserve="1.5")
    assert (found.admitted, found.limits[0].max_spent) == (3, 6 * NANOS)


# The scratch account.


def counters(store: Store, account: str) -> tuple[Any, ...]:
    found = store.snapshot(account)
    return found.buckets, found.names, found.seq, found.head


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fail_at", [None, 0, 3])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), BudgetError("broken")], ids=["interrupt", "error"])
def test_it_leaves_nothing_behind_and_live_pools_alone(
    store: Store, tmp_path: Path, fail_at: int | None, error: BaseException
) -> None:
    with Budget("memory://", limits=["$100/day"]) as budget:
        budget._engine.store = store  # the live account and the scratch account share a store
        budget.reconcile(budget.reserve("$40"), usd="30")
        before = counters(store, "default")
        recorder = Recorder(store, -1 if fail_at is None else fail_at, error)
        text = HEAD + "".join(f"{i},,,one,40,0,{i}\n" for i in range(9))
        if fail_at is None:
            found = play(tmp_path, text, "$100/day", store=recorder)
            assert found.admitted == 2  # not what the live pool would have had room for
            assert len(recorder.accounts) == 2
        else:
            with pytest.raises(type(error)):
                play(tmp_path, text, "$100/day", store=recorder)
        assert counters(store, "default") == before
        for account in recorder.accounts:
            assert account.startswith("replay-")
            assert counters(store, account) == ({}, {}, 0, bytes(32))


def test_a_file_holds_no_scratch_account_after_an_unknown_model(
    tmp_path: Path, sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Budget(sqlite_url) as budget:
        budget.limits.set("$1/day")
    path = tmp_path / "trace.csv"
    path.write_text(HEAD + "0,,,gpt-4o,3,0,\n1,,,gpt-99,3,0,\n")
    assert main(["replay", str(path), "--limit", "$1/day", "--store", sqlite_url], standalone_mode=False) == 1
    shown = capsys.readouterr().err
    assert "line 3: no price for model 'gpt-99'" in shown
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as db:
        names = db.execute("select name from accounts").fetchall()
        tables = ("reservations", "buckets", "pools")
        rows = [db.execute(f"select count(*) from {table}").fetchone()[0] for table in tables]
    db.close()
    assert (names, rows) == ([("default",)], [0, 0, 0])


# The command.


@pytest.mark.usefixtures("quick")
def test_the_command_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("budget.toml").write_text(
        'store = "memory://"\n[[limits]]\nlimit = "$0.01/lifetime"\n'
        '[[prices]]\nmodel = "one"\ninput = "1000000"\noutput = "0"\n'
    )
    path = tmp_path / "trace.csv"
    path.write_text("when,who,tokens\n0,ann,3\nx,ann,3\n5,bob,4\n6,ann,4\n")
    command = ["replay", str(path), "--column", "time=when", "--column", "user=who", "--column", "input_tokens=tokens",
               "--set", "model=one", "--set", "output_tokens=0", "--limit", "per=user $5/day"]  # fmt: skip
    assert main([*command, "--json"], standalone_mode=False) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    rates = [found.pop(name) for name in ("calls_per_second", "store_calls_per_second")]
    assert all(type(rate) is int for rate in rates)
    assert found == {
        "calls": 3, "admitted": 2, "refused": 1, "skipped": 1, "spent_usd": "7", "refused_usd": "4",
        "limits": [{"limit": "per=user $5/day", "refused": 1, "max_spent_usd": "4"}],
    }  # fmt: skip
    assert err == f"{path}, line 3: time: is neither like 2026-01-31T12:00:00Z nor a number; skipped\n"
    assert main(command, standalone_mode=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["calls\t3", "admitted\t2", "refused\t1"]
    assert lines[3:6] == ["spent\t$7.00", "refused spend\t$4.00", "malformed rows\t1"]
    assert lines[7:] == ["limit\trefused\tmax spent", "per=user $5/day\t1\t$4.00"]
    assert main([*command, "--strict"], standalone_mode=False) == 1
    assert main([*command, "--reserve", "2"], standalone_mode=False) == 0
    assert "refused\t3" in capsys.readouterr().out


@pytest.mark.parametrize("options", [
    ["--reserve", "0"], ["--reserve", "-1"], ["--reserve", "1e3"], ["--reserve", ""], ["--start", "soon"],
    ["--limit", "$5"], ["--set", "model"], ["--set", "model=a", "--set", "model=b"], ["--column", "=x"],
    ["--preset", "gcp"], ["--prices-at", "noon"], ["--account", "no spaces"], ["--store", "nowhere"],
])  # fmt: skip
def test_a_wrong_option_is_wrong_usage(tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(HEAD)
    assert main(["replay", str(path), "--store", "memory://", *options], standalone_mode=False) == 2
    assert capsys.readouterr().err


def test_prices_then_through_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dated = [model for model in PriceBook.shipped().models() if len(model.rows) > 1]
    model = next(model for model in dated if model.rows[0].rates.input != model.rows[-1].rates.input)
    path = tmp_path / "trace.csv"
    path.write_text(HEAD + f"1970-01-02,,,{model.id},1000,0,\n")
    spent = []
    for prices_at in ("then", "today"):
        command = ["replay", str(path), "--store", "memory://", "--json", "--prices-at", prices_at]
        assert main(command, standalone_mode=False) == 0
        spent.append(Fraction(json.loads(capsys.readouterr().out)["spent_usd"]))
    now = int(datetime.now(UTC).timestamp()) * 10**6
    assert spent == [Fraction(rates.input, 10**9) for rates in (model.rates(0), model.rates(now))]


def test_a_bar_is_shown_on_a_terminal_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from budget.cli import replay as command

    path = tmp_path / "trace.csv"
    path.write_text(HEAD)
    with command._progress(Trace(path)) as advance:
        assert advance is None
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with command._progress(Trace(path)) as advance:
        assert advance is not None
        advance(256)


def test_an_independent_walk_that_ignored_ties_would_differ() -> None:
    """The oracle can tell: the same calls, the second a little earlier, are decided otherwise."""
    both = [Recorded(START, START + 1, 6, 6, {}), Recorded(START + 1, None, 4, 4, {})]
    early = [both[0], both[1]._replace(at=START + 1 - Fraction(1, 10**7))]
    rules = [Rule(12, "usd", 86400)]
    found = [independent(calls, rules, Fraction(3, 2))[0] for calls in (both, early)]
    assert found == [[True, True], [True, False]]
