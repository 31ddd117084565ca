"""Limits above an account: another account whose limits also bind every call of this one.

All keys of an account live in one slot of a cluster, so what several accounts share cannot be in one step with what is
their own. A call is set aside here first, and then in the account above, under the same id; if that refuses, it is
given back here. Its end is booked in both. So neither is ever over-admitted, and a call that dies between the two steps
is an open reservation, which its lease ends. With slices (`budget.slices`) the account above is asked once for many
calls.

A call that waits stands in the line of its own account first, and then, with its money set aside here, in that of the
account above, among all calls of this process that wait there. Who has room above therefore never waits for anything
else, and no two calls for each other. What was given back here has used up its id: the same call comes under another.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple

__all__ = ["Also"]


class Also(NamedTuple):
    """Steps that are to be carried out in the account above; `held` is what is given back here if they are cut off."""

    flow: Generator[Any, Any, Any]
    held: str | None = None
