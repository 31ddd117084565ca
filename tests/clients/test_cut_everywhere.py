"""Growing streams, cut at every chunk: by a limit, by the server, and by a reader who leaves.

Three things hold at each of them: what is booked is never below what was received, a limit cuts within one step of
itself and is not passed, and nothing is left reserved. The steps are small here, so that every chunk meets a cut.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from budget import Budget, BudgetExceeded
from budget.clients import growth
from budget.demo.provider import Provider

from . import test_openai_streams as openai_streams
from . import test_streams as anthropic_streams
from .conftest import (
    BROKEN,
    CHAT_IN,
    CHAT_MODEL,
    CHAT_OUT,
    IN,
    OUT,
    REQUEST,
    ends,
    is_sync,
    open_reservations,
    run_async,
    words,
)

Make = Callable[..., Any]
Read = tuple[str, Exception | None]
STEP = 8
WORDS = 12
INPUT_LEAST, INPUT_MOST = 9, 60  # tokens, of what the provider bills and of the bound, for the tests' requests
MESSAGES = {**REQUEST, "max_tokens": 5000}
CHAT = {"model": CHAT_MODEL, "messages": REQUEST["messages"]}  # neither has a bound of its own
RESPONSE = {"model": CHAT_MODEL, "input": "hello there"}
_USUAL = ("events", "aevents", "chat", "achat", "responses", "aresponses")
READERS = [*anthropic_streams.READERS, *openai_streams.READERS]


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "STEP", STEP)
    monkeypatch.setattr(growth, "AHEAD", STEP // 4)


def _some(reader: Any, count: int) -> range:
    """Every number for the usual way to read each API's stream, every sixth for the others, which read through it.

    With EVERY_CHUNK in the environment (`make test-matrix` sets it) every number for all of them.
    """
    return range(0, count, 1 if "EVERY_CHUNK" in os.environ or reader.__name__.lstrip("_") in _USUAL else 6)


def _request(reader: Any, demo: str) -> dict[str, Any]:
    name = reader.__name__
    request = CHAT if "chat" in name else RESPONSE if "responses" in name else MESSAGES
    return {**request, "extra_headers": {"x-demo": demo}}


def _rates(kind: type) -> tuple[Decimal, Decimal]:
    return (IN, OUT) if kind.__module__.startswith("anthropic") else (CHAT_IN, CHAT_OUT)


async def _aread(client: Any, reader: Any, request: Any, leave: int | None) -> Read:
    got: list[str] = []
    try:
        async with contextlib.aclosing(reader(client, request)) as parts:
            async for text in parts:
                got.append(text)
                if leave is not None and words("".join(got)) >= leave:
                    break
    except (BudgetExceeded, *BROKEN) as error:
        return "".join(got), error
    return "".join(got), None


def _read(client: Any, reader: Any, request: Any, leave: int | None) -> Read:
    got: list[str] = []
    try:
        with contextlib.closing(reader(client, request)) as parts:
            for text in parts:
                got.append(text)
                if leave is not None and words("".join(got)) >= leave:
                    break
    except (BudgetExceeded, *BROKEN) as error:
        return "".join(got), error
    return "".join(got), None


def _each(bare: Any, reader: Any, rows: list[tuple[Budget, str, int | None]]) -> list[Read]:
    """Read one stream for each row (whose budget, how it is answered, when it is left), over one HTTP client."""
    if is_sync(type(bare)):
        return [_read(budget.wrap(bare), reader, _request(reader, demo), leave) for budget, demo, leave in rows]
    found = []

    async def main(client: Any) -> None:
        for budget, demo, leave in rows:
            found.append(await _aread(budget.wrap(client), reader, _request(reader, demo), leave))

    run_async(bare, main)
    return found


def _spent(budget: Budget) -> Decimal:
    """What the only call of a budget cost."""
    assert not open_reservations(budget)
    booked = [entry.usd for entry in ends(budget) if entry.kind == "reconciled"]
    assert len(booked) <= 1, "the money of a call is one entry"
    pool = budget.status()[0]
    assert (pool.spent, pool.reserved) == (sum(booked), 0)
    return Decimal(sum(booked))


@pytest.mark.parametrize(("kind", "reader"), READERS)
def test_cut_by_a_limit_at_every_chunk(
    make_budget: Callable[..., Budget], plain: Make, provider: Provider, kind: Any, reader: Any
) -> None:
    into, out = _rates(kind)
    first = INPUT_MOST * into + STEP * out
    limits = [first + out * tokens for tokens in _some(reader, 2 * WORDS)]
    budgets = [make_budget("memory://", limits=[f"${limit}/day"], reserve_at="expected") for limit in limits]
    found = _each(plain(kind), reader, [(budget, f"output={WORDS},pace=0.0005", None) for budget in budgets])
    cuts = set()
    for limit, budget, (text, error) in zip(limits, budgets, found, strict=True):
        spent, received = _spent(budget), words(text)
        assert spent >= INPUT_LEAST * into + received * out
        if error is None:
            assert received == WORDS
            continue
        assert isinstance(error, BudgetExceeded), error
        assert error.partial is not None
        assert received <= words(error.partial)
        if "lines" not in reader.__name__:
            assert error.partial == text
        if received:
            cuts.add(received)
            assert limit - STEP * out - INPUT_MOST * into < spent <= limit
    assert len(cuts) >= 2


@pytest.mark.parametrize(("kind", "reader"), READERS)
def test_cut_by_the_server_and_left_at_every_chunk(
    make_budget: Callable[..., Budget], plain: Make, kind: Any, reader: Any
) -> None:
    into, out = _rates(kind)
    cuts = [(f"output={WORDS},cut={cut}", None) for cut in _some(reader, WORDS + 9)]
    leaves = [(f"output={WORDS},pace=0.0005", leave) for leave in _some(reader, WORDS + 1)]
    budgets = [make_budget("memory://", limits=["$1/day"], reserve_at="expected") for _ in (*cuts, *leaves)]
    rows = [(budget, *row) for budget, row in zip(budgets, [*cuts, *leaves], strict=True)]
    grew = 0
    for budget, (text, _) in zip(budgets, _each(plain(kind), reader, rows), strict=True):
        assert _spent(budget) >= INPUT_LEAST * into + words(text) * out
        entries = list(budget.entries())
        given_back = [entry for entry in entries if entry.kind == "refunded"]
        assert len(entries) == 2 + 2 * len(given_back)
        assert all(entry.usd == 0 for entry in given_back)
        grew += len(given_back)
    assert grew > 3
