"""What a caller asks for, checked and priced: the part of a verb before any command.

Order of checks: arguments, price, bound. Frozen subjects, run guards, caps and pools are decided with the policy,
later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from budget.commands import Amounts, Reservation
from budget.config import Settings
from budget.errors import ArgumentTypeError, ConfigError, Unbounded, UnknownModel
from budget.estimate import Estimate
from budget.ledger import dumps, dumps_scope
from budget.limits import Limit, check_attributes, name_model
from budget.money import parse_usd
from budget.run import Run, current
from budget.usage import Usage

__all__ = ["Ask", "bound", "count", "digest", "filled", "make_ask", "must_agree", "price"]


@dataclass(slots=True)
class Ask:
    """What a caller asks a reservation for.

    Attributes:
        amounts: What is to be set aside, per unit.
        most: Where that is less than the bound of the request (a soft reservation): the bound, which caps are held to.
        limits: Of this call alone, such as a cap.
        step: Of a call that may set aside more while it is answered: what it begins with where nothing is learned yet.
        whole: Of such a call: the estimate of the longest answer that it may come to.
        extends: It adds to a call that is under way, and is no call itself.
        looping: The run for whose guard against loops the request is one, or None.
        fits: Of a call that an account below has admitted: says whether it would be admitted in both on another model.
    """

    amounts: Amounts
    scope: dict[str, str]
    run: Run | None
    detail: dict[str, Any]
    estimate: Estimate | None = None
    most: Amounts | None = None
    limits: tuple[Limit, ...] = ()
    step: Amounts | None = None
    whole: Estimate | None = None
    extends: bool = False
    looping: Run | None = None
    fits: Callable[[str], bool] | None = None

    def above(self, fits: Callable[[str], bool] | None) -> Ask:
        """Return what is asked of the account above: runs and limits of the call's own are decided on below."""
        most = (self.amounts, self.scope, None, self.detail, self.estimate, self.most)
        return Ask(*most, extends=self.extends, fits=fits)


def make_ask(settings: Settings, what: object, tokens: object, attributes: Mapping[str, str]) -> Ask:
    """Check a request for a reservation: an `Estimate`, or an amount of USD with `tokens=`.

    Raises:
        ArgumentTypeError, ConfigError: An argument cannot be used.
        Unbounded: The request has no upper bound, and the policy refuses that.
    """
    run = current()
    scope = check_attributes(attributes)
    if run is not None:
        scope = {**run.scope, **scope}
    around: dict[str, Any] = {} if run is None or run.parent is None else {"parent": run.parent.id}
    if not isinstance(what, Estimate):
        if "model" in scope:
            _name_model(settings, scope)
        number = None if tokens is None else count(tokens, "tokens")
        return Ask((parse_usd(what, "amount"), number, number, number, 1), scope, run, around)
    if tokens is not None:
        raise ConfigError("tokens: an estimate says how many")
    scope["model"] = what.model
    if what.provider:
        scope["provider"] = what.provider
    detail = {**around, "model": what.model, "provider": what.provider, "estimate": what.to_dict()}
    detail |= {"book": settings.book.hash} if what.priced else {"unpriced": True}
    return Ask(bound(settings, what), scope, run, detail, what)


def bound(settings: Settings, estimate: Estimate) -> Amounts:
    """Return the most that a request may cost, or what the policy allows one without a bound.

    Raises:
        Unbounded: The policy refuses those.
    """
    amounts = estimate.amounts
    if estimate.closed:
        return amounts
    if settings.allowance is None and not settings.disabled:
        raise Unbounded(estimate.reasons)
    return (max(estimate.nanos_max, settings.allowance or 0), *amounts[1:])


def must_agree(settings: Settings, estimate: Estimate, attributes: Mapping[str, str]) -> None:
    """Check that attributes which stand beside an estimate say what it says, under whatever name of the model.

    Raises:
        ArgumentTypeError, ConfigError: One is no attribute, or says something else.
    """
    if "model" not in attributes and "provider" not in attributes:
        return
    given = check_attributes(attributes)
    provider = given.get("provider", estimate.provider)
    if estimate.provider and provider != estimate.provider:
        raise ConfigError(f"provider: the estimate is of {estimate.provider}, not of {provider[:80]!r}")
    model = given.get("model", estimate.model)
    if model != estimate.model:
        named = name_model(settings.book, {"model": model, "provider": estimate.provider})
        if named["model"] != estimate.model:
            raise ConfigError(f"model: the estimate is of {estimate.model}, not of {model[:80]!r}")


def _name_model(settings: Settings, scope: dict[str, str]) -> None:
    """Call a model as the book does, so that a limit of a model also holds for its snapshots and aliases."""
    with suppress(UnknownModel, ConfigError):  # nobody sells it, or several do
        found = settings.book.find(scope["model"], scope.get("provider"))
        scope["model"] = found.id
        if found.provider:
            scope["provider"] = found.provider


def price(
    settings: Settings, usage: Usage, model: str | None, provider: str | None, known: Reservation | None, now: int
) -> tuple[Amounts, dict[str, Any]]:
    """Return the amounts of a usage and what the ledger keeps of it.

    The model as answered counts; where the book does not know it, the one the reservation was made for. So does what
    the reservation knows of where it was answered, and the answer does not say.

    Raises:
        ConfigError: Nobody says which model it was.
        UnknownModel: No price, and the policy does not take that for free.
    """
    reserved = known.detail if known else {}
    names = [name for name in (usage.model, model, reserved.get("model")) if name]
    if not names:
        raise ConfigError("model: the usage does not say which model; pass model=")
    provider = provider or reserved.get("provider") or None
    if site := reserved.get("site"):
        usage = replace(usage, traits={**site, **usage.traits})
    tokens = (usage.tokens, usage.input_tokens, usage.output, 1)
    detail: dict[str, Any] = {"model": names[0], "usage": usage.to_dict()}
    error: UnknownModel | None = None
    for name in names:
        try:
            found = settings.book.find(name, provider)
        except UnknownModel as unknown:
            error = error or unknown
            continue
        cost = found.rates(known.made if known else now).cost(usage)
        if cost.nanos >= 2**63:  # more than $9 billion: one ledger entry holds 64 bits
            raise ConfigError("usage: it costs more than one entry of the ledger can hold; the counts must be wrong")
        detail |= {"rates": cost.rates, "book": settings.book.hash}
        detail |= {"priced_as": name} if name != names[0] else {}
        detail |= {"unpriced": list(cost.unpriced)} if cost.unpriced else {}
        return (cost.nanos, *tokens), detail
    if settings.unpriced or settings.disabled or reserved.get("unpriced"):
        return (0, *tokens), {**detail, "unpriced": True}
    assert error is not None
    raise error


def digest(ask: Ask, lease_us: int, parent: str | None) -> str:
    """Return a digest of what the caller asked for: never of limits or windows, which a retry may see changed."""
    # The JSON of [amounts, scope, lease, parent], in parts: most calls of a process have a scope that others had.
    amounts, of = dumps(ask.most or ask.amounts), "null" if parent is None else dumps(parent)
    words = f"[{amounts},{dumps_scope(ask.scope)},{lease_us},{of}]"
    return blake2b(words.encode(), digest_size=16).hexdigest()


def filled(actual: Amounts, reserved: Amounts | None) -> Amounts:
    """Return amounts in which what was not said is what was reserved."""
    usual = reserved or (0, 0, 0, 0, 1)
    return tuple((r or 0) if a is None else a for a, r in zip(actual, usual, strict=True))  # type: ignore[return-value]


def count(value: object, name: str) -> int:
    """Check a number of tokens.

    Raises:
        ArgumentTypeError, ConfigError: It is not an int from 0 to 2^53 - 1.
    """
    if type(value) is not int:
        raise ArgumentTypeError(f"{name}: {type(value).__name__} is not an int")
    if not 0 <= value < 2**53:
        raise ConfigError(f"{name}: {value} is not from 0 to 2^53 - 1")
    return value
