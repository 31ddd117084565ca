"""Moving an account from one store to another: limits, pools, open reservations with their leases, ended ones that are
still remembered, and the ledger.

There are never two that admit. The source is frozen first, and stays so; the copy is frozen until it is proved. Ends
may still come in at the source while it is copied: then the copy is thrown away and made again. A move that was killed
leaves a frozen source and at most a frozen part of a copy, which the next one replaces.

A file takes the ledger as it is, digests included. A server cannot take another's chain: its ledger begins anew, and
what came before is in the records store, in one chain with what will be drained. Coming from a server whose ledger was
never drained, entries are chained anew.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from budget.audit import Audit
from budget.books.books import OPERATOR_TIMEOUT, TRIES, Books
from budget.commands import ChangePolicy, Command, Learn, Load, LoadPolicy, Rebuild, Refund, Reserve
from budget.errors import ConfigError, StoreUnavailable
from budget.ledger import GENESIS, Entry, dumps, make_entry
from budget.rows import selector_identity
from budget.stores.base import PAGE, Cursor, Drained, read_entries

__all__ = ["Moved", "move"]

_EVERYBODY = ("freeze", selector_identity({}))
_MOVING = dumps({"moving": True})


class Moved(NamedTuple):
    """What was moved: entries, pools, reservations; and what the audit says of the copy."""

    entries: int
    pools: int
    reservations: int
    audit: Audit


def move(source: Books, target: Books, detail: Mapping[str, Any]) -> Moved:
    """Move an account.

    Args:
        source, target: From where, and to where: another store.
        detail: Who and why, for the ledger of both.

    Raises:
        ConfigError: The target has such an account, or lacks a records store.
        StoreUnavailable: A store cannot be reached, or a ledger has a fault. The source stays frozen: run it again.
    """
    _check(source, target)
    frozen = dict(_rows(source)).get(_EVERYBODY)
    if frozen != _MOVING:
        before = source.verify()
        if not before.ok or before.partial:
            fault = before.faults[0] if before.faults else "its first entries are not here"
            raise StoreUnavailable(f"the ledger is not whole, nothing was moved: {fault}")
    source.call(ChangePolicy(*_EVERYBODY, _MOVING, {**detail, "subject": {}, "moved_to": target.kind}))
    for _ in range(TRIES):
        done = _copy(source, target, detail)
        if done is not None:
            break
    else:
        raise StoreUnavailable("the account moves too fast: stop what writes to it, and try again")
    if not done.audit.ok:
        target.remove()
        raise StoreUnavailable(f"the copy does not balance, and was removed: {done.audit.faults[0]}")
    body = None if frozen in (None, _MOVING) else frozen
    target.call(ChangePolicy(*_EVERYBODY, body, {**detail, "subject": {}, "moved_from": source.kind}))
    return done


def _rows(books: Books) -> Iterator[tuple[tuple[str, str], str]]:
    return (((kind, identity), body) for kind, identity, body in books.call(LoadPolicy()).rows)


def _check(source: Books, target: Books) -> None:
    """See whether the target can take the account."""
    if source.store is target.store or source.store.url == target.store.url != "memory://":
        raise ConfigError("to: that is the store that the account is in")
    if target.drains and target.records is None:
        raise ConfigError("records: a server takes an account only with a records store, where its ledger goes")
    rows = dict(_rows(target))
    if rows.get(_EVERYBODY) == _MOVING:
        return  # what a move that was killed has left; it is replaced
    if rows or target.store.last(target.account) or (target.records and target.records.store.last(target.account)):
        raise ConfigError(f"to: the store has an account {target.account!r}; name another with --account")


def _copy(source: Books, target: Books, detail: Mapping[str, Any]) -> Moved | None:
    """Copy the account as it is at one instant; None if it has moved meanwhile."""
    target.remove()
    target.call(
        ChangePolicy(*_EVERYBODY, _MOVING, dict(detail)) if target.drains else Load(rows=[(*_EVERYBODY, _MOVING)])
    )
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
    return Moved(count, len(found.names), len(reservations), target.verify())


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
