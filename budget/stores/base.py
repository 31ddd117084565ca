"""The contract of a store.

A store carries out commands (`budget.commands`) on accounts, each as one atomic step with its ledger entry, by running
`pool.apply` on its state (or, on a server, the same decision in a script). It also reads the ledger.

Rules that every store keeps:

* A command that was handed over is carried out, also if nobody waits for the answer any more: a task that is cancelled
  while it reconciles has reconciled. Commands of one process are carried out in the order they were handed over.
* Time is the store's. Only a scratch account (a replay) passes its own, with `now=`.
* What it cannot do raises `StoreUnavailable`, never anything that looks like a refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from budget.audit import Chained, Checkpoint
from budget.commands import Bucket, Command, Outcome, Reservation
from budget.errors import ConfigError
from budget.ledger import Entry, Posting
from budget.pseudonym import Swap

__all__ = ["PAGE", "Cursor", "Drained", "Moved", "Snapshot", "Store", "Watch", "open_store", "read_entries"]

PAGE = 1000
"""Entries that one read brings at most."""


class Snapshot(NamedTuple):
    """The counters of an account at one instant: all buckets by (pool, start), pool names, last sequence and digest."""

    buckets: dict[tuple[str, int], Bucket]
    names: dict[str, str]
    seq: int
    head: bytes


class Moved(NamedTuple):
    """What an entry of the ledger moved. `postings` is None for a change of the policy, after which any pool may have
    another limit."""

    seq: int
    postings: Sequence[Posting] | None


class Watch(Protocol):
    """Tells who waits for room what is written to an account, by whatever process."""

    def wait(self, timeout: float) -> Sequence[Moved]:
        """Return what was written since the last time, once there is something; nothing after `timeout` seconds.

        Raises:
            StoreUnavailable: It cannot be known now. The next call tries again.
        """
        ...

    def stop(self) -> None:
        """End a wait, from any thread. From then on `wait` returns nothing, and lets go of what it holds."""
        ...


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a server's ledger was read.

    Attributes:
        mark: Of the records store that reads it: there is one for an account, or each would have a part.
        epoch: Of the server's account: another one is another ledger.
        since: The last entry here before those of this epoch.
        seq, digest: The last entry that was read, as the server numbers it, and its digest there.
        refusal: The id of the last refusal that was read.
    """

    mark: str
    epoch: str
    since: int = 0
    seq: int = 0
    digest: bytes = bytes(20)
    refusal: str = "0-0"


class Store(Protocol):
    """What the engine asks of a store. `timeout` is in seconds."""

    url: str
    default_timeout: float
    """Also that of commands that nobody waits for; an engine sets its own."""
    undelivered: Callable[[str, Command], None] | None
    """Takes, of an account, a command that could not be carried out and that nobody waits for; else it is only said."""

    def call(self, account: str, command: Command, timeout: float, now: int | None = None) -> Outcome:
        """Carry out a command and wait for its outcome.

        Raises:
            StoreUnavailable: There is no answer in time. The command may still be carried out.
        """
        ...

    async def acall(self, account: str, command: Command, timeout: float) -> Outcome:
        """Like `call`, without blocking the event loop; being cancelled does not call the command back."""
        ...

    def post(self, account: str, command: Command) -> None:
        """Hand a command over and return at once: for finalizers, cancelled tasks and lease renewals."""
        ...

    def entries(self, account: str, after: int, since_us: int = 0) -> Sequence[Entry]:
        """Read up to `PAGE` entries with a sequence number above `after`, made at or after `since_us`."""
        ...

    def watch(self, account: str, after: int) -> Watch:
        """Watch what is written to the ledger after an entry. It opens nothing before its first `wait`."""
        ...

    def lines(self, account: str, after: int) -> Iterator[Chained]:
        """Iterate the entries above `after` as an audit needs them."""
        ...

    def checkpoint(self, account: str) -> Checkpoint | None:
        """Read the last checkpoint: what stands for the entries that are not kept any more."""
        ...

    def forget_entries(self, account: str, upto: int) -> None:
        """Drop the entries up to the one that a checkpoint stands for, in portions that hold nobody up."""
        ...

    def reservations(self, account: str) -> Sequence[Reservation]:
        """Read the open reservations, oldest first."""
        ...

    def ended(self, account: str) -> Sequence[Reservation]:
        """Read the ended reservations that are still known, in any order."""
        ...

    def snapshot(self, account: str) -> Snapshot:
        """Read all counters of an account at one instant."""
        ...

    def names(self, account: str) -> Mapping[str, str]:
        """Read what the ids of the pools stand for."""
        ...

    def last(self, account: str) -> int:
        """Read the number of the last entry; 0 if there is none."""
        ...

    def remove(self, account: str) -> None:
        """Remove a scratch account and all that is in it."""
        ...

    def close(self) -> None:
        """Finish what was handed over and let go of files and threads."""
        ...


@runtime_checkable
class Drained(Protocol):
    """What a store has besides, whose ledger is drained into a records store: a server's."""

    def epoch(self, account: str) -> str:
        """Read the account's epoch, "" if there is no account: a ledger that begins anew has another."""
        ...

    def drain_page(self, account: str, cursor: Cursor) -> tuple[list[Entry], Cursor]:
        """Read what follows a place in the ledger, each entry proved, and the place after that.

        Raises:
            StoreUnavailable: The ledger is not the one that was read before, or an entry was changed.
        """
        ...

    def pool_names(self, account: str, pools: Sequence[str]) -> dict[str, str]:
        """Read what some ids of pools stand for."""
        ...

    def put_reservations(self, account: str, reservations: Sequence[Reservation]) -> None:
        """Write reservations of another store, open and ended ones, without touching a counter."""
        ...

    def swap_all(self, account: str, swap_of: Callable[[Mapping[str, str]], Swap]) -> None:
        """Put a pseudonym in the place of a value in pools, ended reservations and sketches."""
        ...

    def trim_all(self, account: str, cursor: Cursor) -> None:
        """Drop every entry up to a place."""
        ...

    def is_trimmed(self, account: str) -> bool:
        """Whether entries were ever dropped, so that the first ones may be in a records store alone."""
        ...

    def retire(self, account: str, pool: str, windows: Sequence[Bucket], whole: bool) -> None:
        """Drop windows of a pool, if nothing has moved them since; and the pool, if those are all that it has."""
        ...

    def trim(self, account: str, cursor: Cursor) -> None:
        """Drop what was read up to a place, and is kept elsewhere.

        Raises:
            StoreUnavailable: Another records store reads this account.
        """
        ...


def read_entries(store: Store, account: str, since_us: int = 0, after: int = 0) -> Iterator[Entry]:
    """Read the ledger page by page, oldest first. A refusal may stand beside the sequence, with the number before."""
    while page := store.entries(account, after, since_us):
        yield from page
        if page[-1].seq == after:
            return
        after = page[-1].seq


def open_store(url: str, clock: Callable[[], int] | None = None) -> Store:
    """Make the store that a URL names; nothing is opened before the first command.

    Args:
        url: "memory://" (private to this object), "sqlite:///relative.db", "sqlite:////absolute/path.db", or a server
            as redis-py names it: "redis://cache:6379/0", "rediss://user:password@cache", "unix:///run/valkey.sock", or
            "redis+sentinel://one,two,three/mymaster/0", "redis+cluster://one:7000,two:7001"; "valkey" and "valkeys"
            mean the same as "redis" and "rediss".
        clock: What tells a memory store the time, microseconds since the epoch; None is this machine's clock.

    Raises:
        ConfigError: The URL names no store that exists here.
    """
    if url == "disabled://":
        from budget.stores.disabled import DisabledStore

        return DisabledStore()
    if url == "memory://":
        from budget.stores.memory import MemoryStore

        return MemoryStore(clock)
    if url.startswith("sqlite:///") and len(url) > len("sqlite:///"):
        from budget.stores.sqlite import SqliteStore
        from budget.stores.sqlitefile import read_path

        return SqliteStore(read_path(url))
    scheme = url.partition("://")[0].partition("+")[0][:20] if "://" in url else ""
    if scheme in ("redis", "rediss", "valkey", "valkeys", "unix"):
        from budget.stores.redis import RedisStore

        return RedisStore(url)
    raise ConfigError(
        "store: not a store URL; use 'sqlite:///budget.db', 'sqlite:////var/lib/budget.db', 'redis://cache:6379/0' "
        "or 'memory://'"
    )
