"""The Redis store: pools, reservations and ledger on a Redis or Valkey server, for many processes and hosts.

The decision runs in the server, as one script per verb (`lua/`): the counters, the reservation and the ledger entry
move in one step, and nobody sees a part of it. `scripts.py` turns commands into requests, `redisdrive.py` sends them
over connections that all callers share (`multiplex.py`) and that `redisserver.py` makes, to the server that
`redisplaces.py` finds. `redisfaults.py` says what is done about which error, `redisfence.py` notices what a server has
lost, `redisreads.py` reads.

Within its deadline a command whose connection was lost is sent again with the same id, which the scripts know it by. A
command that was left with `post`, or whose caller was cancelled, is carried out by a thread that waits longer
(`redisposted.py`); others of this process wait for those, so that whoever looks sees what was handed over before.

When the interpreter ends, the connection of its threads stays: finalizers may still end what they have set aside, and
another one could not be made then.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from budget.commands import Bucket, Command, Learn, LoadPolicy, Outcome, Reservation, Reserve, Status, Sweep
from budget.errors import StoreUnavailable
from budget.ledger import Entry
from budget.pseudonym import Swap
from budget.stores import redisdrain, rediserase, redisreads
from budget.stores.base import Cursor, Snapshot
from budget.stores.keys import Keys, encoded
from budget.stores.multiplex import ServerError
from budget.stores.redisdrive import Driver
from budget.stores.redisfence import Account
from budget.stores.redisposted import Posted
from budget.stores.redisserver import OPEN_TIMEOUT, Server, facts
from budget.stores.rediswatch import RedisWatch
from budget.stores.scripts import Steps, flow, request, run_script

__all__ = ["RedisStore"]

_LEFT_ALONE = (Reserve, Status, Sweep, LoadPolicy, Learn)  # what need not be carried out when its caller has gone
_TOLD = frozenset(("policy", "rewound"))  # outcomes that say something of the fence


class RedisStore:
    """Pools, reservations and ledger on a server. See `stores.base.Store`.

    Args:
        url: As redis-py reads it: "redis://cache:6379/0", "rediss://user:password@cache", "unix:///run/valkey.sock"; or
            "redis+sentinel://one,two,three/mymaster/0", "redis+cluster://one:7000,two:7001"; and "valkey" for "redis".

    Raises:
        ConfigError: It is not such a URL.
    """

    default_timeout = 0.25
    undelivered: Callable[[str, Command], None] | None = None

    def __init__(self, url: str):
        self._server = Server(url)
        self.url = self._server.url
        self._accounts: dict[str, Account] = {}
        self._reset()
        _STORES.add(self)

    def _reset(self) -> None:
        self._driver = Driver(self._server)
        self._posted = Posted(self._aflow, self._driver.part, lambda: self.undelivered, self._soon)
        for account in self._accounts.values():
            account.wire = None

    # What callers do.

    def call(self, account: str, command: Command, timeout: float, now: int | None = None) -> Outcome:
        """Carry out a command and wait for its outcome."""
        if self._posted.waiting:
            timeout -= self._posted.settle(timeout / 2)
        return self._flow(account, command, timeout, now)

    async def acall(self, account: str, command: Command, timeout: float) -> Outcome:
        """Carry out a command and await its outcome; if the task is cancelled it is carried out all the same."""
        try:
            if self._posted.waiting:
                timeout -= await self._posted.asettle(timeout / 2)
            known = self._accounts.get(account) or self._account(account)
            outcome: Outcome = await self._driver.adrive(known, _steps(known, command, None), timeout)
            if outcome.status in _TOLD and (steps := known.told(outcome)):
                await self._driver.adrive(known, steps, timeout)
            return outcome
        except asyncio.CancelledError:
            if not isinstance(command, _LEFT_ALONE):
                self.post(account, command)
            raise

    def post(self, account: str, command: Command) -> None:
        """Leave a command with a thread of the store. A finalizer may call this anywhere: it waits for no lock."""
        if _ended:
            self._posted.queue.put((account, command))
            self._posted.close(OPEN_TIMEOUT, self._flow)
        else:
            self._posted.put(account, command)

    # How.

    def _soon(self) -> float:
        return min(self.default_timeout, OPEN_TIMEOUT / 2)  # before a close, which waits for it, gives it up

    def _account(self, name: str) -> Account:
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = Account(name, self._server.places)
        return account

    def _keys_of(self, name: str) -> Keys:
        return self._account(name).keys

    def _flow(self, name: str, command: Command, timeout: float, now: int | None = None) -> Outcome:
        account = self._account(name)
        outcome: Outcome = self._drive(account, _steps(account, command, now), timeout)
        if outcome.status in _TOLD and (steps := account.told(outcome)):
            self._drive(account, steps, timeout)
        return outcome

    def _drive(self, account: Account, steps: Steps, timeout: float) -> Any:
        try:
            return self._driver.drive(account, steps, timeout)
        except ImportError as error:  # redis-py imports as it connects, and modules are being taken down
            raise StoreUnavailable(f"the interpreter is ending: {error}") from error

    async def _aflow(self, name: str, command: Command, timeout: float) -> Outcome:
        account = self._accounts.get(name) or self._account(name)
        outcome: Outcome = await self._driver.adrive(account, _steps(account, command, None), timeout)
        if outcome.status in _TOLD and (steps := account.told(outcome)):
            await self._driver.adrive(account, steps, timeout)
        return outcome

    # Reading.

    def entries(self, account: str, after: int, since_us: int = 0) -> Sequence[Entry]:
        """Read a page of the ledger. Refusals have the number of the entry that they follow."""
        return redisreads.entries(self._asker(account), self._keys_of(account), after, since_us)

    def watch(self, account: str, after: int) -> RedisWatch:
        """Watch the stream, on a connection of its own."""
        known = self._account(account)
        return RedisWatch(partial(self._server.connect, group=known.group), known.keys.ledger, after)

    def lines(self, account: str, after: int) -> Iterator[Entry]:
        """Iterate the entries of the stream, without refusals."""
        while page := self.entries(account, after):
            yield from (entry for entry in page if entry.digest)
            if page[-1].seq == after:
                return
            after = page[-1].seq

    def epoch(self, account: str) -> str:
        """Read the account's epoch: a ledger that begins anew has another."""
        return redisreads.epoch(self._asker(account), self._keys_of(account))

    def drain_page(self, account: str, cursor: Cursor) -> tuple[list[Entry], Cursor]:
        """Read what follows a place in the ledger, and the place after that."""
        return redisdrain.read_page(self._asker(account), self._keys_of(account), cursor)

    def pool_names(self, account: str, pools: Sequence[str]) -> dict[str, str]:
        """Read what some ids of pools stand for."""
        return redisdrain.names_of(self._asker(account), self._keys_of(account), pools)

    def trim(self, account: str, cursor: Cursor) -> None:
        """Drop what was read up to a place, and is kept elsewhere."""
        redisdrain.trim(self._asker(account), self._keys_of(account), cursor)

    def swap_all(self, account: str, swap_of: Callable[[Mapping[str, str]], Swap]) -> None:
        """Put a pseudonym in the place of a value."""
        asker, run = self._asker(account), partial(self._run, account)
        rediserase.swap_all(asker, run, self._keys_of(account), swap_of(self.names(account)))

    def trim_all(self, account: str, cursor: Cursor) -> None:
        """Drop every entry up to a place."""
        rediserase.trim_all(self._asker(account), self._keys_of(account), cursor)

    def is_trimmed(self, account: str) -> bool:
        """Whether a drain has dropped entries."""
        return self._ask(account, "GET", self._keys_of(account).drain) is not None

    def retire(self, account: str, pool: str, windows: Sequence[Bucket], whole: bool) -> None:
        """Drop windows of a pool, if nothing has moved them since."""
        asker, run = self._asker(account), partial(self._run, account)
        redisdrain.retire(asker, run, self._keys_of(account), pool, windows, whole)

    def checkpoint(self, account: str) -> None:
        """There is none: entries that leave the stream are in the records store."""

    def forget_entries(self, account: str, upto: int) -> None:
        """Nothing to do: draining takes entries out of the stream."""

    def reservations(self, account: str) -> Sequence[Reservation]:
        """Read the open reservations, oldest first."""
        return redisreads.reservations(self._asker(account), self._keys_of(account))

    def ended(self, account: str) -> Sequence[Reservation]:
        """Read the ended reservations that are still known."""
        return redisreads.ended(self._asker(account), self._keys_of(account))

    def put_reservations(self, account: str, reservations: Sequence[Reservation]) -> None:
        """Write reservations of another store."""
        redisdrain.put_reservations(self._asker(account), self._keys_of(account), reservations)

    def snapshot(self, account: str) -> Snapshot:
        """Read all counters at one instant."""
        return redisreads.snapshot(self._asker(account), partial(self._run, account), self._keys_of(account))

    def names(self, account: str) -> Mapping[str, str]:
        """Read what the ids of the pools stand for."""
        return redisreads.names(self._asker(account), self._keys_of(account))

    def last(self, account: str) -> int:
        """Read the number of the last entry."""
        return redisreads.last(self._asker(account), self._keys_of(account))

    def remove(self, account: str) -> None:
        """Remove a scratch account and all that is in it."""
        redisreads.remove(self._asker(account), self._keys_of(account))

    def facts(self, account: str = "default") -> Mapping[str, str]:
        """Return what the server of an account says of itself, and how it is found; less if it does not let us ask."""
        told = {"profile": self._server.profile}
        try:
            told |= facts(self._ask(account, "INFO"))
        except StoreUnavailable:
            return {}
        return {**told, "topology": self._server.places.topology}

    def _asker(self, account: str) -> redisreads.Ask:
        return partial(self._ask, account)

    def _ask(self, account: str, *words: str | bytes | int | float) -> Any:
        self._posted.settle(OPEN_TIMEOUT)
        return self._drive(self._account(account), _read(words), OPEN_TIMEOUT)

    def _run(self, account: str, verb: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        self._posted.settle(OPEN_TIMEOUT)
        return self._drive(self._account(account), run_script(encoded(verb, keys, args)), OPEN_TIMEOUT)

    # Ends.

    def close(self) -> None:
        """Carry out what was handed over, then let go of the connections. It opens again when it is used again."""
        self._posted.close(OPEN_TIMEOUT, self._flow)
        for account in list(self._accounts.values()):
            account.wire = None
        self._driver.close()


def _steps(account: Account, command: Command, now: int | None) -> Steps:
    if account.lost is not None and type(command) is Reserve:
        return _after_a_look(account, command, now)
    return flow(account.keys, command, now)


def _after_a_look(account: Account, command: Command, now: int | None) -> Steps:
    yield from account.look()
    outcome = yield from flow(account.keys, command, now)
    return outcome


def _read(words: Sequence[str | bytes | int | float]) -> Steps:
    reply = yield request(*words)
    if isinstance(reply, ServerError):
        raise StoreUnavailable(f"the server refused to read: {str(reply).splitlines()[0][:200]}")
    return reply


_STORES: weakref.WeakSet[RedisStore] = weakref.WeakSet()


def _forked() -> None:
    # A connection is the parent's: two who write to it would read one another's answers.
    for store in list(_STORES):
        _ABANDONED.append(store._driver)
        store._reset()


_ended = False  # the interpreter is ending: a thread that is started does not run any more


def _exit() -> None:
    global _ended
    _ended = True
    for store in list(_STORES):
        store._posted.close(OPEN_TIMEOUT, store._flow)


_ABANDONED: list[Any] = []
if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_forked)
weakref.finalize(RedisStore, _exit)
