"""Moving an account from one store to another: limits, pools, open reservations with their leases, ended ones that are
still remembered, and the ledger.

There are never two that admit. The source is frozen first, and stays so; the copy is frozen until it is proved. Ends
may still come in at the source while it is copied: then the copy is thrown away and made again.

What freezes an account says which part it has in which move. So a move that was killed, and left a frozen source and
perhaps part of a copy, can be made again: only a copy of the same move is replaced, a copy is never a source, and when
it is whole, the source first says that it was moved away, so that it gives no second one. What is written into the
source at the beginning also shows whether the target is that same store under another name.

A file takes the ledger as it is, digests included. A server cannot take another's chain: its ledger begins anew, and
what came before is in the records store, in one chain with what will be drained. Coming from a server whose ledger was
never drained, entries are chained anew.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from budget.audit import Audit
from budget.books.books import OPERATOR_TIMEOUT, TRIES, Books
from budget.commands import ChangePolicy, Command, Learn, Load, LoadPolicy, Rebuild, Refund, Reserve
from budget.errors import BudgetError, ConfigError, StoreUnavailable
from budget.ledger import GENESIS, Entry, dumps, make_entry
from budget.rows import selector_identity
from budget.stores.base import PAGE, Cursor, Drained, Store, read_entries
from budget.stores.sqlite import SqliteStore

__all__ = ["Moved", "move"]

_EVERYBODY = ("freeze", selector_identity({}))
_SELF = "to: that is the store that the account is in"


class Moved(NamedTuple):
    """What was moved: entries, pools, reservations; and what the audit says of the copy."""

    entries: int
    pools: int
    reservations: int
    audit: Audit


class _Mark(NamedTuple):
    """What the freeze of an account says of its move.

    Attributes:
        id: Of the move; "" if nobody moves the account.
        was: The freeze that was there before; None if there was none.
        part: "source", "copy", or "moved": a source whose copy is whole.
        attempt: Which of the attempts to make the move.
    """

    id: str = ""
    was: str | None = None
    part: str = ""
    attempt: str = ""

    def body(self, part: str) -> str:
        """Return the body of the freeze of one part."""
        return dumps({"move": self._replace(part=part)._asdict()})


def move(source: Books, target: Books, detail: Mapping[str, Any]) -> Moved:
    """Move an account.

    Args:
        source, target: From where, and to where: another store.
        detail: Who and why, for the ledger of both.

    Raises:
        ConfigError: The target has such an account, is the source itself, or lacks a records store; or the source is
            no source any more.
        BudgetError: A ledger has a fault.
        StoreUnavailable: A store cannot be reached, or the source does not rest. It stays frozen: run it again.
    """
    frozen = _freeze(source)
    mark = _read(frozen)
    _check(source, target, mark)
    if not mark.id:
        _prove(source)
        mark = _Mark(secrets.token_hex(8), frozen)
    mark = mark._replace(attempt=secrets.token_hex(8))
    body = mark.body("source")
    source.call(ChangePolicy(*_EVERYBODY, body, {**detail, "subject": {}, "moved_to": target.kind}))
    if _freeze(target) == body:
        source.call(ChangePolicy(*_EVERYBODY, frozen, {**detail, "subject": {}}))
        raise ConfigError(f"{_SELF}, under another name")
    for _ in range(TRIES):
        done = _copy(source, target, mark.body("copy"), detail)
        if done is not None:
            break
    else:
        raise StoreUnavailable("the account moves too fast: stop what writes to it, and try again")
    if not done.audit.ok:
        target.remove()
        raise BudgetError(f"the copy does not balance, and was removed: {done.audit.faults[0]}")
    source.call(ChangePolicy(*_EVERYBODY, mark.body("moved"), {**detail, "subject": {}, "moved_to": target.kind}))
    target.call(ChangePolicy(*_EVERYBODY, mark.was, {**detail, "subject": {}, "moved_from": source.kind}))
    return done


def _freeze(books: Books) -> str | None:
    """Return the body of the freeze of everybody, if there is one."""
    return next((row[2] for row in books.call(LoadPolicy()).rows if row[:2] == _EVERYBODY), None)


def _read(frozen: str | None) -> _Mark:
    return _Mark(**json.loads(frozen or "{}").get("move", {}))


def _prove(source: Books) -> None:
    before = source.audit(source.snapshot()).found
    if not before.ok or before.partial:
        fault = before.faults[0] if before.faults else "its first entries are not here"
        raise BudgetError(f"the ledger is not whole, nothing was moved: {fault}")


def _check(source: Books, target: Books, mark: _Mark) -> None:
    """See whether the target can take the account: it has none, or the copy of the same move, which was killed."""
    if mark.part == "copy":
        raise ConfigError("store: the account there is part of a copy; move it again from where it was")
    if _one(source.store, target.store):
        raise ConfigError(_SELF)
    if target.drains and target.records is None:
        raise ConfigError("records: a server takes an account only with a records store, where its ledger goes")
    there = _read(_freeze(target))
    if there.part == "copy" and there.id == mark.id and (mark.part == "source" or there.attempt == mark.attempt):
        return
    rows = target.call(LoadPolicy()).rows
    if rows or target.store.last(target.account) or (target.records and target.records.store.last(target.account)):
        raise ConfigError(f"to: the store has an account {target.account!r}; name another with --account")
    if mark.part == "moved":
        raise ConfigError("store: the account was moved away from there; move it from where it is now")


def _one(a: Store, b: Store) -> bool:
    """Whether two stores are surely one; a server may have names that nobody here knows."""
    if isinstance(a, SqliteStore) and isinstance(b, SqliteStore) and a.path.exists() and b.path.exists():
        return os.path.samefile(a.path, b.path)
    return a is b or a.url == b.url != "memory://"


def _copy(source: Books, target: Books, frozen: str, detail: Mapping[str, Any]) -> Moved | None:
    """Copy the account as it is at one instant; None if it has moved meanwhile."""
    target.remove()
    freeze = ChangePolicy(*_EVERYBODY, frozen, dict(detail)) if target.drains else Load(rows=[(*_EVERYBODY, frozen)])
    target.call(freeze)
    found = source.snapshot()
    rows = [row for row in source.call(LoadPolicy()).rows if row[:2] != _EVERYBODY]
    reservations = [*source.store.reservations(source.account), *source.store.ended(source.account)]
    learned = source.call(Learn()).learned
    ledger = target.records.store if target.drains and target.records is not None else target.store
    count = 0
    for portion in _portions(_entries(source)):
        count += len(portion)
        if ledger.call(target.account, Load(portion), OPERATOR_TIMEOUT).status != "loaded":
            raise StoreUnavailable("the ledger of the copy is written to by somebody else")
    if isinstance(target.store, Drained):
        for kind, identity, body in rows:
            target.call(ChangePolicy(kind, identity, body, dict(detail)))
        _seed(target, Rebuild(0, found.buckets, found.names))
        target.store.put_reservations(target.account, reservations)
        _wake(target)
        _begin(target, ledger.last(target.account))
    else:
        target.call(Load((), rows, found.buckets, found.names, reservations))
    if learned:
        target.call(Learn(learned))
    if source.store.last(source.account) != found.seq:
        return None
    return Moved(count, len(found.names), len(reservations), target.audit(target.snapshot()).found)


def _entries(source: Books) -> Iterator[Entry]:
    """Iterate the ledger, as it is, or chained anew by SHA-256 if a server made the chain."""
    ledger = source.ledger()
    start = ledger.checkpoint(source.account)
    entries = read_entries(ledger, source.account, after=start.upto if start else 0)
    if not isinstance(ledger, Drained):
        yield from entries
        return
    head = GENESIS
    for seq, e in enumerate(entries, 1):
        made = make_entry(head, seq, e.at_us, e.kind, e.reservation, e.amounts, e.scope, e.detail, e.postings)
        head = made.digest
        yield made


def _portions(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    rest = iter(entries)
    while portion := list(islice(rest, PAGE)):
        yield portion


def _seed(target: Books, command: Rebuild) -> None:
    """Set a server's counters, which nobody else writes to."""
    command.seq = target.store.last(target.account)
    if command.buckets and target.call(command).status != "rebuilt":
        raise StoreUnavailable("the copy is written to by somebody else")


def _wake(target: Books) -> None:
    """Have a server look at its leases: it remembers when the earliest ends, and was told of none."""
    version = target.call(LoadPolicy()).version
    id = secrets.token_hex(16)
    commands: tuple[Command, ...] = (Reserve(id, "", (0, 0, 0, 0, 0), (), version, 1, {}, {}), Refund(id))
    for command in commands:
        target.call(command)


def _begin(target: Books, since: int) -> None:
    """Have the records store go on with what the server will add."""
    assert target.records is not None
    target.records.begin(target.account, Cursor(secrets.token_hex(8), target.epoch(), since))
