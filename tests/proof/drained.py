"""Draining, where what drains fails at a step that was chosen: any store taken for a server, and a records store.

`Served` has the ledger of another store, page by page. What is drained is held to it: each entry once, in order, and
nothing is dropped from the server before it is in the records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from budget.books.books import Books
from budget.errors import StoreUnavailable
from budget.ledger import Entry
from budget.stores.base import Cursor, Store, read_entries
from budget.stores.records import Records

from .invariants import must

__all__ = ["Served", "all_there", "drain", "said"]

_PAGE = 20


class Served:
    """A store as a server whose ledger is drained.

    Args:
        store: Whose ledger.
        records: Where it is drained to.
        meanwhile: Called before and after each answer: may raise, or drain as well.
    """

    def __init__(self, store: Store, records: Records, meanwhile: Callable[[], None] = lambda: None):
        self._store, self._records, self._meanwhile = store, records, meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def epoch(self, account: str) -> str:
        return "one"

    def checkpoint(self, account: str) -> None:
        """There is none on a server."""

    def drain_page(self, account: str, cursor: Cursor) -> tuple[list[Entry], Cursor]:
        self._meanwhile()
        page = list(self._store.entries(account, cursor.seq))[:_PAGE]
        self._meanwhile()
        return page, replace(cursor, seq=page[-1].seq, digest=page[-1].digest) if page else cursor

    def pool_names(self, account: str, pools: Sequence[str]) -> dict[str, str]:
        known = self._store.names(account)
        return {pool: known[pool] for pool in pools if pool in known}

    def trim(self, account: str, cursor: Cursor) -> None:
        kept = self._records.store.last(account)
        must(kept >= cursor.seq, "I27", None, f"entries up to {cursor.seq} are dropped, and {kept} are kept elsewhere")
        self._meanwhile()

    def is_trimmed(self, account: str) -> bool:
        return True

    def _never(self, *_: object) -> None:
        raise AssertionError("a drain does not do that")

    put_reservations = swap_all = trim_all = retire = _never


def drain(books: Books, tries: int = 1) -> bool:
    """Drain to the end, again and again where it fails; whether it came there."""
    for _ in range(tries):
        with suppress(StoreUnavailable):
            while books.drain_step():
                pass
            return True
    return False


def said(store: Store, account: str = "default") -> list[tuple[Any, ...]]:
    """What a ledger says, apart from numbers and digests."""
    return [
        (e.at_us, e.kind, e.reservation, e.amounts, dict(e.scope), dict(e.detail), [tuple(p) for p in e.postings])
        for e in read_entries(store, account)
    ]


def all_there(books: Books, before: Sequence[tuple[Any, ...]]) -> None:
    """Each entry was moved once, in order, and the books balance."""
    assert books.records is not None
    kept = said(books.records.store, books.account)
    must(kept == list(before), "I12", None, f"{len(before)} entries were drained, {len(kept)} came: not the same ones")
    found = books.verify()
    must(found.ok and not found.partial, "I11", None, f"the audit of what was drained says {found.faults}")
