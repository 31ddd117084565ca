"""How a call ends, and what it must cost then: the table of outcomes, written down once more, by hand.

The words of a cell:

    usage      answered: what the provider's log says it bills
    refund     surely not billed: nothing
    reserved   nobody knows: the whole reservation, marked as estimated
    part       a stream that ended early: what was received at least, less than the reservation, marked
"""

from __future__ import annotations

from dataclasses import dataclass

from .ways import STREAMS

__all__ = ["FAULTS", "LEAVE", "STALL", "Fault", "expected", "missing"]

USAGE, REFUND, RESERVED, PART = "usage", "refund", "reserved", "part"
STALL = 8
"""Events of a stream that arrive before it stalls or is cut: some of them are text in every API."""
LEAVE = 2
"""Pieces of text after which a stream is left."""


@dataclass(frozen=True)
class Fault:
    """One way for a call to end.

    Attributes:
        reply: How the provider answers, as `x-demo` says it; `of_stream` instead where the answer comes as events.
        costs: What a call costs then; `of_stream_costs` instead where the answer comes as events.
        statuses: The status of each attempt that is answered.
        patience: Seconds that the client waits for bytes.
        leave, cancel: The caller leaves the answer; somebody cancels the caller (Ctrl-C, where it is sync).
    """

    reply: str
    costs: str
    statuses: tuple[int, ...] = (200,)
    of_stream: str | None = None
    of_stream_costs: str | None = None
    patience: float = 30.0
    leave: bool = False
    cancel: bool = False


FAULTS = {
    "success": Fault("", USAGE),
    "400": Fault("status=400", REFUND, (400,)),
    "429, success": Fault("fail_first=1:429,retry-after=0.001", USAGE, (429, 200)),
    "500": Fault("status=500,retry-after=0.001", REFUND, (500, 500)),
    "timeout": Fault("hang=30", RESERVED, (), patience=0.1),
    "stalled": Fault("", USAGE, of_stream=f"stall={STALL}", of_stream_costs=PART, patience=0.1),
    "cut": Fault("cut=0", RESERVED, (), of_stream=f"cut={STALL}", of_stream_costs=PART),
    "abandoned": Fault("", USAGE, of_stream_costs=PART, leave=True),
    "cancelled": Fault("hang=30", RESERVED, (), of_stream=f"stall={STALL}", of_stream_costs=PART, cancel=True),
    "no usage": Fault("usage=none", RESERVED),
}


def expected(way: str, fault: Fault) -> str:
    """Return what a call costs."""
    if fault.leave and way == "streaming response":
        return RESERVED  # left before its body was read
    return (fault.of_stream_costs if way in STREAMS else None) or fault.costs


def missing(api: str, way: str, name: str) -> str | None:
    """Return why a cell does not exist, or None."""
    if way == "tool runner" and not api.startswith("anthropic"):
        return "this SDK has no tool runner"
    if name == "stalled" and way not in STREAMS:
        return "an answer in one piece does not stall half-way: see timeout"
    if name == "abandoned" and way in ("plain", "parse"):
        return "the call returns the whole answer or raises: there is nothing to leave (see cancelled)"
    return None
