"""A backup: an SQLite store's file as it is at one instant, while others write; proved before it has its name.

What lies beside the store and has more than follows from it, such as sums of what was pruned, is copied first: it may
lag behind the store, and may not be ahead of it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from budget.books.books import Books
from budget.errors import BudgetError, ConfigError, StoreUnavailable
from budget.stores.records import Records
from budget.stores.sqlite import SqliteStore
from budget.stores.sqliteadmin import copy_file

__all__ = ["back_up"]


def back_up(store: SqliteStore, target: Path, beside: Sequence[str] = ()) -> int:
    """Copy a store's file; return how many entries the copy has.

    Args:
        store: Whose.
        target: The new file, with mode 0600.
        beside: What follows the name in those of other SQLite files, which are copied too where they exist.

    Raises:
        ConfigError: A file exists that would be written, or its folder does not.
        BudgetError: The copy has a fault; then there is none.
        StoreUnavailable: It cannot be copied.
    """
    for file in (target, *(_named(target, suffix) for suffix in beside)):
        if file.exists():
            raise ConfigError(f"file: {str(file)!r} exists; name another")
    if not target.parent.is_dir():
        raise ConfigError(f"file: the folder {str(target.parent)!r} does not exist")
    try:
        with ExitStack() as made:
            part = made.enter_context(_part(target))  # it has its name last
            for suffix in beside:
                if (file := _named(store.path, suffix)).exists():
                    copy_file(file, made.enter_context(_part(_named(target, suffix))), sqlite3.connect)
            copy_file(store.path, part)
            return _prove(part)
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(f"the store cannot be copied to {str(target)!r}: {error}") from error


@contextmanager
def _part(target: Path) -> Iterator[Path]:
    """Give the path of a part of a file, which has its own name in the end, unless something went wrong."""
    part = _named(target, ".part")
    _discard(part)
    try:
        yield part
        os.link(part, target)  # unlike a renaming, it never replaces what somebody put there meanwhile
    finally:
        _discard(part)


def _named(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


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
                raise BudgetError(f"the copy of account {account!r} does not balance: {found.faults[0]}")
            entries += found.entries
    return entries


def _discard(part: Path) -> None:
    for suffix in ("", "-wal", "-shm", ".lock"):
        with suppress(FileNotFoundError):
            _named(part, suffix).unlink()
