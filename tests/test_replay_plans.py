"""Replays of the own records, under other prices, models, caches and policies, against what is worked out by hand."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from budget import Budget, ConfigError
from budget.cli import main
from budget.prices import PriceBook
from budget.records import CallFile, Record
from budget.replay import Pricing, Recorded, Scratch, Trace, compare, read_time, replay
from budget.replay.result import Curve
from budget.stores.base import open_store

NANOS = 10**9
BOOK = PriceBook([], "").overlay({
    "one": {"input": "1000000", "output": "0"},
    "half": {"input": "500000", "output": "0"},
    "cached": {"input": "1000000", "output": "0", "cache_read": "100000", "cache_write": {"5m": "2000000"}},
})  # fmt: skip
START = 1767225600 * 10**6  # 2026-01-01
HEAD = "time,user,session,model,input_tokens,output_tokens,cache_read_tokens,cache_write_tokens,duration\n"


def trace(folder: Path, *rows: str) -> Trace:
    path = folder / "trace.csv"
    path.write_text(HEAD + "".join(row + "\n" for row in rows))
    return Trace(path, start=read_time("2026-01-01"))


def record(number: int, at: int, dollars: int, **more: Any) -> Record:
    """A call that ended `at` seconds after the start; of `more`, what is no field is an attribute."""
    fields = {"model": "one", "provider": None, "latency_ms": None, **more}
    own = {name: fields.pop(name) for name in list(fields) if name in Record.__slots__}
    tokens = {"input_tokens": dollars, "output_tokens": 0, "cache_read_tokens": 0, "cache_write_tokens": 0}
    rest = {"usage": {"input": dollars}, "rates": None, "book": None, "expected": None, "reserved": None,
            "estimated": False, "first_token_ms": None, "outcome": "ok", "parent": None}  # fmt: skip
    return Record(**{**rest, **tokens, "id": f"{number:032x}", "seq": 0, "at_us": START + at * 10**6, "scope": fields,
                     "nanos": dollars * NANOS, **own})  # fmt: skip


@pytest.fixture
def records(tmp_path: Path) -> Any:
    with Budget(f"sqlite:///{tmp_path}/budget.db") as budget:
        yield CallFile(budget.engine.books)


# The own records.


def test_the_ledger_and_what_was_imported_are_replayed_as_booked(tmp_path: Path) -> None:
    with Budget(f"sqlite:///{tmp_path}/budget.db") as budget:
        for user, usd in (("ann", "4"), ("bob", "3"), ("ann", "2")):
            held = budget.reserve("$9", user=user, team="red")
            budget.reconcile(held, usd=usd)
        budget.refund(budget.reserve("$9", user="ann"))
        file = CallFile(budget.engine.books)
        file.catch_up()
        file.put([record(1, 0, 1, user="ann", team="red", model="nobody's")])
        limits = ["per=user $5/lifetime", "team=red $9/lifetime"]
        found = replay(Scratch(), Recorded(file), limits, PriceBook([], ""), priced_at=0)
        assert Recorded(file).rows == 4
        file.close()
    # 1 and 4 of ann, 3 of bob; then 2 more are above 5 of ann and above 9 of the team
    assert (found.calls, found.admitted, found.spent, found.refused_cost) == (4, 3, 8 * NANOS, 2 * NANOS)
    assert [limit.refused for limit in found.limits] == [1, 1]


def test_records_are_replayed_in_the_order_in_which_calls_began(records: CallFile) -> None:
    records.put([record(1, 10, 6, latency_ms=10_000, user="long"), record(2, 5, 5, user="short"),
                 record(3, 11, 4, user="last")])  # fmt: skip
    calls = list(Recorded(records).calls())
    assert [call.who[0] for call in calls] == ["long", "short", "last"]
    assert [(call.end - call.at) // 10**6 for call in calls if call.end is not None] == [10_000, 0, 0]
    found = replay(Scratch(), Recorded(records), ["1 concurrent"], BOOK)
    assert (found.admitted, found.spent) == (2, 10 * NANOS)
    late = Recorded(records, START + 10 * 10**6)
    assert (late.rows, [call.who[0] for call in late.calls()]) == (2, ["long", "last"])


def test_a_run_is_the_records_own_or_its_session(records: CallFile) -> None:
    records.put([record(1, 1, 3, run="r", session="s"), record(2, 2, 3, run="r", session="t"),
                 record(3, 3, 3, session="u"), record(4, 4, 3, session="u")])  # fmt: skip
    assert replay(Scratch(), Recorded(records), ["$5/run"], BOOK).admitted == 2


def test_other_prices_for_the_ledger_and_models_that_have_none(records: CallFile) -> None:
    records.put([record(1, 1, 8), record(2, 2, 4, model="gone"), record(3, 3, 2, model="gone")])
    dearer, noted = PriceBook([], "").overlay({"one": {"input": "3000000", "output": "0"}}), list[str]()
    pricing, before = Pricing(dearer, on_unpriced=noted.append), Pricing(BOOK, booked=True)
    found = compare(Scratch(), Recorded(records), {"a": ["$25/day"]}, pricing, before=before).policies["a"]
    assert (found.spent, found.refused_cost, found.before) == (24 * NANOS, 6 * NANOS, 14 * NANOS)
    assert noted == ["gone"]
    shown = found.to_dict()
    assert (shown["all_usd"], shown["all_usd_before"]) == ("30", "14")


def test_another_model_changes_its_own_calls_alone(records: CallFile) -> None:
    records.put([record(1, 1, 8, user="ann"), record(2, 2, 4, model="other")])
    pricing = Pricing(BOOK, booked=True, models={"one": "half"})
    found = compare(Scratch(), Recorded(records), {"a": ["model=half $9/day"]}, pricing).policies["a"]
    assert (found.spent, found.limits[0].max_spent) == (8 * NANOS, 4 * NANOS)
    with pytest.raises(ConfigError, match="--model-map"):
        Pricing(BOOK, models={"one": "nothing"})


SNAPSHOT, MINI = "gpt-4.1-mini-2025-04-14", "gpt-4.1-mini"


@pytest.mark.parametrize("booked", [True, False])
@pytest.mark.parametrize("name", [SNAPSHOT, MINI])
def test_a_limit_of_a_model_is_one_of_its_snapshots(records: CallFile, name: str, booked: bool) -> None:
    records.put([record(1, 1, 10**6, model=SNAPSHOT, provider="openai"), record(2, 2, 10**6, model=SNAPSHOT),
                 record(3, 3, 10**6, model=MINI), record(4, 4, 10**6, model="gpt-4o")])  # fmt: skip
    limits = [f"model={name} 2 requests/day"]
    found = compare(Scratch(), Recorded(records), {"a": limits}, Pricing(PriceBook.shipped(), booked=booked))
    played = found.policies["a"]
    assert (played.admitted, played.limits[0].refused, played.limits[0].text) == (3, 1, limits[0])
    twins = [f"model={each} 3 requests/day" for each in (SNAPSHOT, MINI)]
    with pytest.raises(ConfigError, match="are one limit"):
        replay(Scratch(), Recorded(records), twins, PriceBook.shipped())


@pytest.mark.parametrize("name", [SNAPSHOT, MINI])
def test_another_model_takes_the_place_of_all_its_snapshots(records: CallFile, name: str) -> None:
    records.put([record(1, 1, 10**6, model=SNAPSHOT), record(2, 2, 10**6, model=MINI), record(3, 3, 7, model="other")])
    pricing = Pricing(PriceBook.shipped(), booked=True, models={name: "gpt-4.1"})
    found = compare(Scratch(), Recorded(records), {"a": ["model=gpt-4.1 9 requests/day"]}, pricing).policies["a"]
    assert found.spent == (2 + 2 + 7) * NANOS  # $2 for a million tokens


@pytest.mark.parametrize("cache", [None, "none", "full"])
def test_what_nobody_counted_costs_what_was_booked_under_every_plan(records: CallFile, cache: str | None) -> None:
    """A call by hand, an image, a lease that ended: money without tokens, which no price makes anew."""
    none = {"usage": None, "input_tokens": 0, "estimated": True}
    records.put([record(1, 1, 8, **none), record(2, 2, 4, **none, model="other"), record(3, 3, 2)])
    for models in ({}, {"one": "half"}):
        pricing = Pricing(BOOK, models=models, cache=cache)
        found = compare(Scratch(), Recorded(records), {"a": ["$9/day"]}, pricing).policies["a"]
        assert found.spent + found.refused_cost == (8 + 4 + (1 if models else 2)) * NANOS
        assert found.limits[0].max_spent in (8 * NANOS, 9 * NANOS)


# Caches.


@pytest.mark.parametrize(("cache", "dollars"), [
    (None, [10 + 20 * 2, 5 + 2, 100, 50, 7]),  # as it was: the first wrote 20, the second read 20
    ("none", [30, 25, 100, 50, 7]),
    # The first writes all of it; the second reads all of its 25, and the third comes too late and writes its 100; the
    # fourth is another user's session; the last has no session, so that nobody knows what was sent before.
    ("full", [30 * 2, 25 // 10 + 0.5, 200, 100, 7]),
])  # fmt: skip
def test_caching_otherwise(cache: str | None, dollars: list[float], tmp_path: Path) -> None:
    calls = trace(
        tmp_path, "0,,s,cached,30,0,0,20,1", "200,,s,cached,25,0,20,0,1", "502,,s,cached,100,0,0,0,1",
        "503,,t,cached,50,0,0,0,1", "504,,,cached,7,0,0,0,1",
    )  # fmt: skip
    pricing = Pricing(BOOK, cache=cache)
    got = [pricing.amounts(call, pricing.known(call), 0) for call in calls.calls()]
    assert [amounts[0] / NANOS for amounts in got if amounts[0] is not None] == dollars
    assert [amounts[2] for amounts in got] == [30, 25, 100, 50, 7]  # what was sent stays what it was


def test_full_caching_reads_what_the_call_before_had_sent(tmp_path: Path) -> None:
    calls = trace(tmp_path, "0,,s,cached,10,0,0,0,", "100,,s,cached,30,0,0,0,", "400,,s,cached,20,0,0,0,")
    pricing = Pricing(BOOK, cache="full")
    got = [pricing.amounts(call, pricing.known(call), 0)[0] for call in calls.calls()]
    assert got == [20 * NANOS, (1 + 40) * NANOS, 2 * NANOS]


# Policies.


def rows(count: int) -> list[str]:
    chance = random.Random(7)
    return [
        f"{i * 17 % 977 + i},u{chance.randrange(4)},s{chance.randrange(9)},one,{chance.randrange(9)},0,0,0,"
        f"{chance.choice(['', '0', '45', '600'])}"
        for i in range(count)
    ]


LIMITS = ["$60/minute", "per=user $200/hour", "per=session $50/5m rolling", "9 concurrent", "$25/run", "$7/request"]


def test_policies_side_by_side_are_each_as_alone_and_as_on_any_store(tmp_path: Path) -> None:
    lists: dict[str, Sequence[str]] = {"all": LIMITS, "none": [], **{limit: [limit] for limit in LIMITS}}
    calls = trace(tmp_path, *rows(300))
    found = compare(Scratch(), calls, lists, Pricing(BOOK, at=0))
    together = found.policies
    assert found.curve.all()[-1][1] == together["none"].spent
    assert all(played.curve.all()[-1][1] == played.spent for played in together.values())
    for name, limits in lists.items():
        alone = replay(open_store("memory://"), calls, limits, BOOK, priced_at=0).to_dict()
        here = together[name].to_dict()
        for speed in ("calls_per_second", "store_calls_per_second"):
            alone.pop(speed), here.pop(speed)
        assert here == alone
    assert 0 < together["all"].admitted < together["$60/minute"].admitted < together["none"].admitted == 300


def test_the_scratch_store_holds_what_is_open_and_no_more(tmp_path: Path) -> None:
    store, most = Scratch(), [0, 0]

    def look(_: int) -> None:
        (state,) = store._states.values()
        most[0] = max(most[0], len(state.reservations))
        most[1] = max(most[1], *(len(buckets) for buckets in state.pools.values()))
        assert not state.ledger
        assert not state.leases

    calls = trace(tmp_path, *(f"{i * 10},u{i % 3},,one,1,0,0,0,{i % 200}" for i in range(3000)))
    found = replay(store, calls, ["$1000/minute", "per=user $100/hour"], BOOK, on_progress=look)
    assert (found.calls, found.refused > 0) == (3000, True)
    assert 0 < most[0] <= 20
    assert most[1] <= 5
    assert not store._states


def test_a_curve_keeps_its_ends_and_a_bounded_number_of_points() -> None:
    curve = Curve()
    for i in range(100_000):
        curve.add(i, i * 2)
    points = curve.all()
    assert len(points) <= 1026
    assert (points[0], points[-1]) == ((0, 0), (99_999, 199_998))
    assert all(total == at * 2 for at, total in points)
    assert points == sorted(points)


# The command.


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    try:
        got = main(["replay", *words, "--json"], standalone_mode=False)
    finally:
        out = capsys.readouterr().out
    assert got == code, out
    return json.loads(out)


@pytest.fixture
def priced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("budget.toml").write_text('[[prices]]\nmodel = "one"\ninput = "1000000"\noutput = "0"\n')
    return tmp_path


def test_several_policies_through_the_command(priced: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace(priced, *(f"{i},u{i % 2},,one,2,0,0,0," for i in range(6)))
    Path("a.toml").write_text('[[limits]]\nlimit = "$5/day"\nper = "user"\n[[limits]]\nlimit = "$9/day"\n')
    Path("b.toml").write_text('[[limits]]\nlimit = "$3/day"\nmode = "shadow"\n')
    found = run(capsys, "trace.csv", "--policy", "a.toml", "--policy", "b.toml", "--limit", "$3/day", "--plot", "x.svg")
    assert (found["calls"], found["skipped"]) == (6, 0)
    names = ("policy", "admitted", "refused", "spent_usd", "refused_usd")
    got = [tuple(policy[name] for name in names) for policy in found["policies"]]
    assert got == [("--limit", 1, 5, "2", "10"), ("a.toml", 4, 2, "8", "4"), ("b.toml", 6, 0, "12", "0")]
    assert [limit["limit"] for limit in found["policies"][1]["limits"]] == ["per=user $5/day", "$9/day"]
    for taken in ("x.svg", "no/such.svg"):
        assert "plot" in run(capsys, "trace.csv", "--limit", "$3/day", "--plot", taken, code=2)["message"]
    drawn = ElementTree.parse("x.svg").getroot()
    assert {"without limits", "--limit", "a.toml", "b.toml"} <= {e.text for e in drawn.iter()}
    assert len([e for e in drawn.iter() if e.tag.endswith("polyline")]) == 4
    assert run(capsys, "trace.csv", "--policy", "a.toml")["admitted"] == 4
    assert main(["replay", "trace.csv", "--policy", "a.toml", "--policy", "b.toml"], standalone_mode=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["a.toml\t4\t2\t$8.00\t$4.00", "b.toml\t6\t0\t$12.00\t$0.00"]


def test_the_ledger_through_the_command(priced: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = f"sqlite:///{priced}/budget.db"
    with Budget(store) as budget:
        for usd in ("4", "3"):
            budget.reconcile(budget.reserve("$9", user="ann", model="one"), usd=usd)
    found = run(capsys, "--ledger", "--since", "1h", "--limit", "per=user $5/day", "--store", store)
    assert (found["calls"], found["admitted"], found["spent_usd"], found["refused_usd"]) == (2, 1, "4", "3")
    assert "all_usd" not in found
    with Budget(store) as budget:
        assert budget.engine.store.snapshot("default").names == {}  # no live pool was made


def test_another_plan_through_the_command(priced: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace(priced, "0,,s,one,10,0,4,0,", "1,,s,one,20,0,0,0,")
    Path("cheap.toml").write_text('schema = 1\n[[models]]\nid = "one"\nlower = true\ninput = "100000"\noutput = "0"\n')
    found = run(capsys, "trace.csv", "--cache", "none")
    assert (found["all_usd_before"], found["all_usd"], found["spent_usd"]) == ("30", "30", "30")
    cheap = run(capsys, "trace.csv", "--model-map", "one=gpt-4o-mini")
    assert cheap["all_usd_before"] == "30"
    assert 0 < float(cheap["all_usd"]) < 0.1
    assert main(["replay", "trace.csv", "--model-map", "one=gpt-4o-mini"], standalone_mode=False) == 0
    assert "all calls, as they were\t$30.00" in capsys.readouterr().out


def test_a_model_in_whose_place_nothing_came_is_said(priced: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace(priced, "0,,s,one,10,0,0,0,", "1,,s,gpt-4o-2024-08-06,20,0,0,0,")
    words = ["--model-map", "one=gpt-4o-mini", "--model-map", "won=gpt-4o-mini", "--model-map", "gpt-4o=gpt-4o-mini"]
    assert main(["replay", "trace.csv", *words], standalone_mode=False) == 0
    assert capsys.readouterr().err.splitlines() == ["--model-map: no call has the model 'won'"]


@pytest.mark.parametrize("words", [
    [], ["trace.csv", "--ledger"], ["trace.csv", "--since", "3d"], ["--ledger", "--start", "2026-01-01"],
    ["--ledger", "--column", "a=b"], ["trace.csv", "--prices-at", "booked"], ["--ledger", "--since", "soon"],
    ["--ledger", "--prices-at", "booked", "--cache", "none"], ["trace.csv", "--model-map", "one"],
    ["trace.csv", "--model-map", "one=nothing"], ["trace.csv", "--policy", "budget.toml"],
    ["trace.csv", "--policy", "trace.csv"], ["trace.csv", "--cache", "some"],
])  # fmt: skip
def test_what_does_not_go_together_is_wrong_usage(
    words: list[str], priced: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace(priced, "0,,,one,1,0,0,0,")
    store = ["--store", f"sqlite:///{priced}/budget.db"] if "--ledger" in words else []
    assert main(["replay", *words, *store], standalone_mode=False) == 2
    assert capsys.readouterr().err
