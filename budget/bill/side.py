"""One provider's bill against the calls to it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date
from functools import partial
from typing import TYPE_CHECKING

from budget.bill.billfile import BillFile
from budget.bill.costs import Costs
from budget.bill.lines import DAY_US
from budget.bill.reports import COSTS, PROVIDERS
from budget.bill.rows import Row
from budget.bill.sums import Billed, Group, Money, Names, Ours, billed_sums, merge, money_sums
from budget.bill.verdict import Verdict, judge
from budget.money import to_decimal

if TYPE_CHECKING:
    from budget.prices import PriceBook

__all__ = ["EPOCH", "SETTLED_US", "Side"]

EPOCH = date(1970, 1, 1).toordinal()
SETTLED_US = DAY_US // 2
"""How long after a day its reports are taken to be final. Anthropic says that data appear within minutes, and sometimes
later; OpenAI says nothing (platform.claude.com/docs/en/manage-claude/usage-cost-api, read 2026-11-22)."""
_ALL_KEYS = "(all keys)"


class Side:
    """One provider.

    Args:
        provider: Its name.
        asked: The days that are to be compared.
        bill: What was pulled.
        book: Of the prices.
        names: Of the models.
        keys: The ids of our keys, if not all of the organization are.
        both: Its calls, summed by the day of their end, and of their begin; what fits the bill better counts.
        inputs: Gives the input tokens of each call of a group.
        pruned: Days that the ledger does not have any more.
    """

    def __init__(
        self, provider: str, asked: range, bill: BillFile, book: PriceBook, names: Names, keys: Collection[str],
        both: Sequence[Mapping[Group, Ours]], inputs: Callable[[Group], Sequence[int]],
        pruned: Collection[int],
    ):  # fmt: skip
        self._provider, self._asked, self._bill, self._book, self._names = provider, asked, bill, book, names
        self._keys, self._inputs = keys, inputs
        usage = PROVIDERS[provider].usage
        self._pulled = {report: bill.days(provider, report) for report in (*usage, COSTS)}
        self.days = {day for day in self._pulled[usage[0]] if day in asked and day not in pruned}
        self._complete = self.days.intersection(*(self._pulled[report] for report in usage))
        self._left_out = {group.day for group in both[0]} - self.days - set(pruned)
        self._by_key = bool(both[0]) and all(group.key is not None for group in both[0])
        lines = bill.used(provider, asked.start, asked.stop - 1)
        self._billed: dict[Group, Billed] = {}
        for group, billed in billed_sums((line for line in lines if line.day in self.days), names).items():
            merge(self._billed.setdefault(self._own(group), Billed()), billed)
        self._ours = min(map(self._fold, both), key=self._faults)

    def rows(self) -> list[Row]:
        """Compare, and return a row per group."""
        verdicts = self._judge(self._ours, self._inputs)
        self._cancel_midnights(verdicts)
        found = {group: [verdict] for group, verdict in verdicts.items()}
        sums, covers = self._money(verdicts)
        costs = Costs(self._book, self._ours, self._billed, sums, verdicts, covers)
        charged = {covered[0]: costs.charged(group) for group, covered in covers.items() if len(covered) == 1}
        for group, verdict in costs.verdicts().items():
            covered = covers.get(group, ())
            if len(covered) == 1:
                found[covered[0]].append(verdict)
                continue
            row = group._replace(key=_ALL_KEYS) if covered else group
            found[row], charged[row] = [verdict], costs.charged(group)
            for each in covered:
                self._ours.setdefault(row, Ours()).add(self._ours.get(each, Ours()))
                merge(self._billed.setdefault(row, Billed()), self._billed.get(each, Billed()))
        return [self._row(group, found[group], charged.get(group)) for group in sorted(found, key=_order)]

    def notes(self) -> list[str]:
        """Say what was not compared."""
        name, without = self._provider, self.days - self._pulled[COSTS].keys()
        said = [f"{name}: {len(self._left_out)} days with calls are not in a report of usage"] if self._left_out else []
        if without:
            said.append(f"{name}: {len(without)} days are not in a report of costs; only their usage was compared")
        return said

    def _own(self, group: Group) -> Group:
        """Take all keys for one if calls do not name theirs, but for those that are surely not ours."""
        foreign = bool(self._keys) and group.key not in self._keys
        return group if self._by_key or foreign else group._replace(key=None)

    def _fold(self, sums: Mapping[Group, Ours]) -> dict[Group, Ours]:
        folded: dict[Group, Ours] = {}
        for group, ours in sums.items():
            if group.day in self.days:
                folded.setdefault(group if self._by_key else group._replace(key=None), Ours()).add(ours)
        return folded

    def _faults(self, ours: Mapping[Group, Ours]) -> int:
        return sum(verdict.fault for verdict in self._judge(ours, lambda _: ()).values())

    def _judge(self, ours: Mapping[Group, Ours], inputs: Callable[[Group], Sequence[int]]) -> dict[Group, Verdict]:
        known = {(group.model, group.key) for group in ours}
        return {
            group: judge(
                ours.get(group), self._billed.get(group), known=(group.model, group.key) in known,
                inputs=partial(inputs, group), complete=group.day in self._complete,
            )
            for group in sorted(ours.keys() | self._billed.keys(), key=_order)
        }  # fmt: skip

    def _cancel_midnights(self, verdicts: dict[Group, Verdict]) -> None:
        """Two days whose differences cancel each other have a call that was counted to the other day."""
        for group, verdict in verdicts.items():
            later = group._replace(day=group.day + 1)
            if verdict.fault and later in verdicts and verdicts[later].fault:
                one, two = self._difference(group), self._difference(later)
                if any(one) and [-each for each in one] == two:
                    verdicts[group] = verdicts[later] = Verdict("matched", "midnight")

    def _difference(self, group: Group) -> list[int]:
        ours, billed = self._ours.get(group, Ours()), self._billed.get(group, Billed())
        return [*billed.tokens.minus(ours.tokens), 0 if billed.requests is None else billed.requests - ours.calls]

    def _money(self, groups: Collection[Group]) -> tuple[dict[Group, Money], dict[Group, list[Group]]]:
        """Return the sums of money, and the groups that each is for."""
        lines = self._bill.charged(self._provider, self._asked.start, self._asked.stop - 1)
        told = money_sums((line for line in lines if line.day in self.days), self._names)
        keyed = any(group.key is not None for group in told)
        sums: dict[Group, Money] = {}
        for group, money in told.items():
            sums.setdefault(self._own(group) if keyed else group, Money()).merge(money)
        covers: dict[Group, list[Group]] = {group: [] for group in sums if group.model is not None}
        for group in groups:
            if group.day in self._pulled[COSTS]:
                covers.setdefault(group if keyed else group._replace(key=None), []).append(group)
        return sums, covers

    def _row(self, group: Group, verdicts: list[Verdict], money: Money | None) -> Row:
        ours, billed = self._ours.get(group, Ours()), self._billed.get(group, Billed())
        chief = min(verdicts, key=lambda verdict: (not verdict.fault, verdict.status == "matched"))
        return Row(
            group.provider, date.fromordinal(EPOCH + group.day).isoformat(), group.model, group.key,
            "open" if chief.fault and self._is_open(group.day) else chief.status,
            tuple(dict.fromkeys(v.reason for v in verdicts if v.reason)), tuple(v.note for v in verdicts if v.note),
            ours.calls, billed.requests, ours.tokens, billed.tokens, to_decimal(ours.nanos),
            None if money is None else to_decimal(money.nanos),
        )  # fmt: skip

    def _is_open(self, day: int) -> bool:
        """Whether a report of the day was pulled before it was final."""
        return min(days[day] for days in self._pulled.values() if day in days) < (day + 1) * DAY_US + SETTLED_US


def _order(group: Group) -> tuple[str, int, str, str]:
    return group.provider, group.day, group.model or "~", group.key or ""
