"""The engine in a world of which every step is chosen by one seeded source of chance.

Clients are whole `Budget` objects: asks, policy, verbs and `core.Engine` run as they are. What they await is not an
event loop but this scheduler, which holds their commands as messages and decides at each step what happens next: one is
delivered, twice or late or never, its answer is lost, its caller is cancelled or killed, a lease ends, a limit changes,
a clock is set back. There is no thread, no sleep and no real clock, so a seed is a world, and it comes again exactly.

The server is `MemoryStore`, or the SQLite store's writers and state on a file (several "processes", groups of commands
in one transaction), both told the time. After each step the new entries are held to the invariants, at every
`OBSERVE`-th step the whole account. When the faults stop, everything must come to an end, and exactly what fits be
admitted (liveness).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from budget import BudgetExceeded, ConfigError, Limit, StoreUnavailable
from budget.books.books import Books as Ledgers
from budget.books.pruning import prune
from budget.commands import ChangePolicy, Command, Outcome, Rebuild
from budget.money import to_decimal
from budget.outage.outbox import Item
from budget.stores.memory import MemoryStore
from budget.stores.records import Records

from .drained import Served, all_there, drain, said
from .invariants import ASKED, Books, Violation, asked, must, settle
from .simclients import AGENTS, USERS, Client, Message, Nap, Pause, StillSqlite, Task, asleep

__all__ = ["World", "simulate"]

S = 1_000_000
START = 1_760_000_000 * S
OBSERVE = 16
LATE = 900 * S  # how long a message may be under way; reservations are known for an hour after their end
LIMITS = (
    "$50/lifetime",
    "per=user $4/hour",
    "per=agent $5/90s rolling",
    "$20/7m rolling",
    "per=agent $6/day",
    "per=user 40 requests/minute",
    "6 concurrent",
)
KINDS = 4  # of so many worlds, one buys slices (what takes a slot is never decided from one), one is drained
AMOUNTS = ("$1/hour", "$4/hour", "$9/hour", "$0.000000007/hour")  # what per=user is changed to


@dataclass
class World:
    """One seed's world.

    Args:
        seed: Of everything that is chosen.
        clients: How many processes.
        folder: Where the SQLite file lies; None for memory.
    """

    seed: int
    clients: int = 4
    folder: Path | None = None
    now: int = START
    mono: float = 1000.0
    under_way: list[Message] = field(default_factory=list)
    told: dict[str, str] = field(default_factory=dict)
    given: dict[str, int] = field(default_factory=dict)  # what each slice gave out, nano-dollars
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.sliced, self.drained = self.seed % KINDS == 3, self.seed % KINDS == 1
        self.limits = [Limit(text) for text in LIMITS if not (self.sliced and "concurrent" in text)]
        self.store: Any = MemoryStore()
        if self.folder is not None:
            self.store = StillSqlite(str(self.folder / f"{self.seed}.db"), self.clients)
        self.books = Books([limit.set_at(1) for limit in self.limits])
        self.tasks: list[Task] = []
        self.active: Client | None = None
        self.trace = 0
        self.buried: list[Task] = []
        self.left: list[list[Item]] = []  # what killed clients had on their disks
        self.replaying = self.calm = False

    # What happens.

    def run(self, steps: int) -> World:
        """So many steps with faults, then everything to its end."""
        with self.reality(), TemporaryDirectory(dir=self.folder) as made:
            self.records = Records(f"sqlite:///{made}/records.db")
            self.all = [Client(self, number) for number in range(self.clients)]
            for _ in range(steps):
                self.step()
            self.come_to_an_end()
            self.fill_up()
            self.drain_all()
            self.records.close()
        self.store.close()
        return self

    def step(self) -> None:
        """One thing happens."""
        self.now += self.chance.choice((0, 1, 1000, 50_000, S))
        self.mono += 0.01
        if self.counts["steps"] % OBSERVE == 0:
            self._too_late()
        roll = self.chance.random()
        behind = [client for client in self.all if client.behind] if roll < 0.05 else []
        if behind:
            self.chance.choice(behind).catch_up()
        elif roll < 0.10:
            self.chance.choice(self.all).see_to_it()
        elif roll < 0.32 and len(self.tasks) < 12:
            self.begin(self.chance.choice(self.all))
        elif roll < 0.85:
            self.go_on()
        else:
            self.disturb()
        self.look()

    def look(self) -> None:
        self.counts["steps"] += 1
        seq = self.store.last("default")
        if seq != self.books.seq:
            self.books.names = self.store.names("default")
            self.books.read(self.store, "default", seq)
        if self.counts["steps"] % OBSERVE == 0:
            self.books.observe(self.store)
        self.trace = hash((self.trace, seq, self.now, len(self.under_way), int.from_bytes(self.books.head[:8], "big")))

    def begin(self, client: Client) -> None:
        task = Task(client, client.call())
        self.tasks.append(task)
        self.resume(task, None)

    def go_on(self) -> None:
        """A message arrives, or a provider answers."""
        ready = [t for t in self.tasks if isinstance(t.waits, Pause) or (isinstance(t.waits, Nap) and t.waits.due())]
        if ready and (not self.under_way or self.chance.random() < 0.4):
            self.resume(self.chance.choice(ready), None)
        elif self.under_way:
            first = self.chance.choice(self.under_way)
            group = [first]
            if self.folder is not None and self.chance.random() < 0.5:  # those of one process, in one transaction
                group += [m for m in self.under_way if m.client is first.client and m is not first][:4]
            self.deliver(group)

    def deliver(self, group: list[Message], lose_answer: bool = False) -> None:
        outcomes = self.carry_out([message.command for message in group], group[0].client)
        for message, outcome in zip(group, outcomes, strict=True):
            message.deliveries += 1
            waits = message.task is not None and message.task.waits is message
            if lose_answer and waits:
                message.task.unsure = message.task.unsure or self.now  # type: ignore[union-attr]
                continue
            self.under_way.remove(message)
            if waits:
                message.task.unsure = 0  # type: ignore[union-attr]
                self.resume(message.task, outcome)  # type: ignore[arg-type]

    def carry_out(self, commands: Sequence[Command], client: Client) -> list[Outcome]:
        self.counts["operations"] += len(commands)
        self.books.clock = max(self.books.clock, self.now)  # by which it forgets, also if it writes nothing
        if isinstance(self.store, StillSqlite):
            return self.store.group(commands, client.number, self.now)
        return [self.store.call("default", command, 1.0, self.now) for command in commands]

    def resume(self, task: Task, answer: Outcome | BaseException | None) -> None:
        """Let a call go on to its next wait."""
        self.active, task.waits = task.client, None
        try:
            send = task.work.throw if isinstance(answer, BaseException) else task.work.send
            task.waits = send(answer)  # type: ignore[arg-type]
        except StopIteration:
            self.tasks.remove(task)
        except Cancelled:
            self.tasks.remove(task)
        if isinstance(task.waits, Message):
            task.waits.task = task
            self.under_way.append(task.waits)

    # Faults.

    def disturb(self) -> None:
        kind = self.chance.choice(_FAULTS)
        if getattr(self, f"f_{kind}")():
            self.faults[kind] += 1

    def _message(self) -> Message | None:
        waiting = [m for m in self.under_way if m.task is not None and m.task.waits is m]
        return self.chance.choice(waiting) if waiting else None

    def f_twice(self) -> bool:
        """A command is carried out, and is still under way: its answer was lost, or it was sent again."""
        message = self._message()
        if message is not None:
            self.deliver([message], lose_answer=True)
        return message is not None

    def f_time_out(self) -> bool:
        """The caller waits no longer; its command may arrive all the same, much later, or never."""
        message = self._message()
        if message is None:
            return False
        if self.chance.random() < 0.5:
            self.under_way.remove(message)
        assert message.task is not None
        message.task.unsure = message.task.unsure or self.now
        error = StoreUnavailable("the store gave no answer")
        self.resume(message.task, error)  # type: ignore[arg-type]
        return True

    def f_cancel(self) -> bool:
        """A task is cancelled while it waits for the store; what it asked is carried out all the same, or late."""
        message = self._message()
        if message is None:
            return False
        self.resume(message.task, Cancelled())  # type: ignore[arg-type]
        return True

    def f_give_up(self) -> bool:
        """A task is cancelled while it waits for room: its place is another's."""
        waiting = [task for task in self.tasks if isinstance(task.waits, Nap)]
        if waiting:
            self.resume(self.chance.choice(waiting), Cancelled())  # type: ignore[arg-type]
        return bool(waiting)

    def f_unwatched(self) -> bool:
        """Who reads for those that wait lost its connection: what is taken of their pools is not known any more."""
        lines = [client.line for client in self.all if client.line._watch is not None]
        for line in lines[:1]:
            line._take(None)
        return bool(lines)

    def f_prune(self) -> bool:
        """One entry comes to stand for the old ones; whatever of it is lost on the way, sums and chain verify."""
        if not self.drained:
            self.prune(self.chance.choice((0, 60 * S, 3600 * S)))
        return not self.drained

    def f_drain(self) -> bool:
        """Some of the ledger is drained, by two at once, each of whom may be cut off at any step."""
        if self.drained and self.counts["drains"] < 8:
            self.counts["drains"] += 1
            drain(self.ledgers(lambda: self.cut_off(self.ledgers(self.cut_off))))
        return self.drained

    def ledgers(self, meanwhile: Callable[[], None] = lambda: None) -> Ledgers:
        return Ledgers(Served(self.store, self.records, meanwhile), "default", self.records)

    def cut_off(self, other: Ledgers | None = None) -> None:
        luck = self.chance.random()
        if luck < 0.1:
            raise StoreUnavailable("the store gave no answer")
        if luck < 0.4 and other is not None:
            drain(other)

    def drain_all(self) -> None:
        """What was drained, and what is drained now, is the ledger: each entry once."""
        if self.drained:
            ledgers = self.ledgers()
            drain(ledgers)
            all_there(ledgers, said(self.store))

    def prune(self, age: int) -> None:
        self.operate(lambda client: prune(client.budget.engine.books, self.now - age, self.now, {"actor": "ops"}))

    def f_rebuild(self) -> bool:
        """Counters are spoiled, and set right from the ledger: they are what they were."""
        before = self.store.snapshot("default")
        some = self.chance.sample(sorted(before.buckets), min(3, len(before.buckets)))
        wrong = {key: before.buckets[key].at(self.chance.randrange(10**9), self.chance.randrange(9)) for key in some}
        self.carry_out([Rebuild(before.seq, wrong, before.names)], self.all[0])
        self.operate(lambda client: client.budget.engine.books.rebuild())
        for key, is_ in self.store.snapshot("default").buckets.items():
            must(is_ == before.buckets[key], "I14", None, f"rebuilt, {key} is {is_}; it was {before.buckets[key]}")
        return True

    def operate(self, work: Callable[[Client], object]) -> None:
        """An operator does something while answers are lost, until it is done; then the audit is clean."""
        client = self.active = self.chance.choice(self.all)
        self.replaying = True
        for _ in range(50):
            with suppress(StoreUnavailable):
                work(client)
                break
        self.replaying = False
        found = client.budget.engine.books.verify()
        must(found.ok and not found.partial, "I12", None, f"the audit says {found.faults}")

    def f_kill(self) -> bool:
        """A client dies: its calls go no further, what it left to others may or may not have been sent."""
        client = self.chance.choice(self.all)
        client.wire.dead = True
        if client.disk.flushed:
            self.left.append(client.disk.flushed)
        mine = [task for task in self.tasks if task.client is client]
        self.tasks = [task for task in self.tasks if task.client is not client]
        self.buried += mine  # their code must not run any more, not even to clean up
        for message in [m for m in self.under_way if m.client is client]:
            message.task = None
            if self.chance.random() < 0.5:
                self.under_way.remove(message)
        client.start()
        return True

    def f_clock_back(self) -> bool:
        self.now -= self.chance.choice((1, S, S, 4 * S, 4 * S, 6 * S, 60 * S, 3600 * S))
        return True

    def f_clock_forward(self) -> bool:
        self.now += self.chance.choice((30 * S, 61 * S, 700 * S, 3600 * S, 86400 * S))
        self._too_late()
        return True

    def f_skew(self) -> bool:
        """A client's own clock is wrong: nothing may follow from that."""
        self.chance.choice(self.all).skew = self.chance.choice((0, -7200 * S, 90 * S, 86400 * S))
        return True

    def f_limit(self) -> bool:
        """Somebody changes a limit."""
        client = self.active = self.chance.choice(self.all)
        if client.outage.breaker.open:
            return False  # it refuses operators, too, and they try again
        if self.chance.random() < 0.3:
            self.carry_out([_unset()], client)
        else:
            client.budget.limits.set(f"per=user {self.chance.choice(AMOUNTS)}")
        return True

    def f_freeze(self) -> bool:
        client = self.active = self.chance.choice(self.all)
        if client.outage.breaker.open:
            return False
        client.budget.freeze(user=USERS[0])
        if self.chance.random() < 0.9:
            client.budget.unfreeze(user=USERS[0])
        return True

    def f_shuffle(self) -> bool:
        self.chance.shuffle(self.under_way)
        return True

    def _too_late(self) -> None:
        """What is older than any network keeps is gone, and who did not hear for so long has died."""
        for task in [t for t in self.tasks if t.unsure and self.now - t.unsure > LATE]:
            self.tasks.remove(task)
            self.buried.append(task)
            task.waits = None
        for message in [m for m in self.under_way if self.now - m.sent > LATE]:
            if message.posted and not message.client.wire.dead:
                message.sent = self.now  # which its client sends again
            elif message.task not in self.tasks or message.task.waits is not message:
                self.under_way.remove(message)

    # The end.

    def come_to_an_end(self) -> None:
        """Without faults everything ends: every call, every reservation, in bounded steps."""
        self.calm = True
        for client in self.all:
            client.skew = 0
        if self.all[0].outage.breaker.open:  # it has not asked again since the store came back
            self.all[0].catch_up()
        with suppress(ConfigError):  # nobody is frozen
            self.all[0].budget.unfreeze(user=USERS[0])
        self.now = max(self.now, START) + 2 * 86400 * S  # the clock is right again, and past what it once was
        self._too_late()
        self.quiet()
        for client in self.all:
            client.end_slices()
        self.quiet()
        must(not any(client.behind for client in self.all), "L1", None, "an outbox is not carried out")
        self.now += 7 * 86400 * S
        settle(self.store, now=self.now)
        self.books.observe(self.store)
        must(not self.books.open, "I8", None, f"{len(self.books.open)} reservations are open for ever")
        self.now += 60 * 86400 * S
        if not self.drained:
            self.prune(86400 * S)  # windows that are over go, too
        self.look()
        for id, told in self.told.items():
            must(id in self.books.ended, "I15", None, f"{id} was acknowledged, and is not in the ledger")
            if told != "reserved":
                how = "refunded" if told.startswith("refund") else "reconciled"
                is_ = self.books.ended[id].replace("recorded", "reconciled")  # what a slice decided has but a record
                must(how in is_, "I6", None, f"{id}: told {told}, is {self.books.ended[id]}")

    def quiet(self) -> None:
        """Let all that is under way come to its end, in bounded steps."""
        for _ in range(50 * (len(self.tasks) + len(self.under_way) + 1)):
            for client in self.all:
                if client.behind:
                    client.catch_up()
                client.read_on()
            if not self.tasks and not self.under_way:
                break
            self.now += 1000
            self.mono += 1
            self.go_on()
            self.look()
        must(not self.tasks and not self.under_way, "L1", None, f"{len(self.tasks)} calls do not end")

    def fill_up(self) -> None:
        """What is free is admitted to the last unit, and no more (L2, I3)."""
        client = self.active = self.all[0]
        client.budget.limits.set("per=user $4/hour")
        for user in USERS:
            pools = client.budget.status(user=user, agent=AGENTS[0])
            room = min(pool.available for pool in pools if pool.limit.unit == "usd")
            nanos = int(max(room, 0) * 10**9)
            for amount, fits in ((nanos + 1, False), (nanos, True)):
                scope = {"user": user, "agent": AGENTS[0], ASKED: asked(amount)}
                try:
                    client.budget.refund(client.budget.reserve(to_decimal(amount), **scope))
                    admitted = True
                except BudgetExceeded:
                    admitted = False
                must(admitted == fits, "L2", None, f"{amount} for {user}: admitted is {admitted}, room was {nanos}")
        self.look()
        self.books.observe(self.store)

    # What the engine takes for the world.

    @contextmanager
    def reality(self) -> Iterator[None]:
        """Clocks and chance come from here."""
        import budget.core
        import budget.lease
        import budget.outage.outage
        import budget.slices.slice
        import budget.slices.slices
        import budget.stores.sqlitewriter
        import budget.verbs.applies
        import budget.waiting.line
        import budget.waiting.storetime

        def wall() -> int:
            return (self.now + (self.active.skew if self.active else 0)) * 1000

        clock = SimpleNamespace(time_ns=wall, monotonic_ns=lambda: int(self.mono * 1e9))
        put = {
            (budget.verbs.applies, "time"): clock,
            (budget.verbs.applies, "os"): SimpleNamespace(urandom=self.chance.randbytes),
            (budget.waiting.storetime, "time"): clock,
            (budget.stores.sqlitewriter, "time"): SimpleNamespace(time_ns=wall, monotonic=lambda: self.mono),
            (budget.waiting.line.Place, "asleep"): lambda place: asleep(self, place),
            (budget.waiting.line, "Thread"): _NoThread,
            (budget.slices.slices, "Thread"): _NoThread,
            (budget.lease.Renewer, "keep"): lambda leases, *kept: leases._due.update({kept[0]: [0.0, kept[1]]}),
            **dict.fromkeys([(module, "monotonic") for module in (
                budget.core, budget.outage.outage, budget.waiting.line, budget.slices.slice, budget.slices.slices,
            )], lambda: self.mono),
            (budget.core, "_in_thread"): _at_once,
        }
        kept = {place: getattr(*place) for place in put}
        try:
            for place, value in put.items():
                setattr(*place, value)
            yield
        finally:
            for place, value in kept.items():
                setattr(*place, value)


async def _at_once(work: Callable[[], None]) -> None:
    work()


class _NoThread:
    """What would be done in a thread the world does, when it is its turn."""

    def __init__(self, **options: object):
        pass

    def start(self) -> None:
        pass


class Cancelled(BaseException):
    """What a cancelled task is told: like `asyncio.CancelledError`, no `Exception`."""


def _unset() -> Command:
    from budget.rows import limit_body

    limit = Limit("per=user $1/hour")
    return ChangePolicy("limit", limit_body(limit)[0], None, {"limit": str(limit)})


_FAULTS = tuple(name.removeprefix("f_") for name in vars(World) if name.startswith("f_"))


def simulate(seed: int, steps: int, folder: Path | None = None, wrap: Callable[[World], None] | None = None) -> World:
    """Run one seed.

    Raises:
        Violation: With the seed and what to type to see it again.
    """
    world = World(seed, folder=folder)
    try:
        return world.run(steps)
    except Exception as error:
        kind = "sqlite" if folder is not None else "memory"
        again = f"python -m tests.proof simulate --seed {seed} --steps {steps} --store {kind}"
        raise Violation(f"seed {seed}, step {world.counts['steps']}: {error!r}\nagain: {again}") from error
