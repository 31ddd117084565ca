"""Batch files: what the requests of a file can cost is taken note of as it is uploaded, by the file's id.

A batch of OpenAI names a file, and the file is seen once, on its way to the provider. Nothing of its text is kept, only
the sums of `Batch`, or what is wrong with it: an upload costs nothing and is never refused. An upload in parts is
not read, because their order is said at its end: a batch of such a file, as of one that was uploaded elsewhere, is
refused, unless money was set aside for it by hand.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from budget.clients.backstop import HOW
from budget.clients.late.batches import Batch, batch_of, requests_of_file
from budget.clients.protocol import Protocol
from budget.errors import BudgetError, Unbounded

if TYPE_CHECKING:
    from budget.engine import Budget

__all__ = ["read_upload", "remember", "uploaded"]

_KEPT = 1024  # files that one engine remembers
_files: WeakKeyDictionary[Budget, OrderedDict[str, Batch | BudgetError]] = WeakKeyDictionary()
_lock = Lock()


def read_upload(budget: Budget, protocol: Protocol, files: Any) -> Batch | BudgetError:
    """Return what is known of the requests in an upload, or what is wrong with them."""
    pairs = files.items() if hasattr(files, "items") else files or ()
    try:
        for name, file in pairs:
            if name == "file":
                return batch_of(budget.engine, protocol, requests_of_file(file, protocol))
    except BudgetError as error:
        return error.with_traceback(None)  # whose frames hold the file
    return Unbounded(["a batch file that was uploaded without a file"])


def remember(budget: Budget, id: str, found: Batch | BudgetError) -> None:
    """Take note of an uploaded file's requests."""
    with _lock:
        known = _files.setdefault(budget, OrderedDict())
        known[id] = found
        while len(known) > _KEPT:
            known.popitem(last=False)


def uploaded(budget: Budget, id: object) -> Batch:
    """Return what is known of a file's requests.

    Raises:
        Unbounded: It was not uploaded through a client that this engine wraps, in this process.
        BudgetError: What is wrong with its requests.
    """
    known = _files.get(budget)
    found = known.get(id) if known is not None and isinstance(id, str) else None
    if found is None:
        raise Unbounded([
            f"the requests of the file {str(id)[:60]!r} are not known; upload it with files.create(purpose='batch') of "
            f"this wrapped client, not in parts (uploads), before batches.create, or {HOW}"
        ])  # fmt: skip
    if isinstance(found, BudgetError):
        raise found.with_traceback(None)
    return found
