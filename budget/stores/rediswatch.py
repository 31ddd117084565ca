"""Watching the ledger on a server: one blocking read of the stream, on a connection that does nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import redis

from budget.errors import StoreUnavailable
from budget.stores.base import PAGE, Moved
from budget.stores.multiplex import Lost
from budget.stores.redisreads import stream_entries
from budget.stores.redisserver import OPEN_TIMEOUT
from budget.stores.watches import moved

__all__ = ["RedisWatch"]


class RedisWatch:
    """Reads a stream on from an entry. See `stores.base.Watch`.

    Args:
        connect: Makes a connection to the server, given a timeout in seconds.
        stream: Its key.
        after: Where to begin.
    """

    def __init__(self, connect: Callable[[float], Any], stream: str, after: int):
        self._connect, self._stream, self._after = connect, stream, after
        self._connection: Any = None
        self._stopped = False

    def wait(self, timeout: float) -> Sequence[Moved]:
        """Return what was written since the last time, or nothing after so many seconds (at most 4)."""
        if self._stopped:
            self._close()
            return ()
        try:
            if self._connection is None:
                self._connection = self._connect(OPEN_TIMEOUT)
            found = self._read(min(timeout, OPEN_TIMEOUT - 1))
        except (redis.RedisError, OSError, Lost, ValueError) as error:  # ValueError: it was closed while it was read
            self._close()
            if self._stopped:
                return ()
            raise StoreUnavailable(f"the ledger cannot be watched: {str(error)[:200]}") from None
        if self._stopped:
            self._close()
        return found

    def _read(self, timeout: float) -> Sequence[Moved]:
        options = ("COUNT", PAGE, "BLOCK", max(1, int(timeout * 1000)))
        self._connection.send_command("XREAD", *options, "STREAMS", self._stream, f"{self._after}-0")
        reply = self._connection.read_response()
        entries = stream_entries(reply[0][1]) if reply else []
        if entries:
            self._after = entries[-1].seq
        return [moved(entry) for entry in entries]

    def stop(self) -> None:
        """End a wait: its socket is shut down under it."""
        self._stopped = True
        connection = self._connection
        if connection is not None and (socket := connection._sock) is not None:
            with suppress(OSError):
                socket.shutdown(2)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()
