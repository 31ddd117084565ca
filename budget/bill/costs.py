"""The money of a comparison: what was charged for the groups of one provider, and what is to be said about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from budget.bill.lines import DAY_US
from budget.bill.sums import Billed, Group, Money, Ours, merge
from budget.bill.tariff import Wrong, find_model, wrong_items
from budget.bill.verdict import Verdict
from budget.money import format_usd

if TYPE_CHECKING:
    from budget.prices import PriceBook

__all__ = ["Costs"]

_FEW = 8


class Costs:
    """The money of one provider.

    Args:
        book: Of the prices.
        ours, billed: Both sides of usage, by group.
        sums: What was charged, by group; of no key where the provider does not tell costs by key, and of no model for
            tools and the like.
        verdicts: What the usage says.
        covers: The groups that each sum is for.
    """

    def __init__(
        self, book: PriceBook, ours: Mapping[Group, Ours], billed: Mapping[Group, Billed],
        sums: Mapping[Group, Money], verdicts: Mapping[Group, Verdict], covers: Mapping[Group, Sequence[Group]],
    ):  # fmt: skip
        self._book, self._ours, self._billed = book, ours, billed
        self._sums, self._verdicts, self._covers = sums, verdicts, covers

    def charged(self, group: Group) -> Money:
        """Return what was charged."""
        return self._sums.get(group, Money())

    def verdicts(self) -> dict[Group, Verdict]:
        """Return what is to be said, by the groups of the sums; nothing where the money agrees."""
        judged = ((group, self._judge(group, covered)) for group, covered in self._covers.items())
        said = {group: verdict for group, verdict in judged if verdict is not None}
        for tools in [group for group in self._sums if group.model is None]:
            self._explain_tools(tools, said)
        return said

    def _judge(self, group: Group, covered: Sequence[Group]) -> Verdict | None:
        money, billed = self.charged(group), self._together(covered)
        if not covered:
            return Verdict("extra", "other_callers", "no usage") if money.nanos > money.off else None
        if group.provider == "anthropic" and any((tier or "").startswith("priority") for tier, _ in billed.tiers):
            return None  # its costs do not contain that tier
        model = find_model(self._book, group.model, group.provider)
        if model is not None and billed.counted and (wrong := wrong_items(model, group.day * DAY_US, billed, money)):
            return Verdict("differs", "price", "; ".join(map(_rates, wrong)))
        reason = "book" if model is not None else "unpriced"
        if all(self._verdicts[each] == Verdict("matched") for each in covered):
            return self._judge_sum(money, billed, self._sum(covered), reason)
        return Verdict("differs", reason) if model is None and billed.keys and money.nanos else None

    def _judge_sum(self, money: Money, billed: Billed, ours: Ours, reason: str) -> Verdict | None:
        """Compare what the same tokens cost."""
        if -money.off - ours.calls <= money.nanos - ours.nanos <= money.off:
            return None
        tiers = sorted({tier for tier, _ in billed.tiers if tier})
        if tiers and reason == "book":
            return Verdict("differs", "tier", ", ".join(tiers))
        return Verdict("differs", reason)

    def _explain_tools(self, tools: Group, said: dict[Group, Verdict]) -> None:
        """Calls of tools are in our costs of a model, and stand on the bill for no model: do they add up?"""
        money = self.charged(tools)
        if money.nanos <= money.off:
            return
        short = [
            group for group, verdict in said.items()
            if group.day == tools.day and verdict.reason in ("book", "tier") and tools.key in (None, group.key)
        ]  # fmt: skip
        for some in _choices(short):
            less, room = -money.nanos, money.off
            for group in some:
                ours, charged = self._sum(self._covers[group]), self.charged(group)
                less, room = less + ours.nanos - charged.nanos, room + charged.off + ours.calls
            if abs(less) <= room:
                said.update(dict.fromkeys(some, Verdict("matched", "tools")))
                return
        sure = all(v.status == "matched" for group, v in self._verdicts.items() if group.day == tools.day)
        items = sorted({item.item for item in money.items if item.item})
        said[tools] = Verdict("extra" if sure else "open", "tools", ", ".join(items))

    def _together(self, groups: Iterable[Group]) -> Billed:
        billed = Billed()
        for group in groups:
            merge(billed, self._billed.get(group, Billed()))
        return billed

    def _sum(self, groups: Iterable[Group]) -> Ours:
        ours = Ours()
        for group in groups:
            ours.add(self._ours.get(group, Ours()))
        return ours


def _choices(groups: Sequence[Group]) -> Iterator[tuple[Group, ...]]:
    """Yield which of the groups may have called the tools: all, or fewer of a few."""
    sizes = range(len(groups), 0, -1) if len(groups) <= _FEW else (len(groups),)
    for size in sizes:
        yield from combinations(groups, size)


def _rates(wrong: Wrong) -> str:
    """Say rates in USD per million tokens: so many pico-dollars per token are a millionth of that."""
    least, most = (format_usd(rate * 1000) for rate in (wrong.least, wrong.most))
    book = f"${least}" if least == most else f"${least} to ${most}"
    return f"{wrong.kind or 'all'}: ${format_usd(wrong.rate * 1000)} per million tokens, the book has {book}"
