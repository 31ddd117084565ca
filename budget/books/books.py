"""The books of an account: its whole ledger, wherever its entries are, and what can be proved and put right from it.

A store that is a file keeps its own ledger. A server's ledger is drained into a records store: from then on the books
are what is there, and before each question what the server has since added is read into it. Draining takes nothing
away from the server but where it is told to (`trim`), and then only what was committed in the records store.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from budget.audit import Audit, Auditor, rolling_pools
from budget.books.counters import lost_buckets, unheld, wrong_buckets
from budget.commands import ChangePolicy, Command, LoadPolicy, Outcome, Rebuild
from budget.errors import BudgetError, StoreUnavailable
from budget.ledger import Entry
from budget.limits import Limit
from budget.policy import Policy
from budget.pseudonym import Swap
from budget.stores.base import PAGE, Cursor, Drained, Snapshot, Store, read_entries

if TYPE_CHECKING:
    from budget.stores.records import Records

__all__ = ["OPERATOR_TIMEOUT", "TRIES", "Books", "Rebuilt", "open_records"]

OPERATOR_TIMEOUT = 30.0
"""Seconds that a step of an operator's command may wait for the store."""
TRIES = 20
"""How often an answer "moved" is followed by another try."""
_STILL = 5  # looks for open reservations beside counters that have not moved meanwhile


class Rebuilt(NamedTuple):
    """What a rebuild did: the buckets that were set, as (pool, start), and what the audit says afterwards."""

    changed: list[tuple[str, int]]
    audit: Audit


def open_records(url: str | None) -> Records | None:
    """Return the records store of a URL; None for None.

    Raises:
        ConfigError: It is not the URL of an SQLite file.
    """
    if url is None:
        return None
    from budget.stores.records import Records

    return Records(url)


class Books:
    """The ledger of one account as one.

    Args:
        store: Where the account is.
        account: Its name.
        records: Where its entries are drained to; None if they are not, or the store keeps its own.
    """

    def __init__(self, store: Store, account: str, records: Records | None = None):
        self.store, self.account = store, account
        self._server = store if isinstance(store, Drained) else None
        self.records = records if self._server is not None else None

    @property
    def drains(self) -> bool:
        """Whether the store is a server, whose ledger is drained into a records store."""
        return self._server is not None

    @property
    def kind(self) -> str:
        """The kind of store, as its URL names it: what else is in the URL may be secret."""
        return self.store.url.partition("://")[0]

    def remove(self) -> None:
        """Remove the account, and what was drained of it."""
        self.store.remove(self.account)
        if self.records is not None:
            self.records.store.remove(self.account)

    def adopt(self, records: Records, *, always: bool = False) -> None:
        """Use a records store that was not configured: if the account was drained into it, or `always`."""
        if self._server is not None and self.records is None and (always or records.cursor(self.account) is not None):
            self.records = records

    # Where the entries are.

    def ledger(self) -> Store:
        """Return the store that has the whole ledger, up to date."""
        if self.records is None or self.records.cursor(self.account) is None:
            return self.store
        while self.drain_step(trim=False):
            pass
        return self.records.store

    def drain_step(self, trim: bool = True) -> int:
        """Read a page of a server's ledger into the records store; return how many entries were new.

        Raises:
            StoreUnavailable: One of both cannot be reached, or the server does not have what it had.
        """
        server, records = self._server, self.records
        if server is None or records is None:
            return 0
        was = records.cursor(self.account)
        epoch = server.epoch(self.account)
        if was is None and not epoch:
            return 0
        if was is not None and was.epoch != epoch:
            raise StoreUnavailable(
                "the server has lost the account that was drained, or has another one; run 'budget ledger rebuild'"
            )
        start = was or Cursor(secrets.token_hex(8), epoch)
        entries, place = server.drain_page(self.account, start)
        added = 0
        if entries or was is None:
            pools = sorted({posting.pool for entry in entries for posting in entry.postings})
            names = server.pool_names(self.account, pools)
            if not records.write(self.account, was, place, entries, names):
                return 1  # another drain was faster: there may be more
            added = len(entries)
        if trim:
            server.trim(self.account, place)
        return added

    def entries(self, since_us: int = 0) -> Iterator[Entry]:
        """Iterate the ledger, oldest first."""
        return read_entries(self.ledger(), self.account, since_us)

    def last(self, wanted: Mapping[str, str], count: int) -> list[Entry]:
        """Return the last entries of calls with some attributes, oldest first, reading pages from the end."""
        ledger = self.ledger()
        end = ledger.last(self.account)
        found: list[Entry] = []
        while end > 0 and len(found) < count:
            start = max(0, end - PAGE)
            page = [entry for entry in ledger.entries(self.account, start) if entry.seq <= end]
            found[:0] = [entry for entry in page if wanted.items() <= entry.scope.items()]
            end = start
        return found[-count:]

    # What they prove.

    def verify(self) -> Audit:
        """Audit the account: its entries up to one instant against its counters at that instant.

        What its pools have reserved is compared with its open reservations, too, unless these never stand still.
        """
        for _ in range(_STILL):
            last = self.store.last(self.account)
            held = self.store.reservations(self.account)
            found = self.snapshot()
            if found.seq == last:
                break
        audit = self.audit(found).found
        if audit.ok and found.seq == last:
            audit.faults += unheld(found, held)
        return audit

    def snapshot(self) -> Snapshot:
        """Read the counters, and have the ledger up to that instant at least."""
        found = self.store.snapshot(self.account)
        self.ledger()
        return found

    def audit(self, found: Snapshot, *, compare: bool = True, touches: bool = False) -> Auditor:
        """Prove the ledger up to a snapshot of the counters, and compare the sums with these."""
        ledger = self.ledger()
        start = ledger.checkpoint(self.account)
        elsewhere = self._server is not None and ledger is self._server and self._server.is_trimmed(self.account)
        auditor = Auditor(start, touches=touches, anywhere=elsewhere)
        lines = ledger.lines(self.account, auditor.seq)
        upto, end = found.seq, found
        if ledger is not self.store and self.records is not None:
            upto, end = self.records.number_of(self.account, found.seq), ledger.snapshot(self.account)
        whole = auditor.read(lines, upto)
        if whole and compare:
            counters = {key: (bucket.spent, bucket.reserved) for key, bucket in found.buckets.items()}
            auditor.compare(counters, rolling_pools(found.names))
        if whole and end is not found:  # what was drained is newer than the counters
            auditor.read(ledger.lines(self.account, upto), end.seq)
        auditor.finish(end.head, end.seq)
        return auditor

    # What is put right.

    def rebuild(self, own: Sequence[Limit] = ()) -> Rebuilt:
        """Set every counter to what the ledger says. N processes that do it at once come to the same.

        A counter that is gone is made again, if the name of its pool is not gone, too.

        Args:
            own: The limits of this process: when their windows end.

        Raises:
            BudgetError: The ledger itself is damaged: nothing can be told from it.
            StoreUnavailable: The account is too busy.
        """
        changed: dict[tuple[str, int], None] = {}
        for _ in range(TRIES):
            found = self.snapshot()
            auditor = self.audit(found, compare=False)
            if auditor.found.faults or auditor.found.partial:
                fault = auditor.found.faults[0] if auditor.found.faults else "its first entries are not here"
                raise BudgetError(f"the ledger cannot be trusted, nothing was set: {fault}")
            wrong = wrong_buckets(auditor, found)
            if gone := auditor.lost(found.buckets, rolling_pools(found.names)):
                limits = Policy(0, self.call(LoadPolicy()).rows, own).limits
                wrong |= lost_buckets(auditor, found, gone, limits)
            if not wrong:
                return Rebuilt(list(changed), self.verify())
            names = {pool: found.names[pool] for pool, _ in wrong if pool in found.names}
            if self.call(Rebuild(found.seq, wrong, names)).status != "moved":
                changed.update(dict.fromkeys(wrong))
        raise StoreUnavailable("the account moves too fast to be rebuilt: stop what writes to it, and try again")

    def retire(self, found: Snapshot, windows: Collection[tuple[str, int]]) -> None:
        """Drop windows from a server that nothing can come in for any more."""
        by_pool: dict[str, list[int]] = {}
        for pool, start in found.buckets:
            by_pool.setdefault(pool, []).append(start)
        server = self._server
        if server is None:
            return
        for pool in sorted({pool for pool, _ in windows}):
            gone = [found.buckets[pool, start] for start in by_pool[pool] if (pool, start) in windows]
            server.retire(self.account, pool, gone, len(gone) == len(by_pool[pool]))

    def erase_server(self, swap_of: Callable[[Mapping[str, str]], Swap]) -> None:
        """Put a pseudonym in the place of a value on a server, and take the ledger away that still has it."""
        server, records = self._server, self.records
        assert server is not None
        assert records is not None
        while self.drain_step():
            pass
        swap = swap_of(self.store.names(self.account))
        server.swap_all(self.account, swap_of)
        for kind, identity, body in self.call(LoadPolicy()).rows:
            other = swap.text(identity), swap.text(body)
            if other != (identity, body):
                self.call(ChangePolicy(kind, *other, {"erased": True}))
                if other[0] != identity:
                    self.call(ChangePolicy(kind, identity, None, {"erased": True}))
        while self.drain_step():
            pass
        cursor = records.cursor(self.account)
        if cursor is not None:
            server.trim_all(self.account, cursor)

    def epoch(self) -> str:
        """Return the epoch of a server's account, "" if there is none."""
        return "" if self._server is None else self._server.epoch(self.account)

    def call(self, command: Command) -> Outcome:
        """Carry out a command of an operator."""
        return self.store.call(self.account, command, OPERATOR_TIMEOUT)
