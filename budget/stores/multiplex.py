"""Many callers on one connection to a Redis server, without waiting for one another.

redis-py makes a connection (address, TLS, login); after that its socket is ours. Requests leave in the order of the
calls, and a server answers in that order, so that a queue of who waits is all that is needed to tell the answers apart.

* **Tasks of an event loop** (`loopwire.py`): what one tick of the loop asks leaves in one write.
* **Threads** (`threadwire.py`): they share one socket, and whoever waits reads for all.

A caller who stops waiting, cancelled or late, leaves its place in the queue: the answer is read and dropped. So many
are on their way at most (`IN_FLIGHT`) that a server which has stopped cannot fill the memory of its clients. When a
connection is lost, all who wait are told (`Lost`), and what they asked may or may not have been carried out. It is safe
to ask again, because every command carries an id that the scripts know it by. Nothing here retries by itself.
"""

from __future__ import annotations

from typing import Any

import hiredis

__all__ = ["IN_FLIGHT", "MORE", "STALLED", "Lost", "ServerError", "Unsent", "reader"]

MORE = object()
"""What a reader gives while a reply is not complete."""
STALLED = 5.0
"""Seconds without a sign of life, while someone waits, after which a connection is given up."""
IN_FLIGHT = 1024
"""Requests on their way over one connection at most; more wait for their turn, in order and inside their deadlines."""


class Lost(Exception):
    """The connection is gone. What was `sent` over it may or may not have been carried out; else there was none."""

    def __init__(self, text: str, sent: bool = False):
        super().__init__(text)
        self.sent = sent


class Unsent(TimeoutError):
    """The turn of a request did not come in time: the server never saw it."""


class ServerError(Exception):
    """An error reply of the server. It is returned, not raised: the place in the queue is that of any reply."""


def reader() -> Any:
    """Return a parser of replies."""
    return hiredis.Reader(protocolError=Lost, replyError=ServerError, notEnoughData=MORE)
