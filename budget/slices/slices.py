"""Slices: money bought ahead from the pools, and given out by this process without asking the store.

A slice is an ordinary reservation on the pools that calls draw on. Calls that draw on the very same pools are then
decided here, by comparing five integers. The end of such a call is a record that is paid out of the slice
(`Record.of`): the pools move from reserved to spent in the one step that writes its entry. So a slice admits nothing
that the pools had not set aside; it only keeps money from others while it lives, and what nobody took is handed back
when it ends.

Two uses, one mechanism:

* **Speed.** A busy process buys a slice for many calls at once. It lives for `LIFE` seconds at most and never past its
  window, so a change of policy holds within that time. Slices taper: one takes at most one part in `SHARE` of the room
  that is left, and none is bought where that is less than two calls.
* **The local allowance.** Once a call on some pools was admitted, an allowance is bought for them and kept until their
  window ends. It is touched only while the store cannot answer.

What a slice decides is in the ledger from its end on, and the id of such a call is known to this process alone. So
only calls whose id was made here are decided so, and none that takes a slot or is watched by a limit in shadow mode. A
process that is killed loses its slices: their leases end and they are charged, as every reservation is. A call has no
lease beside that of its slice: one that nobody ends stays reserved for as long as the process lives.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Generator
from threading import Lock, Thread
from time import monotonic, sleep
from typing import Any

from budget.above import Also
from budget.commands import Amounts, Command, Outcome, Reconcile, Record, Refund, Renew, Reserve, new
from budget.errors import BudgetError
from budget.slices.slice import NEVER, Group, Slice, Taken, key_of, record_of
from budget.waiting.line import Place
from budget.window import SECOND

__all__ = ["AHEAD", "LEASE", "LIFE", "SHARE", "Slices"]

AHEAD = "ahead"
"""The digest of a reserve that buys a slice."""
LIFE = 1.0
"""Seconds that a slice bought for speed lives."""
SHARE = 8
"""A slice takes at most one part in so many of the room that is left; an allowance, one in two."""
LEASE = 60 * SECOND
"""Microseconds of a slice's lease; it is renewed while the slice lives."""
_KEPT = 4096  # groups of pools that are remembered
_CALLS = 1000  # calls that one slice is bought for at most
_AGAIN = 60.0  # seconds after which an allowance that was refused is asked for again
_EVER = 1e9
_NOTHING: Amounts = (0, 0, 0, 0, 0)
_log = logging.getLogger("budget")

Flow = Generator[Command | Place | Also, Any, Any]


class Slices:
    """The slices of one engine.

    Args:
        speed: Nano-dollars that a slice for speed has at most; 0: none is bought.
        allowance: Nano-dollars of the allowance of a group of pools; 0: none is bought.
        new_id: Makes the id of a reservation.
        post: Hands a command to the store without waiting.
        keep, drop: Have a reservation renewed, and no more.
    """

    def __init__(
        self, speed: int, allowance: int, new_id: Callable[[], str], post: Callable[[Command], object],
        keep: Callable[[str, int], object], drop: Callable[[str], object],
    ):  # fmt: skip
        self._speed, self._allowance = speed, allowance
        self._new_id, self._post, self._keep, self._drop = new_id, post, keep, drop
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._told = False
        self._groups: dict[tuple[Any, ...], Group] = {}
        self._taken: dict[str, Taken] = {}  # by the id of the call
        self._ended: deque[tuple[Slice, Amounts]] = deque()  # calls that have ended, and what they give back
        self._living: list[Slice] = []
        self._lock = Lock()
        self._thread: Thread | None = None

    # What an engine does with each command.

    def around(self, flow: Flow, own: bool) -> Flow:
        """Return a flow whose commands are carried out from slices where that can be.

        Args:
            flow: The steps of a verb.
            own: Whether the id of what it reserves was made in this process.
        """
        try:
            command = next(flow)
            while True:
                try:
                    aside = isinstance(command, Place | Also)
                    outcome = (yield command) if aside else (yield from self.steps(command, own))  # type: ignore[arg-type]
                except BudgetError as error:
                    command = flow.throw(error)
                    continue
                command = flow.send(outcome)
        except StopIteration as end:
            return end.value
        finally:
            flow.close()

    def steps(self, command: Command, own: bool = True) -> Flow:
        """Carry out a command: from a slice if that can be, else by what is yielded to the store."""
        if self._pid != os.getpid():  # forked: what is kept here is the parent's
            self._begin()
        if isinstance(command, Reserve):
            if own and command.frozen is None:
                return (yield from self._reserve(command))
        elif isinstance(command, Reconcile | Refund | Renew):
            taken = self._taken.get(command.id)
            if taken is not None:
                return (yield from self._end(command, taken))
        return (yield command)

    def posted(self, command: Command) -> None:
        """Hand over a command that nobody waits for. A finalizer may call this anywhere: it takes no lock."""
        taken = self._taken.get(command.id) if isinstance(command, Reconcile | Refund | Renew) else None
        if taken is None or self._pid != os.getpid():
            self._post(command)
        elif not isinstance(command, Renew) and self._taken.pop(taken.call.id, None) is not None:
            if isinstance(command, Reconcile):
                self._post(record_of(command, taken))
            self._ended.append((taken.slice, taken.call.amounts if isinstance(command, Refund) else _NOTHING))

    def decide(self, command: Reserve) -> Taken | None:
        """Admit a call from the slice of its pools; None: it must be asked of the store."""
        group = self._groups.get(key_of(command))
        if group is None or (slice := group.fast) is None or slice.version != command.version:
            return None
        return self._take(group, slice, command, command.id)

    def without_store(self, command: Reserve) -> Outcome | None:
        """Admit a call from the allowance of its pools, because the store cannot answer; None: it cannot be.

        Its reserve may have been carried out all the same and is called back, so its cost gets an id of its own.
        """
        group = self._groups.get(key_of(command))
        if group is None or not group.fits or command.frozen is not None or self._pid != os.getpid():
            return None
        spare = group.spare
        taken = None if spare is None else self._take(group, spare, command, self._new_id())
        return None if taken is None else taken.outcome()

    def close(self) -> None:
        """Hand back what is left of every slice."""
        if self._pid == os.getpid():
            with self._lock:
                self._settle(_EVER * 2)

    # Reserve.

    def _reserve(self, command: Reserve) -> Flow:
        taken = self.decide(command)
        if taken is not None:
            return taken.outcome()
        group = self._group(command)
        ahead = self._ahead(group, command) if group.fits else None
        if ahead is not None:
            try:
                bought = yield ahead
            finally:
                group.buying = False
            if bought.status not in ("reserved", "refused"):
                return bought  # of another policy or window: the caller takes its steps again
            if bought.buckets:  # else nobody has set anything aside: the store is away, and that is let pass
                self._bought(group, ahead, bought)
            taken = self.decide(command)
            if taken is not None:
                return taken.outcome()
        outcome = yield command
        group.hear(command.draws, outcome)
        return outcome

    def _group(self, command: Reserve) -> Group:
        key = key_of(command)
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= _KEPT:
                self.close()
                self._groups.clear()
            group = self._groups[key] = Group(command.draws)
            if self._allowance and not self._told and not _has_allowance(group, command):
                self._told = True
                _log.warning("on_store_error: calls that a rolling, concurrency or shadow limit applies to have no "
                             "allowance; they are refused while the store is away")  # fmt: skip
        return group

    def _take(self, group: Group, slice: Slice, command: Reserve, id: str) -> Taken | None:
        """Take what a call needs from a slice; its cost will be recorded under `id`."""
        now = monotonic()
        if now >= slice.until:
            return None
        if group.capped and any(draw.pool is None and draw.amount > draw.limit for draw in command.draws):
            return None  # a cap refuses: that is the store's to say and to write down
        with self._lock:
            if not slice.lives or not slice.take(command.amounts):
                return None
        taken: Taken = new(Taken, (slice, command, id, now))
        self._taken[command.id] = taken
        return taken

    def _ahead(self, group: Group, command: Reserve) -> Reserve | None:
        """Return the reserve that buys a slice before this call, or None."""
        now = monotonic()
        spare = self._wants_spare(group, command, now)
        if group.buying or now - group.heard > (_AGAIN if spare else LIFE):
            return None
        calls = group.calls(command, self._allowance if spare else self._speed, 2 if spare else SHARE, _CALLS)
        if calls < (1 if spare else 2):
            return None
        group.buying = True
        amounts: Any = tuple(None if amount is None else amount * calls for amount in command.amounts)
        draws = [draw._replace(amount=draw.amount * calls) for draw in command.draws if draw.pool is not None]
        what = "allowance" if spare else "slice"
        return Reserve(self._new_id(), AHEAD, amounts, draws, command.version, LEASE, {}, {what: calls})

    def _wants_spare(self, group: Group, command: Reserve, now: float) -> bool:
        """Whether an allowance is to be bought: there is none, it is not whole, or not of this policy or window."""
        if not self._allowance or now < group.after or not _has_allowance(group, command):
            return False
        spare = group.spare
        if spare is not None and spare.lives and now < spare.until and spare.version == command.version:
            return spare.left[0] < (command.amounts[0] or 0)
        return True

    def _bought(self, group: Group, ahead: Reserve, bought: Outcome) -> None:
        """Begin a slice that was bought, in the place of the one before it."""
        spare = "allowance" in ahead.detail
        if spare:
            group.after = monotonic() + (_AGAIN if bought.status == "refused" else 0)
        if bought.status == "refused":
            group.heard = NEVER
            return
        slice = Slice(ahead, bought, _EVER if spare else LIFE)
        self._keep(slice.id, LEASE)
        with self._lock:
            self._living.append(slice)
            before = group.spare if spare else group.fast
            if before is not None:
                self._retire(before)
            if spare:
                group.spare = slice
            else:
                group.fast = slice
            self._settle(monotonic())
            if self._thread is None:
                self._thread = Thread(target=self._work, name="budget-slices", daemon=True)
                self._thread.start()

    # Ends.

    def _end(self, command: Reconcile | Refund | Renew, taken: Taken) -> Flow:
        """End a call that was decided from a slice, once."""
        slice, known = taken.slice, taken.reservation()
        at = slice.at(monotonic())
        if isinstance(command, Renew):
            return Outcome("renewed", at, slice.version, reservation=known)
        if self._taken.pop(known.id, None) is None:
            return (yield command)
        if isinstance(command, Refund):
            self._ended.append((slice, known.amounts))
            return Outcome("refunded", at, slice.version, reservation=known.ended_as("refunded", at, _NOTHING))
        record = record_of(command, taken)
        try:
            outcome = yield record
            if outcome.status not in ("recorded", "repeated"):  # its slice is gone, and the policy is another one
                actual, detail, draws = record.actual, record.detail, record.draws
                outcome = yield Reconcile(record.id, actual, detail, draws, known.scope, known.made)
        finally:
            self._ended.append((slice, _NOTHING))
        ended = known.ended_as("reconciled", outcome.now, record.actual)
        return Outcome("reconciled", outcome.now, outcome.version, outcome.buckets, reservation=ended)

    def _settle(self, now: float) -> None:
        """Take note of calls that have ended, and end the slices whose time is over. Call it under the lock."""
        while self._ended:
            slice, amounts = self._ended.popleft()
            slice.running -= 1
            slice.give_back(amounts)
        for slice in list(self._living):
            if now >= slice.until:
                self._retire(slice)
            if not slice.lives and not slice.running:
                self._drop(slice.id)
                self._post(Refund(slice.id, {"slice": "ended"}))
                self._living.remove(slice)

    def _retire(self, slice: Slice) -> None:
        """Give nothing more out of it, and hand back what nobody took; calls that run on it go on."""
        left: Any = tuple(slice.left)
        if slice.lives and slice.running and any(left):
            back = Record(self._new_id(), "", _NOTHING, slice.draws, slice.version, {}, {}, "returned", slice.id, left)
            self._post(back)
            slice.left = [0, 0, 0, 0, 0]
        slice.lives = False

    def _work(self) -> None:
        """End slices when nobody calls any more; this thread lives as long as they do."""
        while True:
            with self._lock:
                now = monotonic()
                self._settle(now)
                if not self._living:
                    self._thread = None
                    return
                # What was retired waits for its calls; what lives, for its time.
                waits = min(slice.until - now if slice.lives else LIFE for slice in self._living)
            sleep(min(LIFE, max(0.01, waits)))


def _has_allowance(group: Group, command: Reserve) -> bool:
    """Whether an allowance may be bought for the pools of a call: it would leave a rolling one while it is kept."""
    return group.fits and not any(draw.span for draw in command.draws)
