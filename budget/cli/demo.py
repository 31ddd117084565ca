"""`budget demo`: the main job, live, on a provider of our own."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from budget.cli.common import Common, common
from budget.cli.output import Column, amount, is_terminal, note, print_json, say, table
from budget.errors import ConfigError
from budget.money import NANOS, format_usd

if TYPE_CHECKING:
    from budget.demo.agents import Crew
    from budget.demo.checks import Check, Evidence, Figures
    from budget.demo.show import View
    from budget.engine import Budget

__all__ = ["demo"]

_INTRO = """\
{agents} agents of {users} users want to make {calls} calls. Their limits will not let them:
  {limits},
  and {run} for one agent's run.
Each call goes through the anthropic SDK, wrapped once, to a small provider on
this machine: no key, no network, no cost. Some fail, are retried or left early.
"""
_COLUMNS = (
    Column("pool"), Column("limit", right=True), Column("spent", right=True), Column("reserved", right=True),
    Column("admitted", right=True), Column("refused", right=True), Column("provider", right=True),
    Column("ledger", right=True),
)  # fmt: skip
_WIDTH = 80


@click.command("demo")
@common
def demo(options: Common) -> int:
    """Have agents overrun their limits, and check that they cannot.

    Takes a few seconds, on a SQLite file that is removed afterwards; with --store in a new account there, which stays.
    Exits with 1 if what the pools, the ledger and the provider say differs.

    \b
    Example:
      budget demo
    """
    speak = note if options.json else say
    for line in _intro():
        speak(line)
    begun = time.monotonic()
    with _engine(options) as budget:
        evidence = asyncio.run(_play(budget, options.json))
        checks = _check(evidence)
        account, store = budget.settings.account, budget.engine.store.url
    if options.json:
        print_json(_document(evidence, checks, time.monotonic() - begun))
    else:
        _print(evidence, checks)
    if options.store is not None:
        speak(f"The account stays: budget ledger tail --store {store} --account {account}")
    return 0 if all(check.ok for check in checks) else 1


def _intro() -> Sequence[str]:
    from budget.demo.agents import AGENTS, CALLS, LIMITS, RUN_LIMIT, USERS

    limits = ", ".join(map(str, LIMITS))
    text = _INTRO.format(agents=AGENTS, users=len(USERS), calls=AGENTS * CALLS, limits=limits, run=RUN_LIMIT)
    return text.splitlines()


@contextlib.contextmanager
def _engine(options: Common) -> Iterator[Budget]:
    """Make an engine with the limits of the demo and no others: a `budget.toml` here has no say."""
    from budget.demo.agents import LIMITS
    from budget.engine import Budget
    from budget.stores.base import open_store

    with tempfile.TemporaryDirectory(prefix="budget-demo-") as folder:
        url = options.store or f"sqlite:///{folder}/demo.db"
        if url.startswith("sqlite:"):
            url = open_store(url).url  # from here, not from the folder that it is made in
        account = options.account or f"demo-{time.strftime('%Y%m%d-%H%M%S')}"
        with contextlib.chdir(folder):
            budget = Budget(url, account=account, limits=LIMITS)
        with budget:
            if budget.settings.disabled:
                raise ConfigError("BUDGET_DISABLED: the demo has nothing to show while it is set")
            if budget.engine.store.last(account):
                raise ConfigError(f"account: {account!r} is in use; the demo needs a new one")
            yield budget


async def _play(budget: Budget, quiet: bool) -> Evidence:
    """Have the agents work, show the pools meanwhile, and collect what is left."""
    from budget.demo.agents import Crew, make_client
    from budget.demo.checks import collect
    from budget.demo.provider import Provider
    from budget.demo.show import Bars, Lines

    with Provider() as provider:
        async with make_client(budget, provider.url) as client:
            crew = Crew(budget, client)
            if is_terminal() and not quiet:
                with Bars() as view:
                    await _watch(crew, view)
            else:
                await _watch(crew, Lines(note if quiet else say))
        await asyncio.to_thread(provider.wait)
        return await collect(crew, budget, provider.requests)


async def _watch(crew: Crew, view: View) -> None:
    work = asyncio.create_task(crew.work())
    while not work.done():
        await asyncio.wait({work}, timeout=view.every)
        view.show(await crew.pools(), crew.calls)
    await work


def _check(evidence: Evidence) -> list[Check]:
    from budget.demo.checks import check

    return check(evidence)


def _print(evidence: Evidence, checks: Sequence[Check]) -> None:
    rows = [
        (f.pool.name, f.pool.limit.rule, amount(f.pool.spent), amount(f.pool.reserved), str(f.admitted), str(f.refused),
         str(f.provider), str(f.entries))
        for f in evidence.figures()
    ]  # fmt: skip
    table(_COLUMNS, rows)
    refusals = Counter(call.refused_by for call in evidence.calls if call.refused_by)
    shown = ", ".join(f"{rule} {n}x" for rule, n in refusals.most_common())
    for line in textwrap.wrap(f"refused by {shown}", _WIDTH, subsequent_indent="  "):
        say(line)
    for check in checks:
        say(f"{'ok    ' if check.ok else 'FAULT '}{check.text}")
        for fault in check.faults[:3]:
            say(f"      {fault}")
    faults = sum(len(check.faults) for check in checks)
    say(f"{faults} faults." if faults else "Agents, ledger and provider agree, and no limit was passed.")


def _document(evidence: Evidence, checks: Sequence[Check], seconds: float) -> dict[str, Any]:
    pools = [_pool(figures) for figures in evidence.figures()]
    return {
        "ok": all(check.ok for check in checks),
        "seconds": round(seconds, 1),
        "calls": len(evidence.calls),
        **{name: value for name, value in pools[0].items() if name != "pool"},
        "provider_requests": len(evidence.seen),
        "ends": Counter(call.end for call in evidence.calls),
        "refused_by": Counter(call.refused_by for call in evidence.calls if call.refused_by),
        "pools": pools,
        "checks": [{"check": check.text, "ok": check.ok, "faults": check.faults} for check in checks],
    }


def _pool(figures: Figures) -> dict[str, Any]:
    pool = figures.pool
    return {
        "pool": pool.name,
        "limit": str(pool.limit),
        "spent": format_usd(int(pool.spent * NANOS)),
        "reserved": format_usd(int(pool.reserved * NANOS)),
        "admitted": figures.admitted,
        "refused": figures.refused,
        "provider_calls": figures.provider,
        "ledger_entries": figures.entries,
    }
