"""A server that holds writers to Arc's contract to the letter, its traps included.

`POST /api/v1/write/msgpack`, 204 without a body. The type of a column is that of its first value that is not null; an
integer there cuts later floats down to whole numbers, a float takes integers, a text in a column of numbers fails the
request with 500. A column of nulls becomes text. Of several maps in one request, those that cannot be read are left
out, and the answer is 204 all the same. Success means only that the rows were taken: there is no key for repeats.

Source: Arc's documentation and source code, as of August 2026.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import msgpack

from .receiver import Receiver

__all__ = ["ArcServer"]

_DATABASE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_MEASUREMENT = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,127}")
_UNITS = ((1e10, 1_000_000), (1e13, 1_000), (1e16, 1))  # below: seconds, milliseconds, microseconds; else nanoseconds


class Refused(Exception):
    """The request as a whole is refused."""

    def __init__(self, status: int, error: str):
        super().__init__(error)
        self.status = status


class ArcServer(Receiver):
    """Arc in memory.

    Attributes:
        rows: By (database, measurement), what was written, as a query would show it; `time` is in microseconds.
        skipped: Maps that were left out without a word.
    """

    def __init__(self, token: str | None = "secret", limit: int = 1_000_000_000):
        self.token, self._limit = token, limit
        self.rows: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        self.requests: list[dict[str, Any]] = []
        self.skipped = 0
        super().__init__()

    def take(self, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        given = {name.lower(): value for name, value in headers.items()}
        try:
            self._take(path, given, body)
        except Refused as refused:
            return refused.status, json.dumps({"error": str(refused)}).encode()
        return 204, b""

    def _take(self, path: str, headers: Mapping[str, str], body: bytes) -> None:
        if path != "/api/v1/write/msgpack":
            raise Refused(404, "not found")
        words = headers.get("authorization", headers.get("x-api-key", "")).split()
        if self.token is not None and (not words or words[-1] != self.token):
            raise Refused(401, "no or bad token")
        database = headers.get("x-arc-database", "default")
        if not _DATABASE.fullmatch(database):
            raise Refused(400, "bad database name")
        read = self._decode(body)
        several = read if isinstance(read, list) else read.get("batch") if isinstance(read, dict) else None
        if several is None:
            self._write(database, read)
            return
        for item in several:
            try:
                self._write(database, item)
            except Refused:
                self.skipped += 1

    def _decode(self, body: bytes) -> Any:
        if not body:
            raise Refused(400, "empty")
        if len(body) > self._limit:
            raise Refused(413, "too large")
        try:
            plain = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
            if len(plain) > self._limit:
                raise Refused(400, "too large when inflated")
            return msgpack.unpackb(plain)
        except (ValueError, OSError, EOFError, zlib.error) as error:
            raise Refused(400, f"invalid msgpack: {error}") from error

    def _write(self, database: str, read: Any) -> None:
        if not isinstance(read, dict) or not isinstance(columns := read.get("columns"), dict):
            raise Refused(400, "no columns")
        if not isinstance(name := read.get("m"), str) or not _MEASUREMENT.fullmatch(name):
            raise Refused(400, "bad measurement name")
        lengths = {len(values) if isinstance(values, list) else -1 for values in columns.values()}
        if len(lengths) != 1 or not lengths - {0, -1}:
            raise Refused(400, "columns of different lengths, or empty")
        (length,) = lengths
        table = {column: _typed(column, values) for column, values in columns.items() if column != "time"}
        table["time"] = _times(columns["time"]) if "time" in columns else [0] * length
        with self.lock:
            self.requests.append({"database": database, **read})
            self.rows[database, name] += [
                {column: table[column][i] for column in table} for i in range(length)
            ]  # fmt: skip


def _times(values: list[Any]) -> list[int]:
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        raise Refused(400, "time must be a number")
    unit = next((unit for below, unit in _UNITS if values[0] < below), None)
    return [int(value * unit) if unit else int(value) // 1000 for value in values]


def _typed(column: str, values: list[Any]) -> list[Any]:
    first = next((value for value in values if value is not None), "")
    kind = type(first)
    if kind not in (int, float, str, bool):
        raise Refused(400, f"{column}: values of this kind cannot be stored")
    made = []
    for value in values:
        if value is None or type(value) is kind:
            made.append(value)
        elif kind in (int, float) and type(value) in (int, float):
            made.append(kind(value))  # to an integer, a float is cut down
        else:
            raise Refused(500, f"{column}: type mismatch")
    if kind is int and any(value is not None and not -(2**63) <= value < 2**63 for value in made):
        raise Refused(400, f"{column}: beyond 64 bits")
    return made
