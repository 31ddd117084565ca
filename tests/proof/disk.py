"""What disks do to SQLite, at a write or a sync that was chosen: errors, a full disk, a killed process, a power loss.

SQLite's own file system interface (a VFS) is wrapped from Python with ctypes, so that nothing but Python is needed:
every write, truncation, sync and deletion of every file that a store opens is counted and kept, and may fail. From what
was kept, the files are made again as they are if the process ends at the n-th of them (`killed`: all before, the last
one whole or torn), or the machine does (`lost_power`: of what was not synced since, any part in any order).

Where the SQLite that Python uses cannot be reached this way (its symbols are hidden in a static build), `missing()`
says why.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_int64, c_void_p
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

__all__ = ["FULL", "IOERR_FSYNC", "IOERR_WRITE", "Disk", "Op", "killed", "lost_power", "missing"]

FULL, IOERR_WRITE, IOERR_FSYNC = 13, 10 | 3 << 8, 10 | 4 << 8
SECTOR = 512

_Open = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_Delete = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)
_Close = CFUNCTYPE(c_int, c_void_p)
_Write = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_Truncate = CFUNCTYPE(c_int, c_void_p, c_int64)
_Sync = CFUNCTYPE(c_int, c_void_p, c_int)


class _Vfs(Structure):
    _fields_ = [
        ("version", c_int), ("file_size", c_int), ("path_max", c_int), ("next", c_void_p), ("name", c_char_p),
        ("data", c_void_p), ("open", _Open), ("delete", _Delete), ("rest", c_void_p * 20),
    ]  # fmt: skip


class _Methods(Structure):
    _fields_ = [
        ("version", c_int), ("close", _Close), ("read", c_void_p), ("write", _Write), ("truncate", _Truncate),
        ("sync", _Sync), ("rest", c_void_p * 20),
    ]  # fmt: skip


_METHODS_SIZE = {1: 13, 2: 17, 3: 19}  # words of sqlite3_io_methods by its version, sqlite3.h
_VFS_SIZE = {1: 18, 2: 19, 3: 22}


class Op(NamedTuple):
    """One change of a file: write, truncate, sync or delete."""

    path: str
    what: str
    at: int = 0
    data: bytes = b""


@dataclass
class Disk:
    """What SQLite did to the files it opened within `with disk.mounted():`, and what fails.

    Args:
        fail: Given the number of an operation (from 0) and the operation, SQLite's error code, or 0 to let it be.
    """

    fail: Callable[[int, Op], int] = lambda n, op: 0
    ops: list[Op] = field(default_factory=list)
    failures: int = 0
    keep: bool = True

    @contextmanager
    def mounted(self) -> Iterator[Disk]:
        """Have files that are opened from here on go through it."""
        library = _library()
        assert library is not None, missing()
        default = ctypes.cast(library.sqlite3_vfs_find(None), POINTER(_Vfs)).contents
        mine = _Vfs()
        ctypes.memmove(ctypes.byref(mine), ctypes.byref(default), 8 * _VFS_SIZE[default.version])
        name = f"proof-{id(self)}".encode()
        mine.name, mine.next = name, None
        tables: dict[int, _Methods] = {}
        paths: dict[int, str] = {}

        def opened(vfs: int, path: int, file: int, flags: int, out: int) -> int:
            code: int = default.open(ctypes.addressof(default), path, file, flags, out)
            methods = ctypes.cast(file, POINTER(c_void_p))
            if code == 0 and path and methods[0]:
                paths[file] = ctypes.string_at(path).decode()
                if methods[0] not in tables:
                    tables[methods[0]] = self._wrapped(methods[0], paths)
                methods[0] = ctypes.addressof(tables[methods[0]])
            return code

        def deleted(vfs: int, path: bytes, sync: int) -> int:
            code = self._said(Op(path.decode(), "delete"))
            return code or default.delete(ctypes.addressof(default), path, sync)

        mine.open, mine.delete = _Open(opened), _Delete(deleted)
        library.sqlite3_vfs_register(ctypes.byref(mine), 1)
        _KEPT.append((mine, tables, name))  # files outlive the mount
        try:
            yield self
        finally:
            library.sqlite3_vfs_unregister(ctypes.byref(mine))
            library.sqlite3_vfs_register(ctypes.byref(default), 1)

    def _wrapped(self, address: int, paths: dict[int, str]) -> _Methods:
        true = ctypes.cast(address, POINTER(_Methods)).contents
        mine = _Methods()
        ctypes.memmove(ctypes.byref(mine), ctypes.byref(true), 8 * _METHODS_SIZE[true.version])

        def write(file: int, data: int, size: int, at: int) -> int:
            code = self._said(Op(paths[file], "write", at, ctypes.string_at(data, size) if self.keep else b""))
            return code or true.write(file, data, size, at)

        def truncate(file: int, size: int) -> int:
            return self._said(Op(paths[file], "truncate", size)) or true.truncate(file, size)

        def sync(file: int, flags: int) -> int:
            return self._said(Op(paths[file], "sync")) or true.sync(file, flags)

        mine.write, mine.truncate, mine.sync = _Write(write), _Truncate(truncate), _Sync(sync)
        return mine

    def _said(self, op: Op) -> int:
        code = self.fail(len(self.ops), op)
        self.failures += code != 0
        self.ops.append(op if code == 0 else Op(op.path, "failed"))
        return code


_KEPT: list[Any] = []


@lru_cache
def _library() -> Any:
    import _sqlite3

    library = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
    try:
        library.sqlite3_vfs_find.restype = c_void_p
        library.sqlite3_vfs_find.argtypes = [c_char_p]
        library.sqlite3_vfs_register.argtypes = [c_void_p, c_int]
        library.sqlite3_vfs_unregister.argtypes = [c_void_p]
    except AttributeError:
        return None
    return library


def missing() -> str | None:
    """Why disks cannot be made to fail here, or None."""
    if ctypes.sizeof(c_void_p) != 8:
        return "not a 64-bit process"
    return None if _library() else "this Python's SQLite hides its VFS functions (a static build)"


def _put(content: bytearray, op: Op, size: int | None = None) -> None:
    data = op.data if size is None else op.data[:size]
    if len(content) < op.at:
        content.extend(bytes(op.at - len(content)))
    content[op.at : op.at + len(data)] = data


def _carried_out(files: dict[str, bytearray], op: Op, torn: int | None = None) -> None:
    content = files.setdefault(op.path, bytearray())
    if op.what == "write":
        _put(content, op, torn)
    elif op.what == "truncate":
        del content[op.at :]
    elif op.what == "delete":
        files.pop(op.path)


def killed(ops: Sequence[Op], n: int, torn: bool = False) -> dict[str, bytes]:
    """The files if the process ends before the n-th operation, or in the middle of it."""
    files: dict[str, bytearray] = {}
    for op in ops[:n]:
        _carried_out(files, op)
    if torn and n < len(ops) and ops[n].what == "write":
        _carried_out(files, ops[n], len(ops[n].data) // 2)
    return {path: bytes(content) for path, content in files.items()}


def lost_power(ops: Sequence[Op], n: int, chance: random.Random) -> dict[str, bytes]:
    """The files if the power goes before the n-th operation: what was synced, and any of the sectors that were not."""
    synced = {op.path: number for number, op in enumerate(ops[:n]) if op.what == "sync"}
    files: dict[str, bytearray] = {}
    for number, op in enumerate(ops[:n]):
        if number <= synced.get(op.path, -1) or op.what in ("truncate", "delete"):
            _carried_out(files, op)
        elif op.what == "write":
            for at in range(0, len(op.data), SECTOR):
                if chance.random() < 0.5:
                    _carried_out(files, Op(op.path, "write", op.at + at, op.data[at : at + SECTOR]))
    return {path: bytes(content) for path, content in files.items()}
