"""Agent frameworks: one module each, imported by who uses the framework.

A framework is guarded where it lets a call be stopped. Most take or hold an SDK's client, so their adapter puts a
wrapped one there (`Budget.wrap`) and says whose call it is; the others are guarded around the function or the process
through which they call. An adapter never estimates or prices: that is the wrapped client's business. What it cannot
guard it refuses, because a model that goes unguarded beside guarded ones would not be noticed.

A refusal reaches the caller of the framework as `BudgetExceeded`, also where the framework would hide or retry it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from budget.engine import Budget
    from budget.run import Run

__all__ = ["open_run", "within"]


def open_run(budget: Budget, limit: Any, options: Mapping[str, Any], *context: Any, agent: str | None = None) -> Run:
    """Make the run of one agent run, inside the current one.

    Args:
        budget: The engine.
        limit: What the run may spend; this and each option is a value or a function of what the framework knows.
        options: What `Budget.run` takes besides; an attribute that turns out to be None is left out.
        context: What the framework knows of the run.
        agent: What the framework calls the agent; `agent=` among the options says otherwise.

    Raises:
        ConfigError, ArgumentTypeError: An option cannot be used.
    """

    def resolve(value: Any) -> Any:
        return value(*context) if callable(value) else value

    named = {name: resolve(value) for name, value in {"agent": agent, **options}.items()}
    given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    return budget.run(resolve(limit), **given)


def within(budget: Budget, run: Run, **attributes: Any) -> Run:
    """Return a run that goes on with another: the same id, inside it, an object of its own to enter.

    Frameworks make calls of one run at once in several tasks, and each has to enter and leave by itself.
    """

    def make() -> Run:
        with run:
            return budget.run(id=run.id, **attributes)

    return copy_context().run(make)
