"""What the results of a batch say it cost, read as they pass: nothing of them is kept but sums.

Each result is priced by itself in the mode `service_tier = "batch"` (a tier holds for one request, not for a batch);
the exact sum is rounded up once. Requests that failed, were cancelled or ran out of time cost nothing
(platform.claude.com/docs/en/build-with-claude/batch-processing, developers.openai.com/api/docs/guides/batch, read
2026-11-22).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from budget.clients.late.batches import BATCH_TIER
from budget.clients.meter import fields_of
from budget.commands import Amounts, Reservation
from budget.config import Settings
from budget.errors import BudgetError, UnknownModel
from budget.prices.rates import Rates
from budget.usage import Usage

__all__ = ["Results"]


class Results:
    """What the results of a batch say it cost, taken note of one by one.

    Args:
        settings: The engine's.
        known: The batch's reservation.

    Attributes:
        seen: How many results there were.
        billed: How many of them cost something.
    """

    def __init__(self, settings: Settings, known: Reservation):
        self._settings, self._known = settings, known
        self.seen = self.billed = 0
        self._unread: BudgetError | None = None
        self._usage = Usage()
        self._exact: dict[int, int] = {}  # by the number of digits
        self._rates: dict[str | None, Rates] = {}  # by the model as answered
        self._applied: list[Mapping[str, Any]] = []  # the first two different ones
        self._unpriced: set[str] = set()

    def message(self, result: Any) -> None:
        """Take note of a line of Anthropic's results, as an SDK's model or a mapping."""
        outcome = fields_of(fields_of(result).get("result"))
        self._take(outcome.get("message") if outcome.get("type") == "succeeded" else None)

    def line(self, result: Any) -> None:
        """Take note of a line of an output file of OpenAI's."""
        response = fields_of(fields_of(result).get("response"))
        self._take(response.get("body") if response.get("status_code") == 200 else None)

    def _take(self, answer: Any) -> None:
        self.seen += 1
        if answer is None:
            return
        self.billed += 1
        try:
            self.add(Usage.of(answer))
        except BudgetError as error:
            self._unread = error

    def add(self, usage: Usage) -> None:
        """Take note of a usage, priced as of a batch.

        Raises:
            BudgetError: It has no price.
        """
        known = self._known
        usage = replace(usage, traits={**known.detail.get("site", {}), **usage.traits, **BATCH_TIER})
        self._usage = _plus(self._usage, usage)
        if known.detail.get("unpriced"):
            return
        cost = self._rates_of(usage.model).cost(usage)
        self._exact[cost.digits] = self._exact.get(cost.digits, 0) + sum(cost.exact.values())
        self._unpriced.update(cost.unpriced)
        if cost.rates not in self._applied and len(self._applied) < 2:
            self._applied.append(cost.rates)

    def has_one_price(self, usage: Usage) -> bool:
        """Whether a sum of usages costs what they cost one by one: no tier of the model begins below it."""
        rates = self._rates_of(usage.model)
        cards = [*rates.cards, *(card for mode in rates.modes for card in mode.cards)]
        return all(card.over == 0 or usage.input_tokens <= card.over for card in cards)

    def _rates_of(self, answered: str | None) -> Rates:
        """Return the rates of the model as answered; where the book does not know it, of the one asked for."""
        found = self._rates.get(answered)
        if found is None:
            book, detail = self._settings.book, self._known.detail
            asked, provider = detail.get("model") or "", detail.get("provider") or None
            try:
                model = book.find(answered or asked, provider)
            except UnknownModel:
                model = book.find(asked, provider)
            found = self._rates[answered] = model.rates(self._known.made)
        return found

    def end(self) -> tuple[Amounts, dict[str, Any]] | None:
        """Return what the batch cost and what the ledger keeps of it; None if that cannot be read from its results."""
        if self._unread is not None:
            return None
        usage, known = self._usage, self._known
        most = max(self._exact, default=12)
        exact = sum(amount * 10 ** (most - digits) for digits, amount in self._exact.items())
        nanos = -(-exact // 10 ** (most - 9))
        detail = {"model": known.detail.get("model"), "usage": usage.to_dict(), "book": self._settings.book.hash}
        detail |= {"rates": self._applied[0]} if len(self._applied) == 1 else {}
        detail |= {"unpriced": sorted(self._unpriced)} if self._unpriced else {}
        return (nanos, usage.tokens, usage.input_tokens, usage.output, self.billed), detail


def _plus(one: Usage, other: Usage) -> Usage:
    """Add two usages; the traits are those of the second."""
    names = ("input", "cache_read", "output", "reasoning")
    counts: dict[str, Any] = {name: getattr(one, name) + getattr(other, name) for name in names}
    for name in ("cache_write", "parts", "tools"):
        old, new = getattr(one, name), getattr(other, name)
        counts[name] = {key: old.get(key, 0) + new.get(key, 0) for key in {**old, **new}} if new else old
    return Usage(**counts, traits=other.traits)
