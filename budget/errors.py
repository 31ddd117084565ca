"""Every error of the package, one tree with one root.

    BudgetError
    ├─ ConfigError (ValueError)            a wrong value: names the argument and what would be right
    ├─ ArgumentTypeError (TypeError)       a wrong type, such as a float for money
    ├─ UnknownModel (LookupError)          no price: refused, never free
    ├─ Unbounded                           the request has no upper bound of cost
    ├─ ReservationConflict                 the same id with other arguments, or a second, different end
    ├─ StoreUnavailable                    the store cannot answer; never means "no money"
    └─ BudgetExceeded                      a refusal: an expected no, with numbers in it
       ├─ CapExceeded                      the request alone is above a cap
       ├─ Frozen                           an operator froze the subject
       └─ RunStopped                       a run's guard: calls, deadline, loop

An error keeps token bounds, sizes and amounts, never the request. All of them pickle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from budget.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from decimal import Decimal

__all__ = [
    "ArgumentTypeError",
    "BudgetError",
    "BudgetExceeded",
    "CapExceeded",
    "ConfigError",
    "Frozen",
    "Refusal",
    "ReservationConflict",
    "RunStopped",
    "StoreUnavailable",
    "Unbounded",
    "UnknownModel",
]


class BudgetError(Exception):
    """The root of every error this package raises."""


class ConfigError(BudgetError, ValueError):
    """Raised when an argument, a configuration value or an input file has a wrong value."""


class ArgumentTypeError(BudgetError, TypeError):
    """Raised when an argument has a wrong type (money as float, bool or bare int, say)."""


class UnknownModel(BudgetError, LookupError):
    """Raised when the price book has no price for a model.

    Attributes:
        model: The name as asked for.
        provider: The provider asked for, or None.
        nearest: Up to three names of the book that look like it.
    """

    def __init__(self, model: str, provider: str | None = None, nearest: Sequence[str] = ()):
        self.model, self.provider, self.nearest = model, provider, tuple(nearest)
        super().__init__(model, provider, self.nearest)

    def __str__(self) -> str:
        at = f" at {self.provider}" if self.provider else ""
        near = f"; nearest: {', '.join(self.nearest)}" if self.nearest else ""
        return f"no price for model {self.model!r}{at}{near}. Add one: budget prices set, [[prices]] or prices="


class Unbounded(BudgetError):
    """Raised when no upper bound exists for what a request can cost.

    Attributes:
        reasons: What makes it unbounded, in words.
    """

    def __init__(self, reasons: Sequence[str]):
        self.reasons = tuple(reasons)
        super().__init__(self.reasons)

    def __str__(self) -> str:
        return f"the request has no upper bound: {'; '.join(self.reasons)}"


class ReservationConflict(BudgetError):
    """Raised when an id comes again with other arguments, or a reservation gets a second, different end."""


class StoreUnavailable(BudgetError):
    """Raised when the store cannot answer. The guarded call is not made; nothing says the money is short.

    Attributes:
        sent: False if the command surely was not carried out; else it may have been.
        lost: How many acknowledged entries the store has lost, at least; 0 if it has lost none that anybody knows of.
        partial: Of a stream that was stopped, because the store could not set more aside for it: the text received so
            far. None where nothing had been sent.
    """

    sent = True
    lost = 0
    partial: str | None = None


@dataclass(frozen=True)
class Refusal:
    """One limit that said no. Amounts are Decimal USD, or int for other units.

    Attributes:
        limit: The `Limit` that refused; None for a freeze, a deadline or a loop.
        subject: Whose pool it is: {"user": "alice"}, printed "user=alice".
        unit: usd, tokens, input_tokens, output_tokens, requests or concurrent; "deadline", "loop" (`spent`: how often).
        spent, reserved, requested, available: The pool at the decision, and what was asked of it.
        resets_at: When the window ends, aware, in the limit's zone; of a rolling window, when this request would fit
            if nothing else happened. None if it does not end.
        verdict: "wait" (it will fit later) or "never" (it cannot fit this limit).
        account: The account above (`above=`) that refused; None: the one that was asked.
    """

    limit: Any
    subject: Subject
    unit: str
    spent: Decimal | int
    reserved: Decimal | int
    requested: Decimal | int
    available: Decimal | int
    resets_at: datetime | None
    verdict: str
    account: str | None = None

    @property
    def held(self) -> bool:
        """Whether it would fit if what is reserved were given back."""
        return self.verdict == "wait" and self.reserved > 0 and self.requested <= self.available + self.reserved

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; amounts of money are decimal strings."""
        return {
            "limit": None if self.limit is None else str(self.limit),
            "subject": str(self.subject),
            "unit": self.unit,
            "spent": _plain(self.spent),
            "reserved": _plain(self.reserved),
            "requested": _plain(self.requested),
            "available": _plain(self.available),
            "resets_at": self.resets_at.isoformat() if self.resets_at else None,
            "verdict": self.verdict,
            **({"account": self.account} if self.account is not None else {}),
        }

    def __str__(self) -> str:
        whose = f"{self.account}: {self.subject}" if self.account is not None else str(self.subject)
        if self.limit is None:
            guards = {"deadline": "over its deadline", "loop": f"the same tool calls {self.spent} times over"}
            return f"{whose}: {guards.get(self.unit, 'frozen')}"
        until = f"; resets {self.resets_at.isoformat()}" if self.resets_at else ""
        spent, reserved, needs = self._shown(self.spent), self._shown(self.reserved), self._shown(self.requested)
        pool = f"{self.limit.rule} ({whose}): {spent} spent + {reserved} reserved"
        return f"{pool}, needs {needs}{until} [{self.verdict}]"

    def _shown(self, amount: Decimal | int) -> str:
        return f"${amount:f}" if self.unit == "usd" else str(amount)


class BudgetExceeded(BudgetError):
    """Raised before any byte is sent, when a limit refuses a reservation; and in a stream that may not go on.

    `limit, subject, unit, spent, reserved, requested, available, resets_at, verdict` are those of the deciding
    refusal: a limit that can never fit, else the one with the latest `resets_at`, then declaration order.

    Attributes:
        refusals: Every limit that refused, in declaration order.
        scope: The attributes of the call.
        http_status: 402, a status that provider SDKs do not retry.
        partial: Of a stream that was stopped, because more could not be set aside for it: the text received so far.
            None where nothing had been sent.
    """

    http_status = 402
    partial: str | None = None

    def __init__(
        self,
        refusals: Sequence[Refusal],
        scope: Mapping[str, str],
        max_tokens: int | Callable[[], int | None] | None = None,
        fits: Callable[[str], bool] | None = None,
    ):
        self.refusals, self.scope, self._max_tokens, self._fits = tuple(refusals), dict(scope), max_tokens, fits
        super().__init__(self.refusals, self.scope)

    def __reduce__(self) -> tuple[Any, ...]:
        # The engine behind `fits` cannot travel to another process; the numbers do.
        more = {"partial": self.partial} if self.partial is not None else None
        return type(self), (self.refusals, self.scope, self.max_tokens), more

    def __str__(self) -> str:
        held = " (calls under way hold enough of it: `budget reservations`)" if self.refusal.held else ""
        return f"{self.refusal}{held}"

    def name_account(self, account: str) -> None:
        """Note that it was the account above which refused."""
        self.refusals = tuple(replace(refusal, account=account) for refusal in self.refusals)
        self.args = (self.refusals, self.scope)

    @property
    def refusal(self) -> Refusal:
        """The deciding refusal."""
        never = [refusal for refusal in self.refusals if refusal.verdict == "never"]
        return never[0] if never else max(self.refusals, key=_reset_order)

    @property
    def limit(self) -> Any:
        """The `Limit` that decided."""
        return self.refusal.limit

    @property
    def subject(self) -> Subject:
        """The subject of the pool that decided."""
        return self.refusal.subject

    @property
    def unit(self) -> str:
        """usd, tokens, input_tokens, output_tokens, requests or concurrent."""
        return self.refusal.unit

    @property
    def spent(self) -> Decimal | int:
        """Spent in the pool's window, Decimal USD or int."""
        return self.refusal.spent

    @property
    def reserved(self) -> Decimal | int:
        """Reserved in the pool's window, Decimal USD or int."""
        return self.refusal.reserved

    @property
    def requested(self) -> Decimal | int:
        """What this request asked for, Decimal USD or int."""
        return self.refusal.requested

    @property
    def available(self) -> Decimal | int:
        """limit - spent - reserved, Decimal USD or int; negative after an overrun or a lowered limit."""
        return self.refusal.available

    @property
    def resets_at(self) -> datetime | None:
        """When the window ends (rolling: when this request would fit), aware, in the limit's zone, or None."""
        return self.refusal.resets_at

    @property
    def verdict(self) -> str:
        """ "wait" (it will fit later) or "never" (it cannot fit this limit)."""
        return self.refusal.verdict

    @property
    def max_tokens(self) -> int | None:
        """The largest output bound with which the request would have fitted, or None; worked out when first asked."""
        if callable(self._max_tokens):
            self._max_tokens = self._max_tokens()
        return self._max_tokens

    def fits(self, model: str) -> bool:
        """Say whether the same request would be admitted on another model now; writes nothing.

        Raises:
            ConfigError: This error came out of a pickle, or its request was not an estimated one.
            UnknownModel: The model has no price.
        """
        if self._fits is None:
            raise ConfigError("fits(model=) needs the engine and the estimate that refused; here there is none")
        return self._fits(model)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types: `error, scope, max_tokens, refusals` and the deciding refusal's fields.

        Of a stream that was stopped also `partial_chars`: how much text there was, and none of it.
        """
        return {
            "error": type(self).__name__,
            **self.refusal.to_dict(),
            "scope": dict(self.scope),
            "max_tokens": self.max_tokens,
            "refusals": [refusal.to_dict() for refusal in self.refusals],
            **({} if self.partial is None else {"partial_chars": len(self.partial)}),
        }


class CapExceeded(BudgetExceeded):
    """Raised when one request alone is above a cap."""


class Frozen(BudgetExceeded):
    """Raised when an operator has frozen the call's subject; reconcile, refund and record still work."""


class RunStopped(BudgetExceeded):
    """Raised when a run's guard ends it: `max_calls`, `deadline` or `loop`."""


def _reset_order(refusal: Refusal) -> float:
    return refusal.resets_at.timestamp() if refusal.resets_at else float("-inf")


def _plain(amount: Decimal | int) -> str | int:
    """Write money as a decimal string without an exponent, other units as int."""
    return amount if isinstance(amount, int) else f"{amount:f}"
