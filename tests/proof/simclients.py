"""Clients of a simulated world: whole engines whose store, outbox and disk are the world's.

`World` (simulator.py) decides what becomes of a message; here is what sends them.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budget import Budget, BudgetExceeded, ReservationConflict, StoreUnavailable
from budget.commands import Command, Outcome, Renew, Reservation
from budget.money import to_decimal
from budget.outage.breaker import Breaker
from budget.outage.outbox import Item, Orphan, Outbox, decode, encode
from budget.stores.sqlite import SqliteStore
from budget.stores.sqlitefile import connect
from budget.stores.sqlitewriter import Writer
from budget.stores.tickets import Ticket
from budget.waiting.line import Place

from .invariants import ASKED, asked, must

if TYPE_CHECKING:
    from .simulator import World

__all__ = ["AGENTS", "USERS", "Client", "Message", "Nap", "Pause", "StillSqlite", "Task", "asleep"]

S = 1_000_000
USERS, AGENTS = ("ann", "bob"), ("scout", "clerk")


class Message:
    """A command on its way; awaiting it gives the answer."""

    def __init__(self, client: Client, command: Command, until: float, posted: bool = False):
        self.client, self.command, self.until, self.posted = client, command, until, posted
        self.task: Task | None = None
        self.sent = client.world.now
        self.deliveries = 0
        self.dropped = False

    def __await__(self) -> Generator[Message, Outcome, Outcome]:
        return (yield self)


class Pause:
    """The time that a provider takes."""

    def __await__(self) -> Generator[Pause, None, None]:
        yield self


@dataclass(eq=False)
class Nap:
    """A call that stands in the line: it sleeps until it is nudged, or its patience is over."""

    world: World
    place: Place
    until: float
    woken: bool = False

    def __await__(self) -> Generator[Nap, None, None]:
        yield self

    def due(self) -> bool:
        """Whether it may look again. (A nudge lets go of the lock that a thread would sleep on.)"""
        self.woken = self.woken or self.place._wake.acquire(blocking=False)
        return self.woken or self.world.mono >= self.until


async def asleep(world: World, place: Place) -> bool:
    """What `Place.asleep` does, in the world's time; nobody may overtake those before him."""
    while True:
        early = world.mono < place.until
        go, patience = place._line.look(place)
        if go is not None:
            for pool in place.wants if go and early else ():
                before = [other for other in place._line._queues[pool].places if other.number < place.number]
                must(all(other.trying for other in before), "L2", None, f"{place.number} overtakes others at {pool}")
            return go
        nap = Nap(world, place, world.mono + patience)
        must(nap.until <= place.until + 0.01, "L1", None, f"it sleeps until {nap.until}, and may until {place.until}")
        world.counts["naps"] += 1
        await nap


@dataclass(eq=False)
class Task:
    """One call of a client, from its reserve to its end, and what it waits for."""

    client: Client
    work: Coroutine[Any, Any, None]
    waits: Message | Pause | Nap | None = None
    unsure: int = 0  # since when it does not know whether what it sent was carried out


class Wire:
    """What a client takes for its store: it puts messages into the world."""

    url, default_timeout = "memory://", 2.0

    def __init__(self, client: Client):
        self.client = client
        self.dead = False

    def call(self, account: str, command: Command, timeout: float, now: int | None = None) -> Outcome:
        """What waits in an outbox, probes, and what operators do: while there are faults it may fail, or seem to."""
        world = self.client.world
        luck = world.chance.random() if world.replaying and not world.calm else 1.0
        if luck < 0.1:
            raise StoreUnavailable("the store gave no answer")
        outcome = world.carry_out([command], self.client)[0]
        if luck < 0.2:
            raise StoreUnavailable("the store's answer was lost")
        return outcome

    async def acall(self, account: str, command: Command, timeout: float) -> Outcome:
        world = self.client.world
        return await Message(self.client, command, world.mono + timeout)

    def post(self, account: str, command: Command) -> None:
        if not self.dead:
            world = self.client.world
            world.under_way.append(Message(self.client, command, world.mono + 60, posted=True))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client.world.store, name)


class Disk(Outbox):
    """The outbox on a disk that is a list: what was flushed outlives its process."""

    def __init__(self, world: World):
        super().__init__(Path("outbox"))
        self._world = world
        self.flushed: list[Item] = []

    def orphaned(self) -> bool:
        return bool(self._world.left)

    def orphans(self) -> Iterator[Orphan]:
        for left in list(self._world.left):
            yield Left(self._world, left)

    def _write(self, group: Sequence[Item]) -> None:
        self.flushed += [decode(encode(item)) for item in group]

    def _tidy(self) -> None:
        if not self._items:
            self.flushed = []


class Left(Orphan):
    """What a killed client had on its disk."""

    def __new__(cls, world: World, items: list[Item]) -> Left:
        made = super().__new__(cls, Path("outbox"), items, 0)
        made.world = world  # type: ignore[attr-defined]
        return made

    def remove(self) -> None:
        self.world.left.remove(self.items)  # type: ignore[attr-defined]


class Client:
    """One process: a budget, a clock of its own, and the calls that it makes at once."""

    def __init__(self, world: World, number: int):
        self.world, self.number = world, number
        self.skew = 0
        self._taken: dict[str, tuple[str, int]] = {}  # by call that a slice paid for: which slice, nano-dollars
        self.budget = Budget("memory://", limits=world.limits, slices="$3" if world.sliced else None)
        self._stores: list[object] = [self.budget.engine.store]
        self.start()

    def start(self) -> None:
        """Begin anew: a wire, an outbox with nothing in it, no policy, no idea of the time."""
        engine, self.wire = self.budget.engine, Wire(self)
        self._stores.append(self.wire)
        for part in (engine, engine.verbs, engine.verbs.line, engine.outage, engine.books):
            for name, value in list(vars(part).items()):
                if value in self._stores:
                    setattr(part, name, self.wire)
        engine.verbs.forget_policy()
        engine.verbs.clock.__init__()  # type: ignore[misc]
        self.line, self.slices = engine.verbs.line, engine.slices
        self.line._end()
        self.line.__init__(self.wire, "default", engine.verbs.clock)  # type: ignore[misc]
        engine.leases._due.clear()
        if self.slices is not None:
            self.slices._begin()
        self.outage = engine.outage
        self.disk = self.outage.outbox = Disk(self.world)  # type: ignore[assignment]
        self.outage._reset()
        self.outage.breaker = Breaker(self.world.chance.random)
        self.outage._ensure = lambda: None  # type: ignore[method-assign]  # the world says when it has its turn

    @property
    def behind(self) -> bool:
        """Whether something waits for the store, of its own or of the dead."""
        return self.outage._busy or bool(self.world.left)

    def catch_up(self) -> None:
        """What the thread of the outbox does."""
        self.world.active, self.world.replaying = self, True
        try:
            self.outage.flush()
            self.outage._round()
        finally:
            self.world.replaying = False

    def see_to_it(self) -> None:
        """What the other threads of a process do: read what was written for who waits, renew leases, end slices."""
        self.world.active = self
        self.read_on()
        for id, (_, lease) in list(self.budget.engine.leases._due.items()):
            self.wire.post("default", Renew(id, int(lease)))
        if self.slices is not None:
            with self.slices._lock:
                self.slices._settle(self.world.mono)

    def read_on(self) -> None:
        """Read what was written. Then who is first in all of its lines, and fits, is told so (L2)."""
        if self.line._watch is None:
            return
        for _ in range(2):  # the first may see to leases that have ended, which writes
            if self.line._watch is not None:
                self.line._round(self.line._watch, 0.0)
        for place in self.line._places:
            queues = [self.line._queues[pool] for pool in place.wants]
            if place.trying or any(queue.places[0] is not place for queue in queues):
                continue
            counters = self.world.store.snapshot("default").buckets  # a window that ends writes nothing: a timer tells
            fits = [
                (bucket := counters.get((pool, queue.start))) is not None and not queue.rolling
                and want.amount <= want.limit + bucket.carry - bucket.spent - bucket.reserved
                for (pool, want), queue in zip(place.wants.items(), queues, strict=True)
            ]  # fmt: skip
            self.world.counts["waits looked at"] += 1
            told = any(isinstance(nap, Nap) and nap.place is place and nap.due() for nap in self._waits())
            must(told or not all(fits), "L2", None, f"there is room for {place.number}, and nobody tells it")

    def _waits(self) -> list[object]:
        return [task.waits for task in self.world.tasks if task.client is self]

    def end_slices(self) -> None:
        """Hand back what is left of its slices, and buy none any more."""
        if self.slices is not None:
            self.slices.close()
            self.budget.engine.slices = self.slices = None
            self.budget.engine.leases._due.clear()

    def _from_slice(self, id: str, nanos: int) -> bool:
        """Whether a call was decided from a slice, which may not give out more than was set aside for it."""
        taken = None if self.slices is None else self.slices._taken.get(id)
        if taken is not None:
            self.world.counts["from slices"] += 1
            most = min(draw.amount for draw in taken.slice.draws if draw.unit == 0)
            slice = taken.slice.id
            self._taken[id] = slice, nanos
            given = self.world.given[slice] = self.world.given.get(slice, 0) + nanos
            must(given <= most, "I1", None, f"slice {slice} has {most}, and gave out {given}")
        return taken is not None

    async def call(self) -> None:
        world, chance = self.world, self.world.chance
        nanos = chance.choice((0, 1, 7, 10**8, 10**9, 25 * 10**8) if not world.sliced else (7, 10**8, 10**8, 10**9))
        scope = {"user": chance.choice(USERS), "agent": chance.choice(AGENTS), ASKED: asked(nanos)}
        lease = chance.choice((5, 60, 600))
        aio = self.budget.aio
        try:
            wait = chance.choice((None, None, 3.0, 8.0))
            held = await aio.reserve(to_decimal(nanos), lease=lease, wait=wait, **scope)
        except BudgetExceeded:
            world.counts["refused"] += 1
            return
        except StoreUnavailable:
            world.counts["unavailable"] += 1
            return
        if not self._from_slice(held.id, nanos):
            world.told[held.id] = "reserved"
            world.books.leases[held.id] = lease * S
        await Pause()
        if chance.random() < 0.2:
            self.wire.post("default", Renew(held.id, lease * S))
        cost = chance.choice((0, nanos // 2, nanos, 2 * nanos))
        how = chance.choice(("reconcile", "reconcile", "refund", "leave"))
        for _ in range(1 if chance.random() < 0.9 else 2):
            await self.end(held, how, cost)

    async def end(self, held: Reservation, how: str, cost: int) -> None:
        aio, world = self.budget.aio, self.world
        while how != "leave":
            try:
                taken = self._taken.pop(held.id, None)
                if how == "refund":
                    if taken is not None:  # its slice may give that out again
                        self.world.given[taken[0]] -= taken[1]
                    await aio.refund(held)
                else:
                    await aio.reconcile(held, usd=to_decimal(cost))
                if how != "refund" or held.id in world.told:  # what a slice takes back nobody else hears of
                    world.told[held.id] = f"{how} {cost}"
                return
            except StoreUnavailable:
                await Pause()
            except ReservationConflict:
                world.counts["conflict"] += 1
                return


class StillSqlite(SqliteStore):
    """The SQLite store without its thread: several writers, each a process, and a reader."""

    def __init__(self, path: str, processes: int):
        super().__init__(path)
        self.writers = [Writer(self._path) for _ in range(processes)]
        self._eyes = connect(self._path)
        for db in (self._eyes, *[writer.db for writer in self.writers]):
            db.execute("pragma synchronous = off")

    def _open_reader(self) -> Any:
        return self._eyes

    def call(self, account: str, command: Command, timeout: float, now: int | None = None) -> Outcome:
        return self.group([command], 0, now or 0)[0]

    def group(self, commands: Sequence[Command], process: int, now: int) -> list[Outcome]:
        tickets = [Ticket("default", command, now) for command in commands]
        self.writers[process % len(self.writers)].commit(tickets)
        for ticket in tickets:
            if ticket.error is not None:
                raise ticket.error
        return [ticket.outcome for ticket in tickets]  # type: ignore[misc]

    def close(self) -> None:
        for writer in self.writers:
            writer.db.close()
            writer.lock.close()
        self.writers = []
        self._eyes.close()
