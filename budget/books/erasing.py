"""Erasing a subject: its value becomes a pseudonym in all that is kept of it; sums, chain and audit stay as they are.

Entries of the past are changed, and only here: each keeps the digest of its first content, and the entry "erased" that
is appended vouches for what all erased ones say now, without naming the subject (`budget.audit`). Who has open
reservations is not erased: they are ended first.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from budget.books.books import Books
from budget.errors import ConfigError, ReservationConflict
from budget.pseudonym import Swap, pseudonym
from budget.stores.memory import MemoryStore
from budget.stores.sqlite import SqliteStore
from budget.stores.sqliteerase import erase as erase_file
from budget.stores.sqliteerase import scrub

__all__ = ["Erased", "erase"]

_KEY = "BUDGET_ERASE_KEY"
_SHORTEST = 16


class Erased(NamedTuple):
    """What was erased: how many entries have changed, and what stands in them now.

    `clean` says whether the file's log could be emptied at once; if a reader kept it, it is at the next checkpoint.
    """

    entries: int
    pseudonym: str
    clean: bool


def erase(books: Books, attribute: str, value: str, detail: Mapping[str, Any]) -> Erased:
    """Erase the value of an attribute.

    Args:
        books: Of the account.
        attribute, value: user, alice.
        detail: Who and why, for the ledger. It must not name the subject.

    Raises:
        ConfigError: The key cannot be used, or the server's ledger is not drained.
        ReservationConflict: The subject has an open reservation, or on a server an open window of an earlier erasure;
            nothing was changed.
        StoreUnavailable: The store cannot be reached.
    """
    if isinstance(books.store, MemoryStore):
        path = None
    elif isinstance(books.store, SqliteStore):
        path = books.store.path
    elif books.records is not None:
        path = books.records.path
    else:
        raise ConfigError("records: a server's ledger is erased where it is drained to; configure a records store")
    instead = pseudonym(erase_key(path), attribute, value)

    pools = dict(books.store.names(books.account))

    def swap_of(names: Mapping[str, str]) -> Swap:
        return Swap(attribute, value, instead, {**pools, **names})

    swap = swap_of({})
    told = swap.json({**detail, "attribute": attribute})
    for known in books.store.reservations(books.account):
        if swap.concerns(known):
            raise ReservationConflict(f"{known.id} is open: end it, or wait until its lease ends; nothing was erased")
    if isinstance(books.store, MemoryStore):
        return Erased(books.store.erase(books.account, swap_of, told), instead, True)
    assert path is not None
    if books.drains:
        books.erase_server(swap_of)
    count = erase_file(path, books.account, swap_of, told)
    return Erased(count, instead, scrub(path))


def erase_key(path: Path | None) -> bytes:
    """Return the key of pseudonyms: BUDGET_ERASE_KEY, else that of a file beside the store, which is made once.

    Raises:
        ConfigError: It is shorter than 16 characters.
    """
    given = os.environ.get(_KEY)
    if given is None and path is not None:
        file = path.with_name(path.name + ".erase-key")
        with suppress(FileExistsError):
            made = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(made, "w") as stream:
                stream.write(secrets.token_hex(32))
        given = file.read_text().strip()
    if given is None:
        return secrets.token_bytes(32)
    if len(given) < _SHORTEST:
        raise ConfigError(f"{_KEY}: a key has at least {_SHORTEST} characters")
    return given.encode()
