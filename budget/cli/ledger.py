"""The ledger: look at it, export it, prove it, put the counters right, keep it small."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from budget.cli.common import Commands, Common, attributes_of, common, interruption
from budget.cli.output import Column, amount, csv_cell, note, print_json, say, scope_text, table
from budget.errors import ConfigError
from budget.ledger import Entry
from budget.limits import name_model

if TYPE_CHECKING:
    from budget.audit import Audit
    from budget.books.books import Books
    from budget.engine import Budget

_COLUMNS = ("seq", "at", "kind", "reservation", "usd", "tokens", "input_tokens", "output_tokens", "requests", "model")


@contextmanager
def opened(common: Common) -> Iterator[tuple[Budget, Books]]:
    """Open the engine and its books."""
    with common.open() as budget:
        yield budget, budget.engine.books


@click.group("ledger", cls=Commands, default="tail")
def ledger() -> None:
    """Read the ledger, prove that the books balance, put them right, keep them small.

    \b
    Example:
      budget ledger tail -n 5
      budget ledger verify
    """


@ledger.command("tail")
@click.argument("words", nargs=-1, metavar="[attr=value ...]")
@click.option("-n", "count", type=click.IntRange(1), default=20, show_default=True, help="How many entries.")
@common
def tail(common: Common, words: tuple[str, ...], count: int) -> None:
    """Show the last entries, the oldest first, or the last of calls with some attributes.

    \b
    Example:
      budget ledger tail -n 5 user=alice
    """
    wanted = attributes_of(words)
    with opened(common) as (budget, books):
        found = books.last(name_model(budget.settings.book, wanted), count)
    if common.json:
        print_json([entry.to_dict() for entry in found])
        return
    columns = [
        Column("entry", True), Column("at", drop=1), Column("kind"), Column("cost", True), Column("scope", shrink=True),
        Column("about", shrink=True), Column("reservation", shrink=True, drop=2),
    ]  # fmt: skip
    table(columns, [(str(e.seq), e.at.strftime("%Y-%m-%d %H:%M:%S"), e.kind, amount(e.usd), scope_text(e.scope) or "-",
                     _about(e), e.reservation or "-") for e in found])  # fmt: skip


@ledger.command("export")
@click.argument("words", nargs=-1, metavar="[attr=value ...]")
@click.option("--since", metavar="7d", help="How far back: 7d, 12h, 30m. Default: everything.")
@click.option("--format", "kind", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
@click.option("-o", "--output", metavar="FILE", help="Where to; it must not exist. Default: stdout.")
@common
def export(common: Common, words: tuple[str, ...], since: str | None, kind: str, output: str | None) -> None:
    """Write the entries, one a line, the oldest first: as JSON, or as CSV in which no cell is a formula.

    A file has its name once it is whole. With --json and no file, stdout is one document with all entries.

    \b
    Example:
      budget ledger export --since 30d --format csv -o november.csv user=alice
    """
    wanted = attributes_of(words)
    as_document = common.json and output is None
    if as_document and kind == "csv":
        raise ConfigError("--json and --format csv: choose one, or name a file with -o")
    with opened(common) as (budget, _):
        found = budget.entries(since=since, **wanted)
        if as_document:
            print_json({"ledger": [entry.to_dict() for entry in found]})
            return
        with _target(output) as stream:
            count = _write_csv(stream, found) if kind == "csv" else _write_lines(stream, found)
    if output is not None:
        print_json({"entries": count, "file": output}) if common.json else say(f"exported: {count} entries to {output}")


@contextmanager
def _target(output: str | None) -> Iterator[IO[str]]:
    """Give the stream to write to: of a file that has its name only once it is whole, and replaces none."""
    if output is None:
        yield sys.stdout
        return
    if os.path.lexists(output):
        raise ConfigError(f"output: {output!r} exists; name another file")
    target = Path(output)
    if not target.parent.is_dir():
        raise ConfigError(f"output: the folder {str(target.parent)!r} does not exist")
    part = target.with_name(f"{target.name}.{os.getpid()}.part")  # not that of an export at the same time
    try:
        with part.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        os.link(part, target)  # unlike a renaming, it never replaces what somebody put there meanwhile
    except FileExistsError:
        raise ConfigError(f"output: {output!r} exists by now; name another file") from None
    finally:
        part.unlink(missing_ok=True)


def _write_lines(stream: IO[str], entries: Iterable[Entry]) -> int:
    count = 0
    for count, entry in enumerate(entries, 1):  # noqa: B007
        stream.write(json.dumps(entry.to_dict(), ensure_ascii=True, allow_nan=False) + "\n")
    return count


def _write_csv(stream: IO[str], entries: Iterable[Entry]) -> int:
    writer, count = csv.writer(stream), 0
    writer.writerow([*_COLUMNS, "scope", "detail", "digest"])
    for count, entry in enumerate(entries, 1):  # noqa: B007
        row = {**entry.to_dict(), "model": entry.model}
        texts = [json.dumps(row["scope"], ensure_ascii=True), json.dumps(row["detail"], ensure_ascii=True)]
        writer.writerow([csv_cell(row[name]) for name in _COLUMNS] + [*map(csv_cell, texts), row["digest"]])
    return count


@ledger.command("verify")
@common
def verify(common: Common) -> int:
    """Prove that no entry is missing or changed and that the entries sum to what the pools say; exit code 1 if not.

    \b
    Example:
      budget ledger verify --json
    """
    with opened(common) as (_, books):
        found = books.verify()
    return _show_audit(common, found)


def _show_audit(common: Common, found: Audit, more: Mapping[str, Any] | None = None) -> int:
    if common.json:
        print_json({**(more or {}), "ok": found.ok, "entries": found.entries, "since": found.since,
                    "partial": found.partial, "faults": found.faults, "saturated": found.saturated})  # fmt: skip
        return 0 if found.ok else 1
    say(f"{'ok' if found.ok else 'FAULT'}: {found.entries} entries")
    if found.partial:
        note(f"the entries before {found.since} are not here: the chain is proved from there, sums are not compared; "
             "name the records store that they were drained to")  # fmt: skip
    elif found.since > 1:
        note(f"the entries before {found.since} were pruned: the checkpoint stands for them")
    for fault in found.faults:
        say(f"fault: {fault}")
    for pool in found.saturated:
        say(f"saturated: {pool}")
    return 0 if found.ok else 1


@ledger.command("rebuild")
@click.option("--reason", metavar="TEXT", help="Why, for the ledger.")
@common
def rebuild(common: Common, reason: str | None) -> int:
    """Set every counter to what the ledger says it is. After a server lost writes: restore what was drained before.

    \b
    Example:
      budget ledger rebuild
    """
    from budget.admin import actor
    from budget.books.recovery import recover

    with opened(common) as (budget, books):
        restored = recover(books, actor(reason), budget.settings.limits)
        done = books.rebuild(budget.settings.limits)
    told = {} if restored is None else restored._asdict()
    if not common.json:
        if restored is not None:
            say(f"lost: {restored.lost} entries; restored: {restored.restored}; seen, and nowhere: {restored.gone}")
        if restored is not None and restored.policy:
            say(f"changes of limits and freezes among them, to be made again: {restored.policy}")
        say(f"set: {len(done.changed)} counters")
    return _show_audit(common, done.audit, {"changed": len(done.changed), **told})


@ledger.command("prune")
@click.option("--before", required=True, metavar="90d", help="How old: 90d; or a day, 2026-01-31 (UTC).")
@click.option("--reason", metavar="TEXT", help="Why, for the ledger.")
@common
def prune(common: Common, before: str, reason: str | None) -> int:
    """Sum old entries into one that stands for them, and drop windows that are long over. What is left stays provable.

    Reports keep what was spent: the file of calls beside the store is brought up to date first.

    \b
    Example:
      budget ledger prune --before 90d --reason retention
    """
    from budget.admin import actor
    from budget.books.pruning import prune as prune_books
    from budget.records import CallFile
    from budget.sinks.places import Places, beside

    with opened(common) as (_, books):
        now = time.time_ns() // 1000
        with closing(CallFile(books)) as calls:
            if calls.path is not None:
                calls.catch_up()  # afterwards nobody could tell whose the spend was
        done = prune_books(books, _before(before, now), now, actor(reason))
        places = Places(beside(books, "-sinks")).known(books.account)
    if not done.audit.ok:
        return _show_audit(common, done.audit)
    for name, place in places.items():
        if place.seq < done.upto:
            note(f"sink {name} had been told up to entry {place.seq} alone; what was pruned after it, it misses")
    if common.json:
        print_json({"entries": done.entries, "windows": done.windows, "upto": done.upto})
    else:
        say(f"pruned: {done.entries} entries, {done.windows} windows; the ledger begins after entry {done.upto}")
    return 0


def _before(text: str, now: int) -> int:
    from budget.config import duration_us

    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        return now - duration_us(text, "before")
    return min(now, int(day.timestamp()) * 1_000_000)


@click.command("drain")
@click.option("--follow", is_flag=True, help="Go on until interrupted.")
@common
def drain(common: Common, follow: bool) -> None:
    """Read a server's ledger into the records store, each entry once; then drop it from the server.

    \b
    Example:
      budget drain --follow --store redis://cache:6379/0
    """
    from budget.books.drainer import EVERY
    from budget.config import default_records
    from budget.stores.records import Records

    total = 0
    with opened(common) as (budget, books):
        budget.engine.drainer.stop()  # what is done here is counted
        books.adopt(Records(default_records(budget.engine.store.url)), always=True)
        if not books.drains:
            raise ConfigError("drain: this store keeps its own ledger; only a server's is drained")
        stop = interruption() if follow else None
        while True:
            while (stop is None or not stop.is_set()) and (count := books.drain_step()):
                total += count
            if stop is None or stop.wait(EVERY):
                break
        records = books.records
    assert records is not None
    print_json({"entries": total, "records": str(records.path)}) if common.json else say(
        f"drained: {total} entries to {records.path}"
    )


def _about(entry: Entry) -> str:
    """Say what an entry is about: the model of a call, or what was changed by whom and why."""
    detail = entry.detail
    if "actor" not in detail:
        return entry.model or "-"
    subject = entry.scope if entry.reservation else detail.get("subject", {})
    what = detail.get("limit") or scope_text(subject) or "everybody"
    return f"{what} by {detail['actor']}" + (f": {detail['reason']}" if "reason" in detail else "")
