"""What a server keeps of a request, and reservations: in few bytes, for what is open takes its memory.

The other side of `lua/records.lua`. A body is compressed with what bodies have in common; scripts never look into it.
"""

from __future__ import annotations

import json
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import lt
from struct import Struct
from typing import Any, NamedTuple

from budget.commands import Amounts, Reservation, Share
from budget.ledger import dumps, dumps_scope
from budget.stores.packed import CHARGED, NUMBERS, pack_amounts, read_amounts, seal

__all__ = [
    "NOTHING_KEPT", "Named", "keep", "named_in", "pack_id", "pack_ids", "pack_record", "read_id", "read_kept",
    "read_record", "read_shares", "read_starts",
]  # fmt: skip

_RECORD = Struct("<cddddH40s")
"""The head of a reservation: state, lease, its end, made, ended, bytes of the starts that follow, what was charged."""
_FIRST_WIDTHS = Struct("<3H")  # in the first format: pools, bytes of their ids, bytes of the digest
_FIRST_KEPT = 16 + CHARGED  # where they stand
_WIDTHS = Struct("<2H")  # bytes of the ids of pools, of the digest
_FORM, _ALL_TAKEN, _NONE_TAKEN, _ONE_UNIT, _KNOWN_WIDTHS, _IN_FULL = 128, 64, 32, 16, 8, 4  # `layout` of the scripts
_SMALL = Struct("<QB3IB")  # amounts in few bytes: above those of the first the form, after it how many pools
_LIMITS = (2**53, 2**32, 2**32, 2**32, 2**8)  # what is below these is written so
_WINDOW = -10  # bits of zlib's window, without its header
_ID, _DIGEST = 12, 16  # bytes of a pool's id, of a digest
_OPEN = b"p"
_FRESH = 14  # bytes before its starts: state, when it was made (7), lease (5), bytes of the starts
_USUAL = (
    b'[{"model":"gpt-claude-","provider":"anthropic","run":"tenant":"customer":"unpriced":true,'
    b'"book":"","estimate":{"closed":true,"counted_by":"bytes","input_tokens":10,"input_tokens_max":"output_tokens_max":'
    b'"provider":"openai","reasons":[],"usd":"0.0","usd_max":"0.0"},"model":"'
    b'[{"agent":"","session":"","team":"","user":""},{},null]'
)
"""What bodies have in common: who reads them must have the same, to the byte."""
_STATES = {b"o": "open", _OPEN: "open", b"r": "reconciled", b"f": "refunded", b"x": "expired"}


def keep(
    amounts: Amounts, pools: tuple[int, bytes, bytes], taken: Sequence[int], digest: str, scope: Mapping[str, str],
    detail: Mapping[str, Any], parent: str | None = None,
) -> bytes:  # fmt: skip
    """Write what a store keeps of a request, sealed; scripts copy it as it is.

    Args:
        amounts: What was asked for.
        pools: How many, their ids (`pack_ids`), their units, a byte each.
        taken: What was taken from each; none is nothing of any. It is left out where it is the amount of the unit, or
            nothing.
        digest: Of what the caller asked.
        scope, detail, parent: Of the reservation.
    """
    count, ids, units = pools
    asked, widths, form, figures = _pack_digest(digest), b"", _FORM, b""
    known: Any = None not in amounts and (*amounts, 1)
    if not any(taken):
        form += _NONE_TAKEN
    elif known and tuple(taken) == tuple(map(known.__getitem__, units)):
        form += _ALL_TAKEN
    else:
        figures = NUMBERS[count].pack(*taken)
    if units and units == units[:1] * count:
        form, units = form + _ONE_UNIT, units[:1]
    if ids[:1] == asked[:1] == b"\0":
        form, ids, asked = form + _KNOWN_WIDTHS, ids[1:], asked[1:]
    else:
        widths = _WIDTHS.pack(len(ids), len(asked))
    if known and min(known) >= 0 and all(map(lt, known, _LIMITS)):
        head = _SMALL.pack(known[0] + (form << 56), count, *known[1:5])
    else:
        head = ((form + _IN_FULL) << 56).to_bytes(8, "little") + bytes((count,)) + pack_amounts(amounts)
    more = dumps(detail) if detail else "{}"
    body = _squeeze(f"[{dumps_scope(scope)},{more},{'null' if parent is None else dumps(parent)}]")
    return seal(b"".join((head, widths, units, figures, ids, asked, body)))


def pack_ids(ids: Sequence[str]) -> bytes:
    """Write the ids of pools. Those that are made of 96 bits (all but those of tests) are written as such."""
    if ids and all(len(id) == 16 for id in ids):
        raw = urlsafe_b64decode("".join(ids))
        if urlsafe_b64encode(raw).decode() == "".join(ids):
            return b"\0" + raw
    return "\n".join(ids).encode()


def pack_id(id: str) -> bytes:
    """Write the id of a reservation: 16 bytes behind a zero, or what it is else."""
    return _pack_digest(id)


def read_id(packed: bytes) -> str:
    """Read the id of a reservation; the first format wrote all of them as text."""
    return _read_digest(packed)


def _read_ids(packed: bytes) -> list[str]:
    if not packed.startswith(b"\0"):
        return packed.decode().split("\n")
    text = urlsafe_b64encode(packed[1:]).decode()
    return [text[i : i + 16] for i in range(0, len(text), 16)]


def _pack_digest(digest: str) -> bytes:
    if len(digest) == 2 * _DIGEST:
        try:
            raw = bytes.fromhex(digest)
        except ValueError:
            return digest.encode()
        if raw.hex() == digest:
            return b"\0" + raw
    return digest.encode()


def _read_digest(packed: bytes) -> str:
    return packed[1:].hex() if packed.startswith(b"\0") else packed.decode()


@lru_cache(1024)
def _squeeze(text: str) -> bytes:
    """Write a body in fewer bytes; a call's is often that of the call before."""
    made = zlib.compressobj(9, zlib.DEFLATED, _WINDOW, 2, zlib.Z_FIXED, _USUAL)
    return made.compress(text.encode()) + made.flush()


class _Kept(NamedTuple):
    """How what was kept of a request is laid out: `layout` in the scripts says what its form means."""

    form: int
    pools: int
    units: int
    ids: int
    digest: int
    body: int


def _layout(kept: bytes) -> _Kept:
    form = kept[23]
    if form in (0, 255):
        count, width, length = _FIRST_WIDTHS.unpack_from(kept, _FIRST_KEPT)
        units, taken = _FIRST_KEPT + _FIRST_WIDTHS.size, 15 * count
        form = 0
    else:
        count, width, length, units = kept[24], _ID * kept[24], _DIGEST, 65 if form & _IN_FULL else 38
        if not form & _KNOWN_WIDTHS:
            width, length = _WIDTHS.unpack_from(kept, units)
            units += _WIDTHS.size
        taken = 0 if form & (_ALL_TAKEN | _NONE_TAKEN) else 8 * count
    ids = units + (1 if form & _ONE_UNIT else count) + taken
    return _Kept(form, count, units, ids, ids + width, ids + width + length)


def _amounts(kept: bytes, form: int) -> Amounts:
    if form == 0:
        return read_amounts(kept[16:_FIRST_KEPT])
    if form & _IN_FULL:
        return read_amounts(kept[25 : 25 + CHARGED])
    first, _, *others = _SMALL.unpack_from(kept, 16)
    return (first - (form << 56), *others)


def _ids_in(kept: bytes, at: _Kept) -> bytes:
    """Return the ids of the pools as `pack_ids` writes them."""
    ids = kept[at.ids : at.digest]
    return b"\0" + ids if at.form & _KNOWN_WIDTHS else ids


def read_kept(kept: bytes) -> tuple[Amounts, str, dict[str, str], dict[str, Any], str | None]:
    """Read what was kept of a request: amounts, digest, scope, detail, parent."""
    at = _layout(kept)
    digest, body = kept[at.digest : at.body], kept[at.body :]
    scope, detail, parent = json.loads(zlib.decompressobj(_WINDOW, _USUAL).decompress(body) if at.form else body)
    asked = digest.hex() if at.form & _KNOWN_WIDTHS else _read_digest(digest)
    return _amounts(kept, at.form), asked, scope, detail, parent


def read_shares(starts: bytes, kept: bytes) -> tuple[Share, ...]:
    """Read what a request took from which buckets (at 0 if it took nothing)."""
    at = _layout(kept)
    form, count = at.form, at.pools
    units: Sequence[int] = kept[at.units : at.units + count]
    if form & _ONE_UNIT:
        units = kept[at.units : at.units + 1] * count
    if form == 0:
        numbers = list(map(int, NUMBERS[2 * count].unpack_from(kept, at.units)))
        units, taken = numbers[:count], numbers[count:]
    elif form & _ALL_TAKEN:
        usual: Any = (*_amounts(kept, form), 1)
        taken = [usual[unit] for unit in units]
    elif form & _NONE_TAKEN:
        taken = [0] * count
    else:
        taken = list(map(int, NUMBERS[count].unpack_from(kept, at.ids - 8 * count)))
    places = read_starts(starts, count)[0] if starts else (0,) * count
    return tuple(map(Share, _read_ids(_ids_in(kept, at)), units, places, taken))


def read_starts(packed: bytes, count: int) -> tuple[Sequence[int], Sequence[int]]:
    """Read where windows start, as `pack_starts` of the scripts wrote it, and numbers that may follow."""
    whole = len(packed) % (8 * count) if count else 0
    if not whole:
        numbers = list(map(int, NUMBERS[len(packed) // 8].unpack(packed)))
        return numbers[:count], numbers[count:]
    width, rest = 2 if count <= 8 else 6, packed[whole:]
    marks = int.from_bytes(packed[:width], "little")
    each = [int.from_bytes(packed[i : i + 7], "little") for i in range(width, whole, 7)]
    return [each[marks >> 2 * i & 3] for i in range(count)], list(map(int, NUMBERS[len(rest) // 8].unpack(rest)))


def _parts(record: bytes) -> tuple[bytes, list[int], bytes, bytes, bytes]:
    """Return state, times, what was charged, starts and kept of a reservation."""
    if record[:1] == _OPEN:
        made, lease, width = (int.from_bytes(record[i:j], "little") for i, j in ((1, 8), (8, 13), (13, _FRESH)))
        code, moments = _OPEN, [lease, made + lease, made, 0]
        charged, start = bytes(CHARGED), _FRESH
    else:
        code, *times, width, charged = _RECORD.unpack_from(record)
        moments, start = list(map(int, times)), _RECORD.size
    return code, moments, charged, record[start : start + width], record[start + width :]


def read_record(id: str, record: bytes) -> Reservation:
    """Read a reservation as a script stored it."""
    state, (lease, lease_end, made, ended), charged, starts, kept = _parts(record)
    amounts, digest, scope, detail, parent = read_kept(kept)
    return Reservation(
        id, digest, _STATES[state], amounts, read_shares(starts, kept), lease, lease_end, made, ended,
        None if _STATES[state] == "open" and not any(charged) else read_amounts(charged), scope, detail, parent,
    )  # fmt: skip


def pack_record(known: Reservation) -> bytes:
    """Write a reservation that has ended as a script stores it."""
    shares = known.shares
    starts = NUMBERS[len(shares)].pack(*[share.start for share in shares])
    taken = tuple([share.amount for share in shares])
    pools = (len(shares), pack_ids([share.pool for share in shares]), bytes(share.unit for share in shares))
    kept = keep(known.amounts, pools, taken, known.digest, known.scope, known.detail, known.parent)
    times = (known.lease_us, known.lease_end, known.made, known.ended)
    code = next(code for code, state in _STATES.items() if state == known.state)
    return _RECORD.pack(code, *times, len(starts), pack_amounts(known.charged or (0, 0, 0, 0, 0))) + starts + kept


class Named(NamedTuple):
    """The shares of a stored reservation, and the ids of their pools as they stand there."""

    shares: tuple[Share, ...]
    ids: bytes


def named_in(record: bytes) -> Named:
    """Read the shares of a reservation alone."""
    *_, starts, kept = _parts(record)
    return Named(read_shares(starts, kept), _ids_in(kept, _layout(kept)))


NOTHING_KEPT = keep((0, 0, 0, 0, 0), (0, b"", b""), (), "", {}, {})
