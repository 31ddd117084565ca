"""`budget doctor`: one line for each thing that must be right before money depends on it."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import click

from budget.cli.common import Common, common
from budget.cli.output import Column, print_json, some, table
from budget.errors import BudgetError
from budget.window import SECOND

if TYPE_CHECKING:
    from budget.core import Engine
    from budget.engine import Budget

_CLOCK_AHEAD = 5 * SECOND  # how far the store's clock may be ahead: beyond it nothing is admitted (budget.pool)
_QUICK = 20_000  # entries that are audited in about a second
_PASSWORD = re.compile(r"//[^/\s]*@")  # who and with what, in a URL


class Finding(NamedTuple):
    """One line: `state` is ok, note (worth knowing) or FAULT."""

    check: str
    state: str
    detail: str


@click.command("doctor")
@common
def doctor(common: Common) -> int:
    """Check the store, the clock, the prices and the installed SDKs; exit code 1 if there is a fault.

    \b
    Example:
      budget doctor
    """
    with common.open() as budget:
        every = (*_outbox(budget), *_store(budget), *_prices(budget), *_outside(common), *_sdks())
    found = [finding._replace(detail=_PASSWORD.sub("//***@", finding.detail)) for finding in every]
    ok = all(finding.state != "FAULT" for finding in found)
    if common.json:
        print_json({"ok": ok, "checks": [finding._asdict() for finding in found]})
    else:
        styles = {"ok": "green", "note": "yellow", "FAULT": "bold red"}
        rows = [(f.check, (f.state, styles[f.state]), f.detail) for f in found]
        table([Column("check"), Column("state"), Column("detail")], rows)
    return 0 if ok else 1


def _store(budget: Budget) -> Iterator[Finding]:
    from budget.overview import sweep

    engine = budget.engine
    url = engine.store.url
    try:
        before = time.time_ns() // 1000
        now = sweep(engine).now
        took = time.time_ns() // 1000 - before
        yield Finding("store", "ok", f"{url}, account {budget.settings.account}: opens and writes")
        yield from _sqlite() if url.startswith("sqlite:") else ()
        facts = getattr(engine.store, "facts", None)  # of a server
        yield from _server(facts()) if facts else ()
        yield _clock(now - before - took, bool(facts))
        limits, frozen = list(budget.limits), budget.limits.freezes()
        state = "note" if frozen or not limits else "ok"
        yield Finding("limits", state, f"limits: {len(limits)}, freezes: {len(frozen)}")
        waiting = engine.store.reservations(budget.settings.account)
        yield Finding("reservations", "ok", f"{len(waiting)} open")
        yield _books(budget)
    except (BudgetError, sqlite3.Error) as error:
        yield Finding("store", "FAULT", f"{url}: {error}")


def _outbox(budget: Budget) -> Iterator[Finding]:
    """Say what waits for the store. Opening it has that carried out, so this comes first."""
    from datetime import UTC, datetime

    from budget.outage.outbox import waiting

    outbox = budget.engine.outage.outbox
    if outbox is None:
        return
    count, since = waiting(outbox.folder)
    when = f"{datetime.fromtimestamp(since // SECOND, UTC):%Y-%m-%d %H:%M:%S} UTC"
    waits = f"{count} ends of calls wait for the store since {when}, in {outbox.folder}"
    yield Finding("outbox", *(("note", waits) if count else ("ok", "nothing waits for the store")))
    if unread := sorted(outbox.folder.glob("*.unread")):
        named = some([str(path) for path in unread])
        yield Finding("outbox", "FAULT", f"ends of calls that this version cannot read: {named}")


def _clock(ahead: int, server: bool) -> Finding:
    """Judge how far the store's clock is ahead of this host's, in microseconds."""
    if server:
        apart = f"this host's differs from the server's by {abs(ahead) / SECOND:.0f} s; the server's is used"
        return Finding("clock", *(("note", apart) if abs(ahead) > _CLOCK_AHEAD else ("ok", "agrees with the server's")))
    late = f"the store's clock is {ahead / SECOND:.0f} s ahead: nothing is admitted until this host's catches up"
    return Finding("clock", *(("FAULT", late) if ahead > _CLOCK_AHEAD else ("ok", "agrees with the store's")))


def _server(facts: Mapping[str, str]) -> Iterator[Finding]:
    if not facts:
        unknown = "it does not let us read INFO: version, eviction policy and persistence are unknown"
        yield Finding("server", "note", unknown)
        return
    name = f"Valkey {facts['valkey_version']}" if "valkey_version" in facts else f"Redis {facts.get('redis_version')}"
    yield Finding("server", "ok", f"{name}, maxmemory-policy {facts.get('maxmemory_policy')}")
    yield Finding("topology", "ok", f"{facts.get('topology')}, profile {facts.get('profile')}")
    kept = facts.get("aof_enabled") == "1"
    lost = "no append-only file: a restart loses what came after the last snapshot (appendonly yes)"
    yield Finding("persistence", *(("ok", "append-only file") if kept else ("note", lost)))


def _sqlite() -> Iterator[Finding]:
    from budget.stores.sqlitefile import SCHEMA_VERSION

    # Which versions can corrupt a WAL file: sqlite.org/wal.html, "the WAL-reset bug"; fixed in 3.51.3, 3.50.7, 3.44.6.
    version = sqlite3.sqlite_version_info
    fixed = version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
    about = f"SQLite {sqlite3.sqlite_version}, schema {SCHEMA_VERSION}"
    bug = "; it has the WAL-reset bug, which the lock file beside the database keeps from happening"
    yield Finding("sqlite", "ok" if fixed else "note", about if fixed else about + bug)


def _books(budget: Budget) -> Finding:
    entries = budget.engine.store.last(budget.settings.account)
    if entries > _QUICK:
        return Finding("ledger", "note", f"{entries} entries; prove them with: budget ledger verify")
    found = budget.engine.books.verify()
    if found.faults:
        return Finding("ledger", "FAULT", "; ".join(found.faults))
    if found.saturated:
        return Finding("ledger", "note", f"{found.entries} entries balance; saturated: {'; '.join(found.saturated)}")
    return Finding("ledger", "ok", f"{found.entries} entries balance")


def _prices(budget: Budget) -> Iterator[Finding]:
    from datetime import UTC, date, datetime

    from budget.prices.stale import MAX_AGE_DAYS, due_models, too_old

    book, now = budget.settings.book, datetime.now(UTC)
    origins = sorted({row.origin for model in book.models() for row in model.rows if row.origin})
    age = f", read {(now.date() - date.fromisoformat(book.retrieved)).days} days ago" if book.retrieved else ""
    old = too_old(book, now.date())
    late = f" (more than {MAX_AGE_DAYS}: some have changed; a newer package has newer ones)" if old else ""
    count = sum(1 for _ in book.models())
    yield Finding("prices", "note" if old else "ok", f"{count} models{age}{late}, book {book.hash[:12]}")
    if origins:
        yield Finding("own prices", "ok", f"from {', '.join(origins)}")
    if due := due_models(book, int(now.timestamp()) * 1_000_000):
        yield Finding("price review", "note", f"to be looked at again: {some(due)}")


def _outside(common: Common) -> Iterator[Finding]:
    """Make sinks, rules and channels as each process does when it starts, but run none."""
    from budget.alerts import Alerts
    from budget.config import configured_alerts, configured_sinks
    from budget.engine import Budget
    from budget.sinks.runner import Runner

    def sinks(engine: Engine) -> str:
        given = configured_sinks()
        Runner(engine, given)
        return f"can be made: {len(given)}" if given else ""

    def alerts(engine: Engine) -> str:
        rules, to = configured_alerts()
        if not rules:
            return ""
        made = Alerts(engine, rules, to)
        Runner(engine, (made,))
        return f"rules: {len(made.rules)}, told to {some([channel.name for channel in made.channels])}"

    # An engine of its own, for the command line finds the records store of a server that a process must be told of.
    with Budget(common.store, account=common.account, sinks=(), alerts=()) as fresh:
        for check, make in (("sinks", sinks), ("alerts", alerts)):
            try:
                if made := make(fresh.engine):
                    yield Finding(check, "ok", made)
            except BudgetError as error:
                yield Finding(check, "FAULT", f"no process can start: {error}")


def _sdks() -> Iterator[Finding]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("anthropic", "openai"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            yield Finding(name, "note", "not installed")
    try:
        from budget.clients import self_test

        missing = self_test()
    except Exception as error:  # an SDK that cannot be imported may raise anything, and that is what is looked for
        yield Finding("wrap", "FAULT", f"the SDKs cannot be checked: {type(error).__name__}: {error}")
        return
    found |= {name: version(name) for name in missing if name not in found}
    for name, number in found.items():
        if lacks := missing.get(name, ""):
            yield Finding(name, "FAULT", f"{number}; wrap() cannot guard it, for it lacks {lacks}")
        else:
            state, can = ("ok", "can be wrapped") if name in missing else ("note", "cannot be wrapped in this version")
            yield Finding(name, state, f"{number}; its clients {can}")
