"""Commands over connections that fail at a chosen byte: what callers are told, and what the account is afterwards.

A trial is one command of one kind through one door (blocking or awaited) over one proxy with one fault. It has an
account of its own. Afterwards the account must be what some legal order of the same commands makes of a memory store:
the command was carried out or it was not, an end whose answer never came is asked for again, a reserve without an
answer is called back; and it is so although what was stalled arrives late.

What operators do (`OPERATIONS`) takes many steps. Whoever is told that it failed does it again; then the ledger is
proved, and is what it was: drained once, summed, or brought back to its counters.

A new command joins with one line in `KINDS`.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from budget.books.books import Books as Ledgers
from budget.books.pruning import prune
from budget.commands import Command, Draw, LoadPolicy, Rebuild, Reconcile, Record, Refund, Renew, Reserve, Sweep
from budget.errors import StoreUnavailable
from budget.stores.base import Store, open_store, read_entries
from budget.stores.memory import MemoryStore
from budget.stores.records import Records
from budget.window import FOREVER

from .drained import all_there, said
from .invariants import Books, must
from .proxy import Fault, Proxies, Proxy

__all__ = ["DOORS", "KINDS", "OPERATIONS", "SEEN", "Trial", "lengths", "run", "trials"]

ID = "0" * 31 + "1"
LEASE = 600_000_000
DOORS = ("sync", "async")
PATIENCE = {"stall": 0.15, "hole": 0.15, "half": 0.5}
"""Seconds that a caller waits; where a connection is seen to break, it is asked again within `LONG`."""
LONG = 10.0
UNANSWERED = "StoreUnavailable"


def draws(amount: int) -> list[Draw]:
    return [Draw(f"pool{n}", f"pool{n}", 0, 100, amount, 0, FOREVER, 0) for n in range(2)]


def reserve(lease: int = LEASE) -> Reserve:
    return Reserve(ID, "asked", (10, 0, 0, 0, 1), draws(10), 0, lease, {"user": "ann"}, {})


class Kind(NamedTuple):
    """What comes before a command, the command, and what a caller without an answer does then."""

    before: Sequence[Command]
    command: Command
    after: Command


COST = Reconcile(ID, (7, 0, 0, 0, 1), {})
KINDS: dict[str, Kind] = {
    "reserve": Kind([], reserve(), Refund(ID)),
    "reconcile": Kind([reserve()], COST, COST),
    "refund": Kind([reserve()], Refund(ID), Refund(ID)),
    "record": Kind([], r := Record(ID, "asked", (7, 0, 0, 0, 1), draws(0), 0, {"user": "ann"}, {}), r),
    "renew": Kind([reserve()], n := Renew(ID, 2 * LEASE), n),
    "sweep": Kind([reserve(lease=1)], Sweep(), Sweep()),
}


def _drained(ledgers: Ledgers) -> None:
    while ledgers.drain_step():
        pass


FAR = 2**52
"""Long after all that is there."""
OPERATIONS: dict[str, Callable[[Ledgers], object]] = {
    "drain": _drained,
    "prune": lambda ledgers: (_drained(ledgers), prune(ledgers, FAR, FAR, {"actor": "ops"})),
    "rebuild": lambda ledgers: ledgers.rebuild(),
}
SEEN = ("cut", "again")
"""What an operation is tried with: it takes the time of an operator, who does not wait for what never comes."""


class Trial(NamedTuple):
    """One command over one fault."""

    kind: str
    door: str
    fault: Fault


def trials(
    sizes: Mapping[str, tuple[int, int]], acts: Iterable[str], chance: random.Random | None = None, some: int = 0
) -> list[Trial]:
    """Every byte of every command, both ways, through both doors; with `chance`, of each the ends and `some` others."""
    found = []
    for act in acts:
        for kind, (there, back) in sizes.items():
            if kind in OPERATIONS and act not in SEEN:
                continue
            for door in DOORS[: 1 if kind in OPERATIONS else None]:
                for way, size in (("there", there), ("back", 0 if act == "again" else back)):
                    points = list(range(size + 1)) if size else []
                    if chance is not None and len(points) > some + 2:
                        points = [0, *chance.sample(points[1:-1], some), size]
                    found += [Trial(kind, door, Fault(way, n, act)) for n in points]
    return found


def lengths(socket: str) -> dict[str, tuple[int, int]]:
    """How many bytes each command (or operation) and its answer have, once the server knows the scripts."""
    found = {}
    direct = open_store(f"unix://{socket}")
    with Proxies() as proxies:
        for name, kind in KINDS.items():
            account = f"length-{time.monotonic_ns():020}"
            carry_out(direct, f"{account}-known", [*kind.before, kind.command])
            carry_out(direct, account, kind.before)
            proxy = proxies.make(socket)
            store = through(proxy)
            store.call("default", LoadPolicy(), LONG)
            proxies.tell(proxy.arm, None)
            store.call(account, kind.command, LONG)
            found[name] = (proxy.passed["there"], proxy.passed["back"])
            store.close()
            proxies.drop(proxy)
        for name, work in OPERATIONS.items():
            proxy = proxies.make(socket)
            with _ledgers(direct, f"length-{time.monotonic_ns():020}", name, through(proxy)) as (ledgers, _):
                proxies.tell(proxy.arm, None)
                work(ledgers)
                found[name] = (proxy.passed["there"], proxy.passed["back"])
            proxies.drop(proxy)
    direct.close()
    return found


@contextmanager
def _ledgers(
    direct: Store, account: str, name: str, store: Store
) -> Iterator[tuple[Ledgers, Callable[[], None]]]:
    """An account as it is before an operation, the books of it over a store, and what judges them afterwards."""
    carry_out(direct, account, [reserve(), COST, Record(ID[::-1], "asked", (7, 0, 0, 0, 1), draws(0), 0, {}, {})])
    before, entries = direct.snapshot(account), said(direct, account)
    if name == "rebuild":
        wrong = {key: bucket.at(bucket.spent + 3, 5) for key, bucket in before.buckets.items()}
        direct.call(account, Rebuild(before.seq, wrong, before.names), LONG)
    with tempfile.TemporaryDirectory(prefix="proof-") as folder:
        records = Records(f"sqlite:///{folder}/records.db")
        ledgers = Ledgers(store, account, records if name != "rebuild" else None)

        def judge() -> None:
            ledgers.store = ledgers._server = direct  # type: ignore[assignment]
            if name == "drain":
                all_there(ledgers, entries)
            found = ledgers.verify()
            must(found.ok and not found.partial, "I12", None, f"{name}: the audit says {found.faults}")
            is_ = {key: (bucket.spent, bucket.reserved) for key, bucket in direct.snapshot(account).buckets.items()}
            was = {key: (bucket.spent, bucket.reserved) for key, bucket in before.buckets.items()}
            must(is_ == was, "I14", None, f"{name}: the counters are {is_}, they were {was}")
            if name == "prune":
                left = [entry.kind for entry in ledgers.entries()]
                must(left == ["pruned"], "I12", None, f"what stands for all is {left}")

        try:
            store.call(account, LoadPolicy(), LONG)
            yield ledgers, judge
        finally:
            store.close()
            records.close()


def operate(proxies: Proxies, socket: str, direct: Store, trial: Trial) -> str:
    """Carry out a trial of what an operator does; if it fails, do it again."""
    proxy, answer, account = proxies.make(socket), "done", f"trial-{time.monotonic_ns():020}"
    with _ledgers(direct, account, trial.kind, through(proxy)) as (ledgers, judge):
        proxies.tell(proxy.arm, trial.fault)
        try:
            OPERATIONS[trial.kind](ledgers)
        except StoreUnavailable:
            answer = UNANSWERED
            OPERATIONS[trial.kind](ledgers)
        proxies.tell(proxy.release)
        try:
            judge()
        except AssertionError as error:
            error.add_note(f"{trial} answered {answer}")
            raise
    proxies.drop(proxy)
    return answer


def through(proxy: Proxy) -> Store:
    return open_store(f"redis://127.0.0.1:{proxy.port}/0")


def carry_out(store: Store, account: str, commands: Iterable[Command]) -> None:
    for command in commands:
        store.call(account, command, LONG)


def run(socket: str, chosen: Sequence[Trial], workers: int = 32) -> Counter[str]:
    """Carry out trials, many at once (most of them wait); count what callers were told.

    Raises:
        Violation: With the trial.
    """
    told: Counter[str] = Counter()
    direct = open_store(f"unix://{socket}")
    with Proxies() as proxies, ThreadPoolExecutor(workers) as pool:
        answers = pool.map(lambda trial: one(proxies, socket, direct, trial), chosen)
        for trial, answer in zip(chosen, answers, strict=True):
            told[f"{trial.fault.act}: {answer}"] += 1
    direct.close()
    return told


def one(proxies: Proxies, socket: str, direct: Store, trial: Trial) -> str:
    """Carry out one trial and return what its caller was told."""
    if trial.kind in OPERATIONS:
        return operate(proxies, socket, direct, trial)
    kind, account = KINDS[trial.kind], f"trial-{time.monotonic_ns():020}"
    carry_out(direct, account, kind.before)
    proxy = proxies.make(socket)
    store, patience = through(proxy), PATIENCE.get(trial.fault.act, LONG)
    began, answer = time.monotonic(), UNANSWERED
    try:
        store.call(account, LoadPolicy(), LONG)
        if trial.door == "async":
            answer = asyncio.run(_aask(proxies, proxy, store, account, kind, trial.fault, patience))
        else:
            proxies.tell(proxy.arm, trial.fault)
            with suppress(StoreUnavailable):
                answer = store.call(account, kind.command, patience).status
            _afterwards(proxies, proxy, direct, account, kind, answer)
            if trial.fault.act == "stall":  # what was late has arrived before this
                store.call(account, LoadPolicy(), LONG)
    finally:
        store.close()
        proxies.drop(proxy)
    must(time.monotonic() - began < patience + 60, "L1", None, f"{trial}: it took very long")
    given_up = answer == UNANSWERED and trial.fault.act not in PATIENCE
    must(not given_up, "L1", None, f"{trial}: the connection was there again, and it gave up")
    _judge(direct, account, kind, trial, answer)
    return answer


async def _aask(
    proxies: Proxies, proxy: Proxy, store: Store, account: str, kind: Kind, fault: Fault, patience: float
) -> str:
    await store.acall(account, LoadPolicy(), LONG)
    proxies.tell(proxy.arm, fault)
    answer = UNANSWERED
    with suppress(StoreUnavailable):
        answer = (await store.acall(account, kind.command, patience)).status
    direct = open_store(f"unix://{proxy.to}")
    _afterwards(proxies, proxy, direct, account, kind, answer)
    direct.close()
    if fault.act == "stall":
        await store.acall(account, LoadPolicy(), LONG)
    store.close()
    return answer


def _afterwards(proxies: Proxies, proxy: Proxy, direct: Store, account: str, kind: Kind, answer: str) -> None:
    """What a caller without an answer does; then the fault is over."""
    if answer == UNANSWERED:
        direct.call(account, kind.after, LONG)
    proxies.tell(proxy.release)


def _judge(store: Store, account: str, kind: Kind, trial: Trial, answer: str) -> None:
    """The account is what one of the legal orders makes of it."""
    Books().observe(store, account)
    orders = [[*kind.before, kind.command]]
    if answer == UNANSWERED:
        orders = [[*kind.before, kind.command, kind.after], [*kind.before, kind.after, kind.command]]
    legal = [_shape(_memory(order), "default") for order in orders]
    found = _shape(store, account)
    must(found in legal, "I19", None, f"{trial} answered {answer}: {found} is none of {legal}")


def _memory(order: Iterable[Command]) -> Store:
    store = MemoryStore()
    for command in order:
        store.call("default", command, LONG)
        time.sleep(0.000002)  # so that the lease of a microsecond is over
    return store


def _shape(store: Store, account: str) -> Any:
    """What can be told of an account without its times."""
    buckets = {pool: (b.spent, b.reserved) for (pool, _), b in store.snapshot(account).buckets.items()}
    entries = [(entry.kind, entry.amounts) for entry in read_entries(store, account)]
    return buckets, entries, [(r.id, r.state) for r in store.reservations(account)]
