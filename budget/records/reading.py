"""Reading on in a ledger, as the file of records does: a portion at a time, without what says nothing of a call.

Half of a ledger are the entries of calls that were begun. A file's ledger is asked for the others alone, and for the
columns that a record is made of.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from budget.books.books import Books
from budget.errors import ConfigError
from budget.ledger import Entry
from budget.stores.base import Store
from budget.stores.sqlite import SqliteStore

__all__ = ["Portion", "digest_at", "ledger_of", "read_portion"]

_SPAN = 8000
"""Numbers of the ledger that one portion covers at most: a tenth of a second that another process waits."""
_ACCOUNT = "(select id from accounts where name = ?1)"
_NEXT = f"select min(seq) from entries where account = {_ACCOUNT} and seq > ?2"  # noqa: S608 - what is put in is above
_DIGEST = f"select digest from entries where account = {_ACCOUNT} and seq = ?2"  # noqa: S608 - what is put in is above
_TOLD = f"""select seq, at, kind, reservation, usd, tokens, input_tokens, output_tokens, requests, scope, detail
    from entries where account = {_ACCOUNT} and seq > ?2 and seq <= ?3
    and (kind <> 'reserved' or instr(detail, '"shadow"')) order by seq"""  # noqa: S608 - what is put in is above
_NO_TEXTS = ("", "", "")
_scan: Any = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # `json.loads` adds a fifth of its time


class Portion(NamedTuple):
    """What follows a place in the ledger: entries, the place after them, and the digest of the entry there."""

    entries: Iterable[Entry]
    upto: int
    digest: bytes


def ledger_of(books: Books) -> Store | None:
    """Return the store that has the whole ledger, up to date; None if there is no account yet.

    Raises:
        ConfigError: The store is a server whose ledger is not drained.
        StoreUnavailable: A store cannot be reached.
    """
    if not books.drains:
        return books.store
    if books.records is None:
        raise ConfigError("records: a server's ledger is read where it is drained to: configure a records store")
    if books.records.cursor(books.account) is None:
        books.drain_step(trim=False)
    ledger = books.ledger()
    return None if ledger is books.store else ledger


def read_portion(ledger: Store, account: str, after: int, last: int) -> Portion:
    """Read what follows the entry `after`, up to `last`, which the ledger has."""
    if not isinstance(ledger, SqliteStore):
        page = [entry for entry in ledger.entries(account, after) if entry.seq <= last]
        return Portion(page, page[-1].seq, page[-1].digest)
    first = ledger.rows(_NEXT, account, after)[0][0]  # far behind it, where entries were pruned
    upto = min(last, first - 1 + _SPAN)
    return Portion(map(_entry, ledger.rows(_TOLD, account, after, upto)), upto, digest_at(ledger, account, upto) or b"")


def digest_at(ledger: Store, account: str, seq: int) -> bytes | None:
    """Return the digest of an entry; None if it is not there, or not any more."""
    if isinstance(ledger, SqliteStore):
        rows = ledger.rows(_DIGEST, account, seq)
        return rows[0][0] if rows else None
    found = ledger.entries(account, seq - 1)
    return found[0].digest if found and found[0].seq == seq else None


def _read_json(text: str) -> Any:
    return _scan(text, 0)[0]


_read_scope = lru_cache(4096)(_read_json)  # a session's calls have the same; nobody changes what an entry says


def _entry(row: tuple[Any, ...]) -> Entry:
    seq, at_us, kind, id, usd, tokens, input, output, requests, scope, detail = row
    amounts = (usd, tokens, input, output, requests)
    return Entry(seq, at_us, kind, id, amounts, _read_scope(scope), _read_json(detail), (), _NO_TEXTS, b"")
