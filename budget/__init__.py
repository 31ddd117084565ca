"""budget decides, before an LLM call leaves the process, whether the call may be made.

Everything here is loaded when it is first used: `import budget` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from budget.commands import Reservation as Reservation
    from budget.decorator import budgeted as budgeted
    from budget.engine import Budget as Budget
    from budget.errors import ArgumentTypeError as ArgumentTypeError
    from budget.errors import BudgetError as BudgetError
    from budget.errors import BudgetExceeded as BudgetExceeded
    from budget.errors import CapExceeded as CapExceeded
    from budget.errors import ConfigError as ConfigError
    from budget.errors import Frozen as Frozen
    from budget.errors import Refusal as Refusal
    from budget.errors import ReservationConflict as ReservationConflict
    from budget.errors import RunStopped as RunStopped
    from budget.errors import StoreUnavailable as StoreUnavailable
    from budget.errors import Unbounded as Unbounded
    from budget.errors import UnknownModel as UnknownModel
    from budget.estimate import Estimate as Estimate
    from budget.ledger import Entry as Entry
    from budget.limits import Limit as Limit
    from budget.loops import Loop as Loop
    from budget.pools import Pool as Pool
    from budget.prices.rates import Cost as Cost
    from budget.run import Run as Run
    from budget.short import Short as Short
    from budget.short import short_of as short_of
    from budget.thresholds import Warned as Warned
    from budget.usage import Usage as Usage
    from budget.verbs import Decision as Decision

__version__ = "0.1.0"

_HOMES = {
    "budgeted": "decorator",
    "Budget": "engine",
    "Cost": "prices.rates",
    "Decision": "verbs",
    "Entry": "ledger",
    "Estimate": "estimate",
    "Limit": "limits",
    "Loop": "loops",
    "Pool": "pools",
    "Reservation": "commands",
    "Run": "run",
    "Short": "short",
    "short_of": "short",
    "Usage": "usage",
    "Warned": "thresholds",
    "ArgumentTypeError": "errors",
    "BudgetError": "errors",
    "BudgetExceeded": "errors",
    "CapExceeded": "errors",
    "ConfigError": "errors",
    "Frozen": "errors",
    "Refusal": "errors",
    "ReservationConflict": "errors",
    "RunStopped": "errors",
    "StoreUnavailable": "errors",
    "Unbounded": "errors",
    "UnknownModel": "errors",
}
__all__ = ["__version__", *_HOMES]  # noqa: PLE0604 - the names of the table above


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
