"""Opening the SQLite file: where it may lie, its mode, its schema, and the lock beside it.

Every write transaction, checkpoint, open and close happens under an advisory lock on `<file>.lock`. That keeps two
connections from writing and checkpointing a WAL at the same instant, which can corrupt the file in SQLite before 3.51.3
(many Pythons link such a one), and it queues processes fairly, where SQLite's own busy handler lets one starve.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from threading import Lock
from time import monotonic, sleep

from budget.errors import ConfigError, StoreUnavailable
from budget.stores.sqlitelines import rechain

__all__ = ["SCHEMA_VERSION", "FileLock", "check_version", "connect", "lock_of", "prepare", "read_path"]

SCHEMA_VERSION = 3
_SINCE = r"-- since version \d+\n"  # what follows is added to a file of an earlier version
_KEPT = "another thread or process keeps the store's lock"
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs", "ncpfs"}


def read_path(url: str) -> str:
    """Return the path in the URL of a file.

    Raises:
        ConfigError: It means something to SQLite or to another library that it does not mean here.
    """
    path = url.removeprefix("sqlite:///")
    if path == ":memory:":
        raise ConfigError("store: 'sqlite:///:memory:' is no file; use 'memory://' for a store of this object alone")
    if "?" in path:
        raise ConfigError("store: the URL of a file takes no options; leave out '?' and what follows")
    return path


class FileLock:
    """An advisory lock (`flock`) on a file of its own; processes queue for it in the kernel.

    The kernel's lock belongs to the open file, so threads that share it need a lock among themselves.
    """

    def __init__(self, path: Path):
        self._path = path
        self._open()
        self._threads = Lock()

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _opened_anew(self) -> bool:
        """Whether the file that others lock now could be opened: this one was removed, and who comes makes another."""
        gone = self._fd
        try:
            self._open()
        except OSError:  # its folder was removed, too
            return False
        os.close(gone)
        return True

    @contextmanager
    def held(self, timeout: float | None = None) -> Iterator[None]:
        """Wait for the lock, and let it go afterwards.

        Raises:
            StoreUnavailable: Somebody else kept it for longer than `timeout` seconds.
        """
        import fcntl

        until = None if timeout is None else monotonic() + timeout
        if not self._threads.acquire(timeout=-1 if timeout is None else timeout):
            raise StoreUnavailable(_KEPT)
        try:
            self._wait(until)
            while not os.fstat(self._fd).st_nlink and self._opened_anew():
                self._wait(until)
            try:
                yield
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    def _wait(self, until: float | None) -> None:
        import fcntl

        if until is None:
            # Who lets go may come again before those who wait are awake, and one process would have it most of the
            # time. So one alone waits for it, who holds another lock meanwhile (of the file's bytes); all others
            # wait for that one, also who has just let go.
            fcntl.lockf(self._fd, fcntl.LOCK_EX)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX)
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN)
        else:
            self._try(until)

    def _try(self, until: float) -> None:
        import fcntl

        while True:
            try:
                return fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if monotonic() >= until:
                    raise StoreUnavailable(_KEPT) from None
                sleep(0.005)

    def close(self) -> None:
        """Close the file. A forked child must do so at once: its copy would keep a killed parent's lock alive."""
        os.close(self._fd)
        self._fd = -1  # its number may soon be another file's


def lock_of(path: Path) -> FileLock:
    """Return the lock of a store's file: beside what a link leads to, so that it is one by whatever name."""
    real = Path(os.path.realpath(path))
    return FileLock(real.with_name(real.name + ".lock"))


def prepare(path: Path) -> None:
    """Check that the file may be used, or made, where it is.

    Raises:
        StoreUnavailable: Its folder is missing, or it lies on a network file system, where a WAL is not safe; or it is
            no file.
    """
    if path.exists() and not path.is_file():
        raise StoreUnavailable(f"the store's path {str(path)!r} is no file")
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise StoreUnavailable(f"the store's folder {str(folder)!r} does not exist")
    kind = _file_system(folder)
    if kind in _NETWORK:
        raise StoreUnavailable(f"the store lies on a network file system ({kind}), where SQLite's WAL is not safe")


def _file_system(folder: Path) -> str:
    """Return the type of the file system a folder is on, as Linux tells it; "" elsewhere."""
    try:
        mounts = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    real, found, best = str(folder.resolve()), "", -1
    for line in mounts:
        _, point, kind, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if len(point) > best and (real == point or real.startswith(point.rstrip("/") + "/")):
            found, best = kind, len(point)
    return found


def connect(path: Path) -> sqlite3.Connection:
    """Open the file and bring its schema into being. Call it under the lock.

    Raises:
        ConfigError: It is a database of something else; nothing was written.
        StoreUnavailable: The file was written by a newer version of this package.
        sqlite3.Error: It cannot be opened or written, or is not a database.
    """
    if not path.exists():
        real = os.path.realpath(path)  # a link may be there, and lead to nothing yet
        os.close(os.open(real, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False, cached_statements=64)
    try:
        _check_ours(db, path)
        for pragma in ("journal_mode = wal", "synchronous = full", "trusted_schema = off", "cell_size_check = on"):
            db.execute(f"pragma {pragma}")
        found = check_version(db)
        if found < SCHEMA_VERSION:
            _migrate(db, found)
    except BaseException:
        db.close()
        raise
    return db


def _check_ours(db: sqlite3.Connection, path: Path) -> None:
    """See that the file has our tables, or none; before anything is written, and that is also how it keeps its log."""
    names = {name for (name,) in db.execute("select name from sqlite_master where type = 'table'")}
    if names and not ({"accounts", "entries"} <= names and db.execute("pragma user_version").fetchone()[0]):
        raise ConfigError(f"store: {str(path)!r} is a database of something else; name another file")


def check_version(db: sqlite3.Connection) -> int:
    """Return the version of the file's schema. It may change while the file is open: a newer package migrates it.

    Raises:
        StoreUnavailable: It is newer than this package.
    """
    found: int = db.execute("pragma user_version").fetchone()[0]
    if found > SCHEMA_VERSION:
        raise StoreUnavailable(
            f"the store has schema {found}, made by a newer version; this one knows {SCHEMA_VERSION}: update it, and "
            "start this process again"
        )
    return found


def _migrate(db: sqlite3.Connection, found: int) -> None:
    """Bring a file of an earlier version to this one, or a new file to its first, in one transaction."""
    parts = re.split(_SINCE, files("budget.stores").joinpath("schema.sql").read_text())
    db.executescript("begin immediate;" + "".join(parts[found:]))
    if 0 < found < 3:
        rechain(db)
    db.execute(f"pragma user_version = {SCHEMA_VERSION}")
    db.execute("commit")
