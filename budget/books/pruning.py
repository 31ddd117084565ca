"""Retention: entries from before an instant are summed into one that stands for them, and windows long over go.

What is left proves as much of the present as before: the sums are part of the chain, and the audit begins at them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from budget.audit import Audit, Auditor, Checkpoint, Key, rolling_pools
from budget.books.books import OPERATOR_TIMEOUT, TRIES, Books
from budget.commands import Prune
from budget.errors import ConfigError, StoreUnavailable
from budget.stores.base import Drained, Snapshot, Store
from budget.window import SECOND

__all__ = ["KEPT_WINDOWS", "Pruned", "prune"]

KEPT_WINDOWS = 30 * 86400 * SECOND
"""How long a window that is over is kept after its last posting, microseconds: an end may come in for what was taken
from it as long as that is remembered (`pool.keep_until`: a week and two leases, of at most a week each)."""


class Pruned(NamedTuple):
    """What pruning did: how many entries and windows went, and up to which entry; `audit` is of the ledger before."""

    entries: int
    windows: int
    upto: int
    audit: Audit


class _Sum(NamedTuple):
    """The ledger up to an entry."""

    checkpoint: Checkpoint
    entries: int
    touched: Mapping[Key, int]


def prune(books: Books, before_us: int, now_us: int, detail: Mapping[str, Any]) -> Pruned:
    """Let one entry stand for all from before an instant.

    Only a ledger that is proved is pruned. Entries go in portions, after the one that stands for them is there: if this
    is killed, the next one drops what was left.

    Args:
        books: Whose.
        before_us, now_us: Up to when, and the present instant.
        detail: Who and why, for the ledger.

    Raises:
        ConfigError: The ledger is on a server.
        StoreUnavailable: Somebody else prunes or erases at the same time.
    """
    account = books.account
    if isinstance(books.ledger(), Drained):
        raise ConfigError("records: a server's ledger is pruned where it is drained to; run 'budget drain' first")
    for _ in range(TRIES):
        found = books.snapshot()
        ledger = books.ledger()
        whole = books.audit(found, touches=True)
        if not whole.found.ok or whole.found.partial:
            return Pruned(0, 0, 0, whole.found)
        known, start = _sum(ledger, account, before_us), ledger.checkpoint(account)
        left = found.buckets.keys() & (start.retired if start else frozenset())
        books.retire(found, left)  # what one that was killed has left behind, as are entries
        ledger.forget_entries(account, known.checkpoint.upto - known.entries)
        if not known.entries:
            return Pruned(0, 0, known.checkpoint.upto, whole.found)
        later = Auditor(Checkpoint(known.checkpoint.upto, known.checkpoint.digest))
        later.read(ledger.lines(account, known.checkpoint.upto))
        vouches = {"sealed": sealed} if (sealed := later.sealed()) else {}
        gone = _over(books, found, {**known.touched, **(whole.touched or {})}, known, before_us, now_us)
        command = Prune(whole.voucher, *known.checkpoint[:4], gone, {**detail, **vouches})
        retired: set[Key] = set()
        if books.drains:
            retired = {*gone, *left} & found.buckets.keys()
            command.detail = {**command.detail, "retired": sorted(retired)}
        if ledger.call(account, command, OPERATOR_TIMEOUT).status != "moved":
            books.retire(found, retired)
            ledger.forget_entries(account, known.checkpoint.upto)
            return Pruned(known.entries, len(gone), known.checkpoint.upto, whole.found)
    raise StoreUnavailable("somebody else prunes or erases this ledger; try again")


def _sum(ledger: Store, account: str, before_us: int) -> _Sum:
    """Sum the entries from before an instant."""
    start = ledger.checkpoint(account)
    first = ledger.entries(account, start.upto if start else 0, before_us)
    upto = first[0].seq - 1 if first else ledger.last(account)
    auditor = Auditor(start, touches=True)
    auditor.read(ledger.lines(account, auditor.seq), upto)
    sums = {key: (spent, reserved) for key, (spent, reserved) in auditor.sums.items()}
    made = Checkpoint(auditor.seq, auditor.found.head, tuple(auditor.amounts), sums)
    return _Sum(made, auditor.found.entries, auditor.touched or {})


def _over(
    books: Books, found: Snapshot, touched: Mapping[Key, int], known: _Sum, before_us: int, now_us: int
) -> list[Key]:
    """Return the windows that nothing can come in for any more."""
    until = min(before_us, now_us - KEPT_WINDOWS)
    held = {
        (share.pool, share.start) for open_one in books.store.reservations(books.account) for share in open_one.shares
    }
    rolling = rolling_pools(found.names)
    gone = []
    for key, (spent, reserved) in known.checkpoint.sums.items():
        bucket = found.buckets.get(key)
        if bucket is None:
            over = key[0] in rolling or (spent, reserved) == (0, 0)
        else:
            still = (bucket.spent, bucket.reserved) == (spent, reserved) and not reserved
            over = still and bucket.end <= until and touched.get(key, 0) <= until and key not in held
        if over:
            gone.append(key)
    return gone
