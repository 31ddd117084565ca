"""What a file of records has that is in no ledger, when its account moves to another store."""

from __future__ import annotations

from contextlib import closing

from budget.books.books import Books
from budget.records.callfile import CallFile

__all__ = ["move_imported"]


def move_imported(source: Books, target: Books) -> int:
    """Copy what was imported into the file of one store's account to that of another; return how many calls.

    All else is made from the ledger, where that is then. What was copied before is not copied again.

    Raises:
        StoreUnavailable: One of both files cannot be used.
    """
    with closing(CallFile(source)) as old:
        if old.path is None or not old.path.exists():
            return 0
        with closing(CallFile(target)) as new:
            return new.put_from(old)
