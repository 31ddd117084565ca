"""What can go wrong between a command and its answer, and what is done about it: one line each.

A server's error is known by its first word, which is the same in Redis and Valkey; texts differ. What a line asks for
happens inside the deadline of the call. A command that is sent again has the same id, by which the scripts know it, so
that it takes effect once. Whoever is told `StoreUnavailable` with `sent` set cannot know whether the command was
carried out, and a reserve is then called back: so it is when the connection broke after it was sent, whatever came of
the repeat.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

__all__ = ["CLOSED", "FAULTS", "SILENT", "Act", "Fault", "fault_of"]


class Act(Enum):
    """What is done about a fault."""

    AGAIN = "the same, over the same connection, after a pause"
    ELSEWHERE = "find out anew where the account is, connect, and send the same there"
    STOP = "tell the caller"
    FLOW = "the command's own flow knows"


class Fault(NamedTuple):
    """One kind of fault: what is done, whether the command surely was not carried out, and what it means."""

    act: Act
    harmless: bool
    says: str


CLOSED = Fault(Act.ELSEWHERE, False, "the connection was refused, or it broke")
SILENT = Fault(Act.STOP, False, "no answer came in time; the server, the network or this process is slow or stopped")
FAULTS: dict[str, Fault] = {
    "LOADING": Fault(Act.AGAIN, True, "the server has been started and still reads its data"),
    "BUSY": Fault(Act.AGAIN, True, "a long script, not ours, holds the server"),
    "TRYAGAIN": Fault(Act.AGAIN, True, "the account is being moved, and some of its keys are on either node"),
    "ASK": Fault(Act.AGAIN, True, "the account is being moved, and these keys have left this node"),
    "NOREPLICAS": Fault(Act.AGAIN, True, "the server has fewer replicas than min-replicas-to-write"),
    "MOVED": Fault(Act.ELSEWHERE, True, "the account is on another node of the cluster"),
    "CLUSTERDOWN": Fault(Act.ELSEWHERE, True, "this node sees no majority of the cluster, or nobody has the slot"),
    "READONLY": Fault(Act.ELSEWHERE, True, "the server is a replica now; another one is the primary"),
    "MASTERDOWN": Fault(Act.ELSEWHERE, True, "the server is a replica now, without its primary"),
    "OOM": Fault(Act.STOP, True, "the server's memory is full (maxmemory): nothing new is admitted"),
    "MISCONF": Fault(Act.STOP, True, "the server cannot write its file, and takes no writes until it can"),
    "NOAUTH": Fault(Act.STOP, True, "the server wants a password"),
    "WRONGPASS": Fault(Act.STOP, True, "the server does not accept the user or the password"),
    "NOSCRIPT": Fault(Act.FLOW, True, "the server does not have the script (any more): it gets its text"),
    # What follows may come from inside a script, after it has written something.
    "NOPERM": Fault(Act.FLOW, False, "the user of the URL may not use a command or a key"),
    "WRONGTYPE": Fault(Act.FLOW, False, "a key of the account holds something else"),
    "ERR": Fault(Act.FLOW, False, "anything else"),
}
"""By the first word of a server's error. Keys of a call are in one slot, so that there is never a CROSSSLOT."""


def fault_of(error: Exception) -> Fault:
    """Return the line for a server's error."""
    return FAULTS.get(str(error).partition(" ")[0], FAULTS["ERR"])
