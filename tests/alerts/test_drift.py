"""The two-sample Kolmogorov-Smirnov test against its definition and against tabled values."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import Counter
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budget.alerts.drift import ks_distance, ks_p_value

SAMPLE = st.lists(st.integers(0, 30), min_size=1, max_size=60)


@given(SAMPLE, SAMPLE)
def test_the_distance_is_the_largest_of_two_distribution_functions(first: list[int], second: list[int]) -> None:
    one, two = sorted(first), sorted(second)
    gaps = [abs(bisect_right(one, x) / len(one) - bisect_right(two, x) / len(two)) for x in one + two]
    assert ks_distance(Counter(first), Counter(second)) == pytest.approx(max(gaps))


# Critical values of sqrt(N) D for large samples, Smirnov 1948 as in every table: 5 %: 1.358, 1 %: 1.628, 0.1 %: 1.949.
@pytest.mark.parametrize(("scaled", "p"), [(1.358, 0.05), (1.628, 0.01), (1.949, 0.001), (0.828, 0.5)])
def test_the_p_value_is_the_tabled_one(scaled: float, p: float) -> None:
    n = m = 2_000_000
    assert ks_p_value(scaled / sqrt(n * m / (n + m)), n, m) == pytest.approx(p, rel=0.01)


def test_no_distance_is_no_evidence_and_a_whole_one_is() -> None:
    assert ks_p_value(0.0, 100, 100) == 1.0
    assert ks_p_value(1.0, 100, 100) < 1e-12


def test_samples_of_one_distribution_are_seldom_told_apart() -> None:
    source = random.Random(7)
    wrong = 0
    for _ in range(300):
        one = Counter(source.randrange(1000) for _ in range(120))
        two = Counter(source.randrange(1000) for _ in range(200))
        wrong += ks_p_value(ks_distance(one, two), 120, 200) < 0.05
    assert 3 <= wrong <= 27  # 15 are expected; beyond these bounds with a chance below 1 in 400
