"""Middleware of Anthropic's SDK: what leaves a body as it is stays in one reservation, another body has its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anthropic
import pytest

from budget import Budget, BudgetError, BudgetExceeded, Limit, Unbounded, UnknownModel
from budget.demo.provider import Provider

from .conftest import MODEL, REQUEST, cost, ends, is_sync, only_end, open_reservations, run_async, steer

pytestmark = pytest.mark.skipif(not hasattr(anthropic, "Middleware"), reason="this SDK has no middleware")
KINDS = (anthropic.Anthropic, anthropic.AsyncAnthropic)
DEARER = "claude-opus-4-6"
Make = Callable[..., Any]


def changed(request: Any, **fields: Any) -> Any:
    return request.copy(body={**request.json, **fields})


def in_place(request: Any, **fields: Any) -> Any:
    request.json.update(fields)
    return request


def using(kind: type, *requests: Callable[[Any], Any]) -> Any:
    """A middleware that sends what each of these makes of a request, and returns the last answer."""

    def middleware(request: Any, call_next: Any) -> Any:
        return [call_next(make(request)) for make in requests][-1]

    async def amiddleware(request: Any, call_next: Any) -> Any:
        return [await call_next(make(request)) for make in requests][-1]

    return middleware if is_sync(kind) else amiddleware


def as_it_is(request: Any) -> Any:
    return request


def call(budget: Budget, client: Any, request: dict[str, Any] = REQUEST) -> Any:
    wrapped = budget.wrap(client)
    if is_sync(type(client)):
        return wrapped.messages.create(**request)
    return run_async(wrapped, lambda c: c.messages.create(**request))


def kinds_of(budget: Budget) -> list[tuple[str, str | None]]:
    return [(entry.kind, entry.model) for entry in budget.entries() if not entry.kind.startswith("limit")]


@pytest.mark.parametrize("kind", KINDS)
def test_what_leaves_the_body_as_it_is_stays_in_one_reservation(
    budget: Budget, plain: Make, provider: Provider, kind: Any
) -> None:
    def with_header(request: Any) -> Any:
        return request.copy(headers={**request.headers, "x-trace": "1"})

    call(budget, plain(kind, middleware=[using(kind, with_header)], max_retries=2), steer("fail_first=2:500"))
    assert len(provider.requests) == 3
    assert only_end(budget).usd == cost(provider.requests[-1].usage or {})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", [changed, in_place])
def test_another_body_is_a_call_of_its_own(
    budget: Budget, plain: Make, provider: Provider, kind: Any, change: Any
) -> None:
    middleware = using(kind, lambda request: change(request, model=DEARER))
    answer = call(budget, plain(kind, middleware=[middleware]))
    assert answer.model == DEARER
    assert kinds_of(budget) == [("reserved", MODEL), ("refunded", MODEL), ("reserved", DEARER), ("reconciled", DEARER)]
    assert ends(budget)[-1].usd == budget.cost(answer, provider="anthropic").usd
    assert "estimated" not in ends(budget)[-1].detail
    assert not open_reservations(budget)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [Limit("$0.001/day", model=DEARER), "$0.002/request"])
def test_another_body_is_refused_before_a_byte_is_sent(
    make_budget: Make, plain: Make, provider: Provider, kind: Any, limit: Any
) -> None:
    budget = make_budget("memory://", limits=["$1/day", limit])
    with pytest.raises(BudgetExceeded):
        call(budget, plain(kind, middleware=[using(kind, lambda request: changed(request, model=DEARER))]))
    assert not provider.requests
    assert not open_reservations(budget)


@pytest.mark.parametrize("fields", [{"max_tokens": 50_000}, {"tools": [{"type": "bash_20250124", "name": "bash"}]}])
def test_whatever_of_the_body_is_another(budget: Budget, plain: Make, fields: dict[str, Any]) -> None:
    call(budget, plain(middleware=[using(anthropic.Anthropic, lambda request: changed(request, **fields))]))
    assert [kind for kind, _ in kinds_of(budget)] == ["reserved", "refunded", "reserved", "reconciled"]


def test_another_path_is_another(budget: Budget, plain: Make, provider: Provider) -> None:
    def elsewhere(request: Any) -> Any:
        return request.copy(url="/v1/dreams")

    with pytest.raises(Unbounded, match="a dream runs models"):
        call(budget, plain(middleware=[using(anthropic.Anthropic, elsewhere)]))
    assert not provider.requests
    assert only_end(budget).kind == "refunded"


@pytest.mark.parametrize("kind", KINDS)
def test_a_fallback_is_charged_for_both(budget: Budget, plain: Make, kind: Any) -> None:
    """What the first request cost nobody says any more: it is charged as reserved."""
    middleware = using(kind, as_it_is, lambda request: changed(request, model=DEARER))
    answer = call(budget, plain(kind, middleware=[middleware]))
    first, second = ends(budget)
    assert first.estimate is not None
    assert (first.model, str(first.usd), first.detail["estimated"]) == (MODEL, first.estimate["usd_max"], True)
    assert (second.model, second.usd) == (DEARER, budget.cost(answer, provider="anthropic").usd)
    assert not open_reservations(budget)


def test_a_retry_of_another_body_stays_in_its_reservation(budget: Budget, plain: Make, provider: Provider) -> None:
    middleware = using(anthropic.Anthropic, lambda request: changed(request, model=DEARER))
    call(budget, plain(middleware=[middleware], max_retries=2), steer("fail_first=2:500"))
    assert len(provider.requests) == 3
    assert kinds_of(budget) == [("reserved", MODEL), ("refunded", MODEL), ("reserved", DEARER), ("reconciled", DEARER)]


def test_what_is_sent_after_a_refusal_has_a_reservation_too(make_budget: Make, plain: Make, provider: Provider) -> None:
    budget = make_budget("memory://", limits=["$1/day", Limit("$0.001/day", model=DEARER)])

    def back(request: Any, call_next: Any) -> Any:
        for _ in range(2):
            with pytest.raises(BudgetError):
                call_next(changed(request, model=DEARER))
        return call_next(request)

    call(budget, plain(middleware=[back]))
    assert len(provider.requests) == 1
    found = [kind for kind, _ in kinds_of(budget) if kind != "refused"]
    assert found == ["reserved", "refunded", "reserved", "reconciled"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_is_metered_as_what_was_sent(budget: Budget, plain: Make, provider: Provider, kind: Any) -> None:
    wrapped = budget.wrap(plain(kind, middleware=[using(kind, lambda request: changed(request, model=DEARER))]))

    async def read(client: Any) -> None:
        async with client.messages.stream(**REQUEST) as stream:
            await stream.get_final_message()

    if is_sync(kind):
        with wrapped.messages.stream(**REQUEST) as stream:
            stream.get_final_message()
    else:
        run_async(wrapped, read)
    assert kinds_of(budget) == [("reserved", MODEL), ("refunded", MODEL), ("reserved", DEARER), ("reconciled", DEARER)]
    usage = provider.requests[-1].usage
    assert ends(budget)[-1].usd == budget.cost(usage, model=DEARER, provider="anthropic").usd


def test_what_a_middleware_asks_for_free_is_no_other_body(budget: Budget, plain: Make, provider: Provider) -> None:
    def counting(request: Any, call_next: Any) -> Any:
        if request.url == "/v1/messages":
            wrapped.messages.count_tokens(model=MODEL, messages=REQUEST["messages"])
        return call_next(request)

    wrapped = budget.wrap(plain(middleware=[counting]))
    wrapped.messages.create(**REQUEST)
    assert len(provider.requests) == 2
    assert only_end(budget).kind == "reconciled"


def test_extras_hold_for_another_body_too(budget: Budget, plain: Make, provider: Provider) -> None:
    wrapped = budget.wrap(plain(middleware=[using(anthropic.Anthropic, lambda r: changed(r, max_tokens=50_000))]))
    with pytest.raises(BudgetExceeded):
        wrapped.messages.create(**REQUEST, budget_cap="$0.01")
    assert not provider.requests
    wrapped.messages.create(**REQUEST, budget_scope={"user": "alice"})
    assert [entry.kind for entry in ends(budget, user="alice")] == ["refunded", "reconciled"]


def test_another_body_without_a_price_passes_by_hand_alone(budget: Budget, plain: Make, provider: Provider) -> None:
    client = plain(middleware=[using(anthropic.Anthropic, lambda request: changed(request, model="nobody-1"))])
    with pytest.raises(UnknownModel):
        call(budget, client)
    assert not provider.requests
    with budget.reservation("$1", user="alice"):
        call(budget, client)
    assert len(provider.requests) == 1
    assert [entry.usd for entry in ends(budget, user="alice")] == [1]
