"""Imports of each format against what the source says, counted by hand, and the rules that hold for all of them."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from budget import Budget, ConfigError
from budget.cli import main
from budget.importing import FORMATS, Imported, import_files
from budget.prices import Model, PriceBook, Row
from budget.prices.rates import Card, Rates
from budget.records import CallFile
from budget.records.changes import changes_of
from budget.sinks.base import Batch
from budget.sinks.rows import lines_of
from budget.testing import Sandbox

SECRET = "the-text-of-a-prompt"
# A dollar per token of plain input, four per token of output, and so on: an example's tokens are its dollars.
RATES = {
    "input": "1000000", "output": "4000000", "cache_read": "100000", "cache_write": {"5m": "2000000", "1h": "3000000"},
}  # fmt: skip
BOOK = PriceBook([], "").overlay(dict.fromkeys(("one", "claude-x", "gpt-x"), RATES))


@pytest.fixture
def calls(tmp_path: Path) -> Iterator[CallFile]:
    with Budget(f"sqlite:///{tmp_path}/budget.db") as budget:
        yield CallFile(budget.engine.books)


def write(folder: Path, name: str, *items: Any) -> Path:
    path = folder / name
    path.write_text("".join((item if isinstance(item, str) else json.dumps(item)) + "\n" for item in items))
    return path


def take(calls: CallFile, path: Path, **options: Any) -> tuple[Imported, list[str]]:
    said: list[str] = []
    found = import_files(calls, options.pop("book", BOOK), [path], on_bad=said.append, **options)
    return found, said


def rows(calls: CallFile, *columns: str) -> list[tuple[Any, ...]]:
    """The records as they stand, in the order of their ends, names in the place of numbers."""
    named = {"user", "session", "agent", "project", "model", "provider", "run", "outcome"}
    text = '(select text from names where id = calls."{}")'
    picked = [text.format(name) if name in named else f'"{name}"' for name in columns]
    return calls.db.execute(f"select {', '.join(picked)} from calls order by at, seq desc").fetchall()


def dollars(calls: CallFile) -> list[float]:
    return [nanos / 10**9 for (nanos,) in rows(calls, "usd")]


def own(seq: int, kind: str = "call", **more: Any) -> dict[str, Any]:
    return {
        "seq": seq, "kind": kind, "account": "default", "id": f"{seq:032x}", "at": "2026-01-01T10:00:00+00:00",
        "scope": {"user": "alice", "team": "red"}, "model": "gone", "provider": "openai", "usd": "0.25",
        "input_tokens": 10, "output_tokens": 5, "cache_read_tokens": 2, "cache_write_tokens": 0,
        "usage": {"input": 8, "cache_read": 2, "output": 5}, "rates": {"input": 1}, "book": "b", "usd_expected": "0.2",
        "usd_reserved": "0.4", "estimated": False, "latency_ms": 9, "first_token_ms": 3, "outcome": "ok",
        "parent": None, **more,
    }  # fmt: skip


def claude(id: str, output: int, *, at: str = "2026-01-01T10:00:00.500Z", **more: Any) -> dict[str, Any]:
    usage = {"input_tokens": 3, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 3,
             "cache_creation": {"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 2},
             "output_tokens": output}  # fmt: skip
    message = {"id": id, "model": "claude-x", "usage": usage, "content": [{"type": "text", "text": SECRET}]}
    return {"type": "assistant", "sessionId": "s1", "uuid": f"u{id}{output}", "cwd": "/home/a/shop", "timestamp": at,
            "requestId": "r", "message": {**message, **more}}  # fmt: skip


def counted(total: list[int], last: list[int] | None = None, at: str = "2026-01-01T10:00:01Z") -> dict[str, Any]:
    names = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_output_tokens")
    info: dict[str, Any] = {"total_token_usage": dict(zip(names, total, strict=True))}
    if last is not None:
        info["last_token_usage"] = dict(zip(names, last, strict=True))
    return {"timestamp": at, "type": "event_msg", "payload": {"type": "token_count", "info": info}}


def meta(id: str, **more: Any) -> dict[str, Any]:
    return {"timestamp": "2026-01-01T10:00:00Z", "type": "session_meta",
            "payload": {"id": id, "cwd": "/home/a/shop", "instructions": SECRET, **more}}  # fmt: skip


TURN = {"timestamp": "2026-01-01T10:00:00Z", "type": "turn_context", "payload": {"model": "gpt-x"}}


def span(number: int, about: dict[str, Any], **more: Any) -> dict[str, Any]:
    attributes = [{"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
                  for key, value in about.items()]  # fmt: skip
    return {"traceId": "t", "spanId": str(number), "startTimeUnixNano": "1767261600000000000",
            "endTimeUnixNano": "1767261602500000000", "attributes": attributes, **more}  # fmt: skip


def otlp(*spans: dict[str, Any]) -> dict[str, Any]:
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": list(spans)}]}]}


def spend(id: str, **more: Any) -> dict[str, Any]:
    return {
        "request_id": id, "call_type": "acompletion", "api_key": "hash", "spend": 0.5, "total_tokens": 30,
        "prompt_tokens": 25, "completion_tokens": 5, "startTime": "2026-01-01T10:00:00.000Z",
        "endTime": "2026-01-01T10:00:02.500Z", "completionStartTime": "2026-01-01T10:00:01Z", "model": "one",
        "custom_llm_provider": "openai", "user": "service", "end_user": "alice", "team_id": "red", "session_id": "s1",
        "metadata": json.dumps({"additional_usage_values": {"cache_read_input_tokens": 20}}), "cache_hit": "False",
        "status": "success", "messages": SECRET, "response": SECRET, **more,
    }  # fmt: skip


EXAMPLES: dict[str, list[Any]] = {
    "own": [own(1), own(2)],
    "jsonl": [{"time": 1767261600000, "model": "one", "input_tokens": 1, "output_tokens": 2, "user_id": "alice"}] * 2,
    "csv": ["time,model,input_tokens,output_tokens", "2026-01-01T10:00:00Z,one,1,2", "2026-01-01T10:00:00Z,one,1,2"],
    "litellm": [spend("a"), spend("b")],
    "claude-code": [claude("a", 1), claude("b", 1)],
    "codex": [meta("s"), TURN, counted([1, 0, 1, 0]), counted([2, 0, 2, 0])],
    "otel": [otlp(span(1, {"gen_ai.request.model": "one", "gen_ai.usage.input_tokens": 1}),
                  span(2, {"gen_ai.request.model": "one", "gen_ai.usage.input_tokens": 1}))],
}  # fmt: skip


# What holds for all of them.


@pytest.mark.parametrize("name", EXAMPLES)
def test_importing_twice_adds_nothing_and_the_format_is_told_by_the_file(
    name: str, calls: CallFile, tmp_path: Path
) -> None:
    path = write(tmp_path, f"trace.{'csv' if name == 'csv' else 'jsonl'}", *EXAMPLES[name])
    first, said = take(calls, path)
    assert (first.calls, first.added, first.bad, said) == (2, 2, 0, [])
    again, _ = take(calls, path, format=None if name == "own" else name)
    assert (again.calls, again.added, again.usd) == (2, 0, first.usd)
    assert sum(dollars(calls)) * 10**9 == first.usd > 0
    assert all(seq < 0 for (seq,) in rows(calls, "seq"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_bad_is_named_by_its_line_and_no_other_is_lost(name: str, calls: CallFile, tmp_path: Path) -> None:
    torn = "1,2,3" if name == "csv" else '{"type": "assi'
    path = write(tmp_path, f"trace.{'csv' if name == 'csv' else 'jsonl'}", *EXAMPLES[name], torn)
    found, said = take(calls, path)
    assert (found.calls, found.bad, len(said)) == (2, 1, 1)
    assert f"line {len(EXAMPLES[name]) + 1}:" in said[0]
    assert said[0].endswith("not imported")


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_dry_run_reads_everything_and_adds_nothing(name: str, calls: CallFile, tmp_path: Path) -> None:
    path = write(tmp_path, f"trace.{'csv' if name == 'csv' else 'jsonl'}", *EXAMPLES[name])
    found, _ = take(calls, path, dry_run=True)
    assert (found.calls, found.added, found.to_dict()["known"]) == (2, None, None)
    assert rows(calls, "seq") == []


def test_no_text_of_a_transcript_is_kept(calls: CallFile, tmp_path: Path) -> None:
    for name in ("claude-code", "codex", "litellm"):
        take(calls, write(tmp_path, f"{name}.jsonl", *EXAMPLES[name]))
    calls.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("budget.db*"))
    assert b"shop" in kept
    assert SECRET.encode() not in kept


def test_calls_are_priced_by_the_book_of_their_day(calls: CallFile, tmp_path: Path) -> None:
    dated = [Row(day * 86_400_000_000, Rates((Card(0, usd * 10**12, 0),))) for day, usd in ((20089, 1), (20454, 2))]
    book = PriceBook([Model("dated", "own", tuple(dated))], "")
    row = {"model": "dated", "input_tokens": 1, "output_tokens": 0}
    trace = write(tmp_path, "t.jsonl", *({**row, "time": f"{day}T12:00:00Z"} for day in ("2025-12-31", "2026-01-01")))
    take(calls, trace, book=book)
    assert dollars(calls) == [1, 2]


def test_what_has_no_price_is_counted_by_model_and_comes_with_one(calls: CallFile, tmp_path: Path) -> None:
    row = {"time": 1767261600, "input_tokens": 1, "output_tokens": 0}
    path = write(tmp_path, "t.jsonl", *({**row, "model": m} for m in ("one", "new", "new")))
    found, said = take(calls, path)
    assert (found.calls, found.added, dict(found.unpriced), said) == (1, 1, {"new": 2}, [])
    found, _ = take(calls, path, book=BOOK.overlay({"new": RATES}))
    assert (found.calls, found.added, found.unpriced.total()) == (3, 2, 0)
    assert dollars(calls) == [1, 1, 1]


def test_what_a_source_says_is_taken_only_without_a_price_and_never_zero(calls: CallFile, tmp_path: Path) -> None:
    row = {"time": 1767261600, "input_tokens": 1, "output_tokens": 0}
    path = write(
        tmp_path, "t.jsonl", {**row, "model": "one", "cost_usd": 0.1}, {**row, "model": "new", "cost_usd": 2.5e-05},
        {**row, "model": "new", "cost_usd": 0},
    )  # fmt: skip
    found, _ = take(calls, path)
    assert (found.calls, found.told, dict(found.unpriced)) == (2, 1, {"new": 1})
    assert sorted(rows(calls, "usd", "estimated")) == [(25_000, 1), (10**9, 0)]


def test_equal_rows_are_as_many_calls(calls: CallFile, tmp_path: Path) -> None:
    line = "2026-01-01T10:00:00Z,one,1,0"
    path = write(tmp_path, "t.csv", "time,model,input_tokens,output_tokens", line, line)
    assert take(calls, path)[0].added == 2
    path = write(tmp_path, "t.csv", "time,model,input_tokens,output_tokens", line, line, line)
    assert take(calls, path)[0].added == 1


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_row_is_known_whatever_is_filled_in(calls: CallFile, tmp_path: Path, name: str) -> None:
    row = {"time": "2026-01-01T10:00:00Z", "model": "one", "input_tokens": "1", "output_tokens": "0", "user": ""}
    items = [",".join(row), ",".join(row.values())] if name == "t.csv" else [row]
    path = write(tmp_path, name, *items)
    assert take(calls, path)[0].added == 1
    assert take(calls, path, fill={"user": "alice"})[0].added == 0
    assert take(calls, path, fill={"user": "bob", "team": "red", "cache_read_tokens": "1"})[0].added == 0
    assert rows(calls, "user") == [(None,)]


def test_a_row_that_costs_more_than_can_be_held_is_bad_and_not_the_end(calls: CallFile, tmp_path: Path) -> None:
    lines = [f"2026-01-01T10:00:0{i}Z,one,{tokens},0" for i, tokens in enumerate(["1", str(10**11), "2"])]
    found, said = take(calls, write(tmp_path, "t.csv", "time,model,input_tokens,output_tokens", *lines))
    assert (found.added, found.bad, dollars(calls)) == (2, 1, [1.0, 2.0])
    [text] = said
    assert "line 3: costs more than $9,223,372,036.854775807, the most" in text


def test_a_store_that_keeps_no_records_is_refused(tmp_path: Path) -> None:
    with Budget("memory://") as budget, pytest.raises(ConfigError, match="keeps no records"):
        take(CallFile(budget.engine.books), write(tmp_path, "t.jsonl", *EXAMPLES["jsonl"]))


@pytest.mark.parametrize(("options", "message"), [
    ({"format": "xml"}, "none of jsonl"),
    ({"fill": {"user": "x" * 300}}, "user: the value has 300 bytes"),
    ({"columns": {"price": "x"}}, "'price' is none of"),
])  # fmt: skip
def test_wrong_arguments_are_named(options: dict[str, Any], message: str, calls: CallFile, tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", *EXAMPLES["csv"])
    with pytest.raises(ConfigError, match=message):
        take(calls, path, **options)
    assert rows(calls, "seq") == []


# The formats, one by one.


def test_a_table_of_the_article(calls: CallFile, tmp_path: Path) -> None:
    row = {
        "time": 1767261600123, "provider": "openai", "model": "one", "input_tokens": 10, "output_tokens": 2,
        "cost_usd": 0.01, "project": "shop", "agent": "support", "user_id": "alice", "session_id": "s1",
    }  # fmt: skip
    take(calls, write(tmp_path, "t.jsonl", row))
    assert rows(calls, "at", "usd", "user", "session", "agent", "project", "model", "provider", "input", "output") == [
        (1767261600123000, 18 * 10**9, "alice", "s1", "support", "shop", "one", "openai", 10, 2)
    ]


def test_columns_are_mapped_and_lacks_are_filled(calls: CallFile, tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write("when,in,out,cached,took_ms,who\n1767261600,10,1,4,1500,\n1767261601,10,1,4,,bob\n")
    columns = {"time": "when", "input_tokens": "in", "output_tokens": "out", "cache_read_tokens": "cached",
               "duration": "took_ms", "user": "who"}  # fmt: skip
    found, said = take(calls, path, columns=columns, fill={"model": "one", "user": "alice", "team": "red"})
    assert (found.calls, said) == (2, [])
    assert rows(calls, "at", "usd", "user", "latency_ms", "cache_read", "tags") == [
        (1767261601000000, 10_400_000_000, "bob", None, 4, '{"team":"red"}'),
        (1767261601500000, 10_400_000_000, "alice", 1500, 4, '{"team":"red"}'),
    ]
    with pytest.raises(ConfigError, match="no column gives model"):
        take(calls, path, columns=columns)


@pytest.mark.parametrize(("row", "why"), [
    ("now,one,1,0", "time"), ("2026-01-01,one,-1,0", "input_tokens"), ("2026-01-01,,1,0", "model: is missing"),
    ("2026-01-01,one,1,", "output_tokens: is missing"), ("12.5,one,1.5,0", "input_tokens"),
    ("2026-01-01,one,1", "3 fields"),
])  # fmt: skip
def test_what_a_table_cannot_say(row: str, why: str, calls: CallFile, tmp_path: Path) -> None:
    found, said = take(calls, write(tmp_path, "t.csv", "time,model,input_tokens,output_tokens", row))
    assert (found.calls, found.bad) == (0, 1)
    assert why in said[0]


def test_our_own_trace_keeps_what_was_booked(calls: CallFile, tmp_path: Path) -> None:
    more = own(1, "correction", usd="-0.05", input_tokens=7, usage={"input": 7}, output_tokens=0, cache_read_tokens=0)
    refused = {"seq": 9, "kind": "refused", "account": "default", "id": None, "scope": {}, "at": "2026-01-01"}
    gone = own(2, "withdrawn", id=own(2)["id"])
    found, said = take(calls, write(tmp_path, "t.jsonl", own(1), own(2), {**more, "seq": 5}, gone, refused))
    assert (found.calls, found.bad, said) == (1, 0, [])
    assert found.left_out.total() == 4
    assert rows(calls, "usd", "input", "output", "user", "expected", "reserved", "latency_ms") == [
        (200_000_000, 7, 0, "alice", 200_000_000, 400_000_000, 9)
    ]
    lost, said = take(calls, write(tmp_path, "u.jsonl", own(3, "correction")))
    assert (lost.calls, lost.bad) == (0, 1)
    assert "correction of a call" in said[0]


def test_what_the_sink_wrote_comes_in_as_it_is_here(calls: CallFile, tmp_path: Path) -> None:
    """Corrections, too: of a lease that ended, less money, fewer tokens, another outcome, or no call at all."""
    with Sandbox() as budget:
        held = [budget.reserve("$0.5", tokens=100, user=f"u{i}") for i in range(5)]
        budget.reconcile(held[0], usd="0.4", tokens=90)
        budget.clock.move("11m")
        budget.status()
        budget.reconcile(held[1], usd="0.3", tokens=50)
        budget.reconcile(held[2], {"input_tokens": 8, "cache_read_input_tokens": 2, "output_tokens": 5},
                         model="claude-sonnet-4-6")  # fmt: skip
        budget.refund(held[3])
        changed = [(entry, change) for entry, change in changes_of(budget.entries()) if change is not None]
        path = write(tmp_path, "t.jsonl", *lines_of(Batch("default", 1, changed[-1][0].seq, tuple(changed))))
        found, said = take(calls, path)
        assert (found.calls, found.bad, said) == (4, 0, [])
        query = """select id, at, usd, input, output, cache_read, cache_write, estimated, latency_ms, saved,
            (select text from names where names.id = outcome) from calls order by id"""
        ours = CallFile(budget.engine.books).open().execute(query).fetchall()
        assert calls.db.execute(query).fetchall() == ours
        assert sorted(usd for _, _, usd, *_ in ours) == [99_600, 3 * 10**8, 4 * 10**8, 5 * 10**8]


def test_a_tag_of_any_name_comes_in(calls: CallFile, tmp_path: Path) -> None:
    scope = {"user": "alice", "source": "web", "line": "1", "item": "x"}
    found, said = take(calls, write(tmp_path, "t.jsonl", own(1, scope=scope)))
    assert (found.calls, said) == (1, [])
    assert rows(calls, "user", "tags") == [("alice", '{"item":"x","line":"1","source":"web"}')]


@pytest.mark.parametrize("more", [
    {"kind": "withdrawn", "id": ["x"]}, {"kind": ["call"]}, {"kind": "recall"}, {"usd": "-1"}, {"latency_ms": 10**14},
    {"usage": {"input": "x"}, "rates": {"input": "x"}}, {"usage": {"cache_write": 5}, "rates": {"input": 5}},
    {"rates": {"input": 1.5, "cache_read": 1}},
])  # fmt: skip
def test_a_line_that_no_sink_wrote_is_bad_and_not_the_end(
    more: dict[str, Any], calls: CallFile, tmp_path: Path
) -> None:  # fmt: skip
    found, said = take(calls, write(tmp_path, "t.jsonl", own(1), own(2, **more), own(3)))
    assert (found.added, found.bad, len(said)) == (2, 1, 1)
    assert "line 2:" in said[0]


def test_what_went_through_this_engine_is_known_by_its_id(tmp_path: Path) -> None:
    with Budget(f"sqlite:///{tmp_path}/budget.db") as budget:
        held = budget.reserve("$0.25", user="alice")
        budget.reconcile(held, usd="0.25")
        calls = CallFile(budget.engine.books)
        found, _ = take(calls, write(tmp_path, "t.jsonl", own(1, id=held.id), own(2)))
        assert (found.calls, found.added) == (2, 1)
        calls.close()


def test_spend_logs_of_litellm(calls: CallFile, tmp_path: Path) -> None:
    made = [
        spend("a"), spend("b", cache_hit="True", spend=0),
        spend("c", status="failure", prompt_tokens=0, completion_tokens=0, metadata="{}"),
        spend("d", model="anthropic/claude-x", custom_llm_provider="anthropic", metadata={"usage_object": {
            "prompt_tokens_details": {"cached_tokens": 4}, "cache_creation_input_tokens": 1}}),
        spend("e", end_user=None, metadata="{}"),
        spend("f", metadata={"additional_usage_values": {"cache_read_input_tokens": 26}}),
    ]  # fmt: skip
    found, said = take(calls, write(tmp_path, "t.jsonl", *made))
    assert dict(found.left_out) == {"answers from LiteLLM's own cache": 1, "failed calls without a usage": 1}
    assert (found.calls, found.bad) == (3, 1)
    assert "prompt_tokens: 25 is below" in said[0]
    got = rows(calls, "usd", "user", "session", "model", "cache_read", "cache_write", "latency_ms", "first_token_ms")
    assert got == [
        (27_000_000_000, "alice", "s1", "one", 20, 0, 2500, 1000),
        (42_400_000_000, "alice", "s1", "claude-x", 4, 1, 2500, 1000),
        (45_000_000_000, "service", "s1", "one", 0, 0, 2500, 1000),
    ]


def test_spend_logs_as_csv_and_as_one_document(calls: CallFile, tmp_path: Path) -> None:
    path = tmp_path / "logs.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, spend("a"))
        writer.writeheader()
        writer.writerows([spend("a"), spend("b")])
    assert take(calls, path)[0].added == 2
    (whole := tmp_path / "logs.json").write_text(json.dumps([spend("b"), spend("c")], indent=2))
    assert (take(calls, whole)[0].added, sum(dollars(calls))) == (1, 3 * 27)


def test_an_answer_of_claude_code_counts_once_with_all_its_output(calls: CallFile, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"type": "summary", "summary": SECRET, "leafUuid": "x"},
        {"type": "user", "sessionId": "s1", "message": {"role": "user", "content": SECRET}},
        claude("a", 1), claude("a", 1), claude("a", 7), claude("b", 2, at="2026-01-01T11:00:00Z"),
        claude("c", 0, model="<synthetic>"),
    ]  # fmt: skip
    folder = tmp_path / "projects" / "-home-a-shop"
    folder.mkdir(parents=True)
    write(folder, "s1.jsonl", *lines)
    write(folder, "s2.jsonl", *({**line, "sessionId": "s2"} for line in lines[2:]))  # resumed: it repeats the first
    found, _ = take(calls, tmp_path / "projects")
    assert (found.files, found.calls, found.added, dict(found.left_out)) == (
        2, 4, 2, {"messages of Claude Code itself": 2},
    )  # fmt: skip
    # 3 fresh, 20 read at a tenth, 1 written for 5 minutes, 2 for an hour, 7 of output
    assert rows(calls, "usd", "session", "agent", "project", "input", "output", "cache_write") == [
        ((3 + 2 + 2 + 6 + 28) * 10**9, "s1", "claude-code", "shop", 26, 7, 3),
        ((3 + 2 + 2 + 6 + 8) * 10**9, "s1", "claude-code", "shop", 26, 2, 3),
    ]


def test_a_session_of_codex_counts_what_its_totals_grew(calls: CallFile, tmp_path: Path) -> None:
    lines = [
        meta("s1"), {"timestamp": "x", "type": "event_msg", "payload": {"type": "token_count", "info": None}},
        TURN, {"timestamp": "x", "type": "response_item", "payload": {"type": "message", "content": SECRET}},
        counted([100, 40, 10, 4], [100, 40, 10, 4]), counted([100, 40, 10, 4], [100, 40, 10, 4]),  # shown again
        counted([250, 140, 30, 4], [150, 100, 20, 0]), counted([20, 0, 5, 0], [20, 0, 5, 0]),  # the totals began anew
    ]  # fmt: skip
    found, said = take(calls, write(tmp_path, "rollout-1.jsonl", *lines))
    assert (found.calls, found.added, said) == (3, 3, [])
    assert sorted(rows(calls, "input", "cache_read", "output", "usd", "session", "provider")) == [
        (20, 0, 5, 40 * 10**9, "s1", "openai"), (100, 40, 10, 104 * 10**9, "s1", "openai"),
        (150, 100, 20, 140 * 10**9, "s1", "openai"),
    ]  # fmt: skip


def test_a_fork_of_codex_does_not_count_what_it_repeats(calls: CallFile, tmp_path: Path) -> None:
    parent = [counted([100, 40, 10, 4]), counted([250, 140, 30, 4])]
    later = [{**line, "timestamp": "2026-01-02T10:00:00Z"} for line in parent]
    write(tmp_path, "rollout-1.jsonl", meta("s1"), TURN, *parent)
    fork, fork_of_fork = meta("s2", forked_from_id="s1"), meta("s3", forked_from_id="s2")
    write(tmp_path, "rollout-2.jsonl", fork, meta("s1"), TURN, *later, counted([260, 140, 31, 4]))
    write(tmp_path, "rollout-3.jsonl", fork_of_fork, fork, TURN, *later)
    write(tmp_path, "other.jsonl", meta("s9"), TURN, *parent)
    found, _ = take(calls, tmp_path, format="codex")
    assert (found.files, found.calls, found.added) == (3, 7, 3)
    assert [session for (session,) in rows(calls, "session")] == ["s1", "s1", "s2"]
    assert take(calls, tmp_path / "other.jsonl")[0].added == 2  # a session of its own


@pytest.mark.parametrize("names", [
    ("gen_ai.provider.name", "gen_ai.response.model", "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens",
     "gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_creation.input_tokens"),
    ("gen_ai.system", "gen_ai.request.model", "gen_ai.usage.prompt_tokens", "gen_ai.usage.completion_tokens",
     "gen_ai.usage.cache_read_input_tokens", "gen_ai.usage.cache_creation_input_tokens"),
])  # fmt: skip
def test_spans_of_the_present_conventions_and_the_older_ones(
    names: tuple[str, ...], calls: CallFile, tmp_path: Path
) -> None:
    about: dict[str, Any] = dict(zip(names, ("anthropic", "claude-x", 30, 5, 20, 4), strict=True))
    about |= {"gen_ai.conversation.id": "s1", "gen_ai.agent.name": "support", "user.id": "alice"}
    about["gen_ai.prompt"] = SECRET
    (path := tmp_path / "spans.json").write_text(json.dumps(otlp(span(1, about)), indent=1))
    take(calls, path)
    assert rows(calls, "at", "usd", "user", "session", "agent", "project", "input", "cache_write", "latency_ms") == [
        (1767261602500000, (6 + 2 + 8 + 20) * 10**9, "alice", "s1", "support", "shop", 30, 4, 2500)
    ]


def test_a_span_around_calls_is_none_and_an_answer_counts_once(calls: CallFile, tmp_path: Path) -> None:
    chat = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "one", "gen_ai.usage.input_tokens": 5}
    spans = [
        span(1, {**chat, "gen_ai.operation.name": "invoke_agent"}), span(2, {**chat, "gen_ai.response.id": "resp"}),
        span(3, {**chat, "gen_ai.response.id": "resp"}), span(4, chat), span(5, {"http.method": "GET"}),
        span(6, {"gen_ai.operation.name": "chat", "gen_ai.request.model": "one"}),
    ]  # fmt: skip
    found, _ = take(calls, write(tmp_path, "spans.jsonl", otlp(*spans)))
    assert (found.calls, found.added, found.left_out.total()) == (3, 2, 2)


# The command.


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"time": "2026-01-01T10:00:00Z", "input_tokens": 1000, "output_tokens": 10, "model": "gpt-4o"}
    path = write(tmp_path, "t.jsonl", row, {**row, "model": "nobody's"}, {**row, "input_tokens": -1})
    store = f"--store=sqlite:///{tmp_path}/budget.db"
    given = ["import", str(path), store, "--set", "user=alice"]
    assert main([*given, "--json"], standalone_mode=False) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["files"], found["calls"], found["added"], found["known"], found["bad"]) == (1, 1, 1, 0, 1)
    assert (found["unpriced"], found["usd"]) == ({"nobody's": 1}, "0.0026")
    assert "line 3: input_tokens" in err
    assert main([*given, "--dry-run"], standalone_mode=False) == 0
    out = capsys.readouterr().out
    assert "nothing (dry run)" in out
    assert "nobody's" in out
    assert main(["report", "--by", "user", "--json", store], standalone_mode=False) == 0
    assert [(row["by"], row["calls"]) for row in json.loads(capsys.readouterr().out)] == [("alice", 1)]


@pytest.mark.parametrize(("name", "options", "message"), [
    ("litellm", {"fill": {"model": "one"}}, "--set model=: means nothing"),
    ("claude-code", {"columns": {"time": "when"}}, "--column: means nothing"),
    ("jsonl", {"columns": {"price": "x"}}, "'price' is none of"),
])  # fmt: skip
def test_an_option_that_a_format_has_no_use_for_is_refused(
    name: str, options: dict[str, Any], message: str, calls: CallFile, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        take(calls, write(tmp_path, "t.jsonl", *EXAMPLES[name]), **options)


@pytest.mark.parametrize("more", [
    {"model": "caf\udce9"}, {"model": "x" * 300}, {"time": "1e999999999"}, {"time": True}, {"cost_usd": "1e"},
    {"cost_usd": "NaN"}, {"input_tokens": True}, {"input_tokens": 1.5}, {"user": ["ann"]}, {"user": "a\nb"},
    {"duration": -1}, {"duration": 10**12}, {"cache_read_tokens": 9},
])  # fmt: skip
def test_what_is_no_value_is_bad_and_not_the_end(more: dict[str, Any], calls: CallFile, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    row = {"time": 1767261600, "model": "one", "input_tokens": 1, "output_tokens": 0}
    lines = "\n".join(json.dumps(each, ensure_ascii=False) for each in (row, {**row, **more}))
    path.write_bytes(lines.encode("utf-8", "surrogateescape"))
    found, said = take(calls, path)
    assert (found.added, found.bad, len(said)) == (1, 1, 1)
    assert "line 2:" in said[0]


def test_every_format_is_offered() -> None:
    assert set(EXAMPLES) - {"own"} == set(FORMATS)
