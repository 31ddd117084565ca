"""A rule about distributions: what calls of an agent and model cost is no longer what it was.

Two samples, the costs of the last whole stretch of time and those of the seven before it, are compared by the two-
sample Kolmogorov-Smirnov test. Its statistic D is the largest distance of the two empirical distribution functions;
the p-value is the asymptotic one (N. Smirnov, Table for estimating the goodness of fit of empirical distributions,
Annals of Mathematical Statistics 19, 1948, 279-281), with M. A. Stephens' correction for finite samples (Use of the
Kolmogorov-Smirnov, Cramer-von Mises and related statistics without extensive tables, Journal of the Royal Statistical
Society B 32, 1970, 115-122):

    Q(l) = 2 sum over j >= 1 of (-1)^(j-1) exp(-2 j^2 l^2)
    l = (sqrt(N) + 0.12 + 0.11 / sqrt(N)) D,   N = nm / (n + m)

With many calls any difference becomes significant: 5 % of scale at 10,000 calls. So D itself, which does not depend on
how many calls there are, has a floor: a fifth of the calls must have moved from one side of some amount to the other.
Each stretch is judged once, when it is over: a test that is repeated with every call finds something in the end.

Samples are kept as histograms of integers whose buckets are at most 3.2 % wide (`budget.expect`). Within a bucket
nobody sees a difference, so D may come out smaller than it is, never larger."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import exp, sqrt
from typing import Self

from budget.alerts.rule import Look, Rule, group_of, span_of
from budget.expect import bucket_of, quantile
from budget.ledger import Entry
from budget.money import format_usd, show_usd
from budget.records.changes import Change, Ended

__all__ = ["Drift", "ks_distance", "ks_p_value"]

_BEFORE = 7
_LEAST_CALLS = 100
_LEAST_D = 0.2
_P = 0.001
_JUDGED = " judged"  # no group has this name


class Drift(Rule):
    """The distribution of what calls cost has changed: "drift in 1d"."""

    form = "drift in 1d"
    pattern = re.compile(r"drift in (\d{1,6}[smhd])")

    def __init__(self, text: str, span: int):
        super().__init__(text)
        self._span = span
        self.keep_us = (_BEFORE + 2) * span

    @classmethod
    def made(cls, text: str, found: re.Match[str]) -> Self:
        """See `Rule`."""
        return cls(text, span_of(found[1]))

    def saw(self, look: Look, entry: Entry, change: Change) -> None:
        """See `Rule`."""
        self._judge_once(look, entry.at_us)
        if isinstance(change, Ended):
            slot = entry.at_us // self._span * self._span
            look.sums.add(group_of(change), slot, entry.at_us, 1, part=bucket_of(change.record.nanos))

    def tick(self, look: Look) -> None:
        """See `Rule`."""
        self._judge_once(look, look.now_us)

    def _judge_once(self, look: Look, at_us: int) -> None:
        now = at_us // self._span * self._span
        if look.sums.total(_JUDGED, now)[0]:
            return
        look.sums.add(_JUDGED, now, at_us, 1)
        last = now - self._span
        before = look.sums.parts(last - _BEFORE * self._span, last)
        for group, sample in look.sums.parts(last, now).items():
            if group != _JUDGED and group in before:
                self._judge(look, group, last, before[group], sample)

    def _judge(self, look: Look, group: str, slot: int, before: Mapping[int, int], sample: Mapping[int, int]) -> None:
        n, m = sum(before.values()), sum(sample.values())
        if min(n, m) < _LEAST_CALLS:
            return
        distance = ks_distance(before, sample)
        p = ks_p_value(distance, n, m)
        if distance >= _LEAST_D and p < _P:
            was, now = _median(before), _median(sample)
            text = (
                f"{group}: what calls cost has changed, median {show_usd(was)} before and {show_usd(now)} now "
                f"(Kolmogorov-Smirnov D = {distance:.2f}, p = {p:.1g}, {n} and {m} calls)"
            )
            look.warn(
                group, slot, slot + self._span, text, d=f"{distance:.4f}", p=f"{p:.3g}",
                median_before=format_usd(was), median=format_usd(now), calls_before=n, calls=m,
            )  # fmt: skip


def ks_distance(first: Mapping[int, int], second: Mapping[int, int]) -> float:
    """Return the statistic of the two-sample Kolmogorov-Smirnov test, of two histograms with the same buckets."""
    n, m = sum(first.values()), sum(second.values())
    largest, left, right = 0, 0, 0
    for bucket in sorted(first.keys() | second.keys()):
        left, right = left + first.get(bucket, 0), right + second.get(bucket, 0)
        largest = max(largest, abs(left * m - right * n))
    return largest / (n * m)


def ks_p_value(distance: float, n: int, m: int) -> float:
    """Return the asymptotic p-value of a distance between samples of n and m; see the module for the sources."""
    root = sqrt(n * m / (n + m))
    scaled = (root + 0.12 + 0.11 / root) * distance
    if scaled < 0.2:  # the series converges slowly here, and is 1 to 12 digits
        return 1.0
    total: float = sum((-1) ** (j - 1) * exp(-2 * (j * scaled) ** 2) for j in range(1, 101))
    return min(1.0, max(0.0, 2 * total))


def _median(counts: Mapping[int, int]) -> int:
    return quantile(counts, 500_000)
