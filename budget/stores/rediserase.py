"""Erasing a value from a server: pools get another name and id, ended reservations and sketches the pseudonym.

The ledger was drained before, and is trimmed here to its last byte: entries cannot be changed in a stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from budget.errors import ReservationConflict
from budget.pseudonym import Swap
from budget.stores import redisreads
from budget.stores.base import PAGE, Cursor
from budget.stores.kept import pack_record
from budget.stores.keys import Keys

__all__ = ["swap_all", "trim_all"]

Ask = Callable[..., Any]


def swap_all(ask: Ask, run: Callable[..., Any], keys: Keys, swap: Swap) -> None:
    """Put the pseudonym wherever the server has the value, but in the policy and the ledger.

    Raises:
        ReservationConflict: The subject was erased before, and its pools of then are in use. Nothing was changed.
    """
    for other, _ in swap.pools.values():
        if ask("EXISTS", keys.pool + other):
            raise ReservationConflict(
                "the subject was erased before, and a window of then is open; erase it when that is over"
            )
    for pool, (other, name) in swap.pools.items():
        starts = [field.rpartition(b":")[2] for field in _fields(ask, keys.closed, f"{pool}:*")]
        run("rename", [keys.names, keys.closed, keys.pool + pool, keys.pool + other], [pool, other, name, *starts])
    for known in redisreads.ended(ask, keys):
        if swap.concerns(known):
            ask("SET", keys.reservation + known.id, pack_record(swap.reservation(known)), "XX", "KEEPTTL")
    for field in _fields(ask, keys.sketches, "*"):
        sketch = swap.sketch(field.decode())
        if sketch != field.decode():
            ask("HSET", keys.sketches, sketch, ask("HGET", keys.sketches, field))
            ask("HDEL", keys.sketches, field)


def trim_all(ask: Ask, keys: Keys, cursor: Cursor) -> None:
    """Drop everything up to a place from ledger and refusals; what was drained is elsewhere."""
    ask("SET", keys.drain, cursor.mark, "NX")
    ask("XTRIM", keys.ledger, "MINID", "=", f"{cursor.seq + 1}-0")
    if cursor.refusal != "0-0":
        first, _, second = cursor.refusal.partition("-")
        ask("XTRIM", keys.refusals, "MINID", "=", f"{first}-{min(int(second) + 1, 2**63 - 1)}")


def _fields(ask: Ask, key: str, pattern: str) -> list[bytes]:
    found: dict[bytes, None] = {}
    cursor = b"0"
    while True:
        cursor, pairs = ask("HSCAN", key, cursor, "MATCH", pattern, "COUNT", PAGE)
        found.update(dict.fromkeys(pairs[::2]))
        if cursor == b"0":
            return list(found)
