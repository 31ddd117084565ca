"""The circuit breaker, over a time that the test makes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budget.outage.breaker import ENOUGH, IN_A_ROW, PROBE_EVERY, WITHIN, Breaker


def after(events: str, gap: float = 0.1) -> Breaker:
    """A breaker that saw failures (F) and answers (a)."""
    breaker = Breaker(lambda: 0.5)
    for n, event in enumerate(events):
        (breaker.failed if event == "F" else breaker.answered)(n * gap)
    return breaker


@pytest.mark.parametrize(
    ("events", "opens"),
    [
        ("", False),
        ("FFFF", False),
        ("FFFFF", True),
        ("FFFFaFFFF", False),
        ("FFFFaFFFFF", True),
        ("aaaaaaaaaaaaaaaaaaaaFFFF", False),
        ("aaaaaaaaaaaaaaaaaaaaFFFFF", True),
        ("FaFaFaFaF", False),  # half, but of nine
        ("FaFaFaFaFa", False),  # an answer opens nothing
        ("FaFaFaFaFaF", True),
        ("FaFaFaaFaF", True),  # half of ten
        ("FaaFaaFaaFaaFaaFaaF", False),  # a third
        ("FFFFFa", False),  # an answer closes it
        ("FFFFFaFFFF", False),  # and it begins anew
    ],
)
def test_what_opens_it(events: str, opens: bool) -> None:
    assert after(events).open == opens


def test_it_says_once_that_it_opened_and_closed() -> None:
    breaker = Breaker()
    assert [breaker.failed(0.0) for _ in range(IN_A_ROW + 3)] == [False] * (IN_A_ROW - 1) + [True] + [False] * 3
    assert [breaker.answered(1.0) for _ in range(3)] == [True, False, False]


def test_failures_that_lie_far_apart_are_not_added_up() -> None:
    """One of two fails, but never ten within ten seconds of a failure."""
    for gap, opens in ((WITHIN / (ENOUGH - 2), False), (WITHIN / (ENOUGH + 4), True)):
        breaker = Breaker()
        opened = []
        for n in range(40):
            opened.append(breaker.failed(2 * n * gap))
            breaker.answered((2 * n + 1) * gap)
        assert any(opened) == opens


def test_trouble_passes() -> None:
    breaker = after("FFF")
    assert breaker.troubled
    breaker.answered(WITHIN + 1)
    assert not breaker.troubled


def test_probes() -> None:
    """One a second, a quarter earlier or later; what fails in between moves none."""
    chances = iter([0.0, 1.0, 0.5])
    breaker = Breaker(lambda: next(chances))
    for _ in range(IN_A_ROW):
        breaker.failed(100.0)
    at = [breaker.probe_at]
    for _ in range(2):
        breaker.failed(breaker.probe_at - 0.01)
        assert breaker.probe_at == at[-1]
        breaker.failed(breaker.probe_at)
        at.append(breaker.probe_at)
    assert [round(b - a, 6) for a, b in pairwise([100.0, *at])] == [0.75 * PROBE_EVERY, 1.25 * PROBE_EVERY, PROBE_EVERY]


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 3)), max_size=80))
def test_laws(events: list[tuple[bool, float]]) -> None:
    """After an answer it is closed. It opens at a failure, after so many in a row or with so many behind it; then it
    stays open until an answer, and it is in trouble as long."""
    breaker, now, row, failed, was = Breaker(), 0.0, 0, 0, False
    for good, gap in events:
        now += gap
        if good:
            assert breaker.answered(now) == was
            assert not breaker.open
            row = 0
        else:
            row, failed = row + 1, failed + 1
            assert breaker.failed(now) == (breaker.open and not was)
            assert breaker.open >= was
            assert breaker.troubled
            if breaker.open and not was:
                assert row >= IN_A_ROW or failed * 2 >= ENOUGH
            if row >= IN_A_ROW:
                assert breaker.open
        was = breaker.open
