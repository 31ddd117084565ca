"""The table of outcomes as a function: what is surely not billed, and that everything else is charged."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import anthropic
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from budget import Budget, ConfigError
from budget.outcome import CHARGE, REFUND, never_connected, outcome, unbilled_status

from .conftest import only_end

UNBILLED = (400, 401, 402, 403, 404, 405, 410, 413, 418, 422, 429, 451, 499, 500, 503, 529)
BILLED = (100, 200, 201, 204, 301, 307, 308, 399, 408, 409, 501, 502, 504, 505, 520, 522, 524, 599, 600)


def _error(status: int | None = None, cause: BaseException | None = None) -> Exception:
    error: Exception
    if status is None:
        error = anthropic.APIConnectionError(request=httpx2.Request("POST", "http://localhost"))
    else:
        response = httpx2.Response(status, request=httpx2.Request("POST", "http://localhost"))
        error = anthropic.APIStatusError("no", response=response, body=None)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(("status", "unbilled"), [*((s, True) for s in UNBILLED), *((s, False) for s in BILLED)])
def test_which_status_is_unbilled(status: int, unbilled: bool) -> None:
    assert unbilled_status(status) is unbilled
    assert outcome(_error(status), 1, [status]) == outcome(_error(status), None) == (REFUND if unbilled else CHARGE)


TABLE: list[tuple[str, BaseException | None, int | None, Sequence[int], str]] = [
    ("no attempt", ValueError(), 0, [], REFUND),
    ("no attempt, no error", None, 0, [], REFUND),
    ("an answer without usage", None, 1, [200], CHARGE),
    ("an answer without usage, nobody counted", None, None, [], CHARGE),
    ("a retried answer without usage", None, 2, [429, 200], CHARGE),
    ("an error in a stream", _error(529), 1, [200], CHARGE),
    ("429, 429, 429", _error(429), 3, [429, 429, 429], REFUND),
    ("no answer, then 429", _error(429), 2, [429], CHARGE),
    ("429, then no answer", _error(), 2, [429], CHARGE),
    ("504, then 429", _error(429), 2, [504, 429], CHARGE),
    ("429, then 502", _error(502), 2, [429, 502], CHARGE),
    ("no answer, then no connection", _error(cause=httpx2.ConnectError("refused")), 1, [], CHARGE),
    ("no connection, then 429", _error(429), 1, [429], REFUND),
    ("timed out, nobody counted", TimeoutError(), None, [], CHARGE),
    ("cancelled", KeyboardInterrupt(), None, [], CHARGE),
    ("the caller's own error", ValueError(), None, [], CHARGE),
    ("no connection, nobody counted", _error(cause=httpx2.ConnectError("refused")), None, [], REFUND),
    ("refused by the socket", ConnectionRefusedError(), None, [], REFUND),
    ("the answer was cut, nobody counted", _error(cause=httpx2.ReadError("cut")), None, [], CHARGE),
]


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_the_table(row: tuple[str, BaseException | None, int | None, Sequence[int], str]) -> None:
    _, error, attempts, statuses, expected = row
    assert outcome(error, attempts, statuses) == expected


@given(st.lists(st.sampled_from(UNBILLED + BILLED), min_size=1, max_size=4), st.integers(0, 3), st.integers(0, 9))
def test_a_refund_needs_every_attempt_surely_unbilled(statuses: list[int], silent: int, at: int) -> None:
    attempts = len(statuses) + silent
    refunded = outcome(_error(statuses[-1]), attempts, statuses) == REFUND
    assert refunded == (silent == 0 and set(statuses) <= set(UNBILLED))
    # No attempt that is added to a charged call makes it free.
    if not refunded:
        more = [*statuses[: at % 4], 429, *statuses[at % 4 :]]
        assert outcome(_error(429), attempts + 1, more) == CHARGE


def test_a_loop_of_causes_ends() -> None:
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    assert not never_connected(first)


def test_a_status_that_is_no_number_counts_as_none() -> None:
    error = ValueError()
    error.status_code = "429"  # type: ignore[attr-defined]
    assert outcome(error, None) == CHARGE
    error.status_code = True  # type: ignore[attr-defined]
    assert outcome(error, None) == CHARGE


# The same table behind `with budget.reservation(...)`.


@pytest.mark.parametrize(
    ("error", "kind", "usd"),
    [
        (_error(429), "refunded", "0"),
        (_error(400), "refunded", "0"),
        (ConnectionRefusedError(), "refunded", "0"),
        (_error(502), "reconciled", "0.4"),
        (TimeoutError(), "reconciled", "0.4"),
        (KeyboardInterrupt(), "reconciled", "0.4"),
        (SystemExit(), "reconciled", "0.4"),
    ],
)
def test_a_block_that_raises(budget: Budget, error: BaseException, kind: str, usd: str) -> None:
    with pytest.raises(type(error)), budget.reservation("$0.40"):
        raise error
    end = only_end(budget)
    assert (end.kind, end.usd, end.detail["outcome"]) == (kind, Decimal(usd), type(error).__name__)
    assert end.detail.get("estimated", False) is (kind == "reconciled")


def test_a_block_that_says_nothing_is_charged_as_reserved(budget: Budget) -> None:
    with budget.reservation("$0.40") as guard:
        assert guard.id
    end = only_end(budget)
    assert (end.usd, end.detail["estimated"], end.detail["outcome"]) == (Decimal("0.4"), True, "no usage")


def test_a_block_is_entered_once(budget: Budget) -> None:
    with budget.reservation("$0.40") as guard:
        guard.refund()
        with pytest.raises(ConfigError, match="entered before"):
            guard.begin()
    with pytest.raises(ConfigError, match="entered before"), guard:
        pass
    assert only_end(budget).kind == "refunded"


def test_what_ends_a_block_first_wins(budget: Budget) -> None:
    with budget.reservation("$0.40") as guard:
        guard.reconcile(usd="0.31")
        assert not guard.end((1, 1, 1, 1, 1), {})
        assert not guard.post((1, 1, 1, 1, 1), {})
    assert only_end(budget).usd == Decimal("0.31")
