"""A backup: an SQLite store's file as it is at one instant, while others write; proved before it has its name."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from budget.books.books import Books
from budget.errors import ConfigError, StoreUnavailable
from budget.stores.records import Records
from budget.stores.sqlite import SqliteStore
from budget.stores.sqliteadmin import copy_file

__all__ = ["back_up"]


def back_up(store: SqliteStore, target: Path) -> int:
    """Copy a store's file; return how many entries the copy has.

    Args:
        store: Whose.
        target: The new file, with mode 0600.

    Raises:
        ConfigError: The file exists, or its folder does not.
        StoreUnavailable: It cannot be copied, or the copy has a fault; then there is none.
    """
    if target.exists():
        raise ConfigError(f"file: {str(target)!r} exists; name another")
    if not target.parent.is_dir():
        raise ConfigError(f"file: the folder {str(target.parent)!r} does not exist")
    part = target.with_name(target.name + ".part")
    try:
        _discard(part)
        copy_file(store.path, part)
        entries = _prove(part)
        os.link(part, target)  # unlike a renaming, it never replaces what somebody put there meanwhile
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(f"the store cannot be copied to {str(target)!r}: {error}") from error
    finally:
        _discard(part)
    return entries


def _prove(part: Path) -> int:
    """Audit every account of a copy."""
    entries = 0
    records = Records(f"sqlite:///{part}")
    with closing(records.store) as store:
        for (account,) in store.rows("select name from accounts order by name"):
            books = Books(store, account)
            # The pools of an account that was drained are on its server.
            drained = records.cursor(account) is not None
            found = books.audit(store.snapshot(account), compare=not drained).found
            if not found.ok:
                raise StoreUnavailable(f"the copy of account {account!r} does not balance: {found.faults[0]}")
            entries += found.entries
    return entries


def _discard(part: Path) -> None:
    for suffix in ("", "-wal", "-shm", ".lock"):
        with suppress(FileNotFoundError):
            part.with_name(part.name + suffix).unlink()
