"""How plain calls end, on real HTTP: the table of outcomes, with and without the SDK's retries."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import anthropic
import httpx2
import pytest

from budget import Budget
from budget.demo.provider import Provider, Reply, Request
from budget.outcome import CHARGE, REFUND

from .conftest import IN, OUT, REQUEST, cost, ends, only_end, reserved_usd, run_async, steer

Make = Callable[..., Any]
KINDS = (anthropic.Anthropic, anthropic.AsyncAnthropic)
RESERVED = "as reserved"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK waits about half a second before a retry that no `retry-after` header is about."""
    monkeypatch.setattr("anthropic._base_client.INITIAL_RETRY_DELAY", 0.001)


def _call(client: Any, request: Any) -> BaseException | None:
    """Make a call; return what it raised."""
    try:
        if isinstance(client, anthropic.Anthropic):
            client.messages.create(**request)
        else:
            run_async(client, lambda client: client.messages.create(**request))
    except Exception as error:
        return error
    return None


def _check_end(budget: Budget, how: str) -> None:
    """One reservation and one end: refunded, or charged as reserved and marked as estimated."""
    end = only_end(budget)
    assert end.kind == ("refunded" if how == REFUND else "reconciled")
    assert end.usd == (0 if how == REFUND else reserved_usd(budget))
    assert end.detail.get("estimated", False) is (how == CHARGE)
    assert end.detail["latency_ms"] >= 0
    assert end.amounts[4] == (0 if how == REFUND else 1)  # a refund gives the request back too


_ANSWERS = [
    *((status, REFUND) for status in (400, 401, 402, 403, 404, 413, 422, 429, 500, 503, 529)),
    *((status, CHARGE) for status in (408, 409, 502, 504, 522)),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_retries", [0, 2])
@pytest.mark.parametrize(("status", "how"), _ANSWERS)
def test_an_http_error(
    budget: Budget, plain: Make, provider: Provider, kind: Any, max_retries: int, status: int, how: str
) -> None:
    error = _call(budget.wrap(plain(kind, max_retries=max_retries)), steer(f"status={status}"))
    assert isinstance(error, anthropic.APIStatusError)
    assert error.status_code == status
    retried = status in (408, 409, 429) or status >= 500
    assert len(provider.requests) == (1 + max_retries if retried else 1)
    _check_end(budget, how)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_retries", [0, 2])
@pytest.mark.parametrize("demo", ["hang=0", "cut=0"])
def test_a_connection_cut_after_sending_is_charged(
    budget: Budget, plain: Make, provider: Provider, kind: Any, max_retries: int, demo: str
) -> None:
    error = _call(budget.wrap(plain(kind, max_retries=max_retries)), steer(demo))
    assert isinstance(error, anthropic.APIConnectionError)
    assert len(provider.requests) == 1 + max_retries
    _check_end(budget, CHARGE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_retries", [0, 2])
def test_a_timeout_after_sending_is_charged(
    budget: Budget, plain: Make, provider: Provider, kind: Any, max_retries: int
) -> None:
    wrapped = budget.wrap(plain(kind, max_retries=max_retries, timeout=httpx2.Timeout(30, read=0.1)))
    assert isinstance(_call(wrapped, steer("hang=5")), anthropic.APITimeoutError)
    assert len(provider.requests) == 1 + max_retries
    _check_end(budget, CHARGE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_retries", [0, 2])
def test_a_connection_refused_is_refunded(budget: Budget, plain: Make, kind: Any, max_retries: int) -> None:
    with Provider() as gone:
        url = gone.url
    error = _call(budget.wrap(plain(kind, base_url=url, max_retries=max_retries)), REQUEST)
    assert isinstance(error, anthropic.APIConnectionError)
    _check_end(budget, REFUND)


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_does_not_resolve_is_refunded(budget: Budget, plain: Make, kind: Any) -> None:
    error = _call(budget.wrap(plain(kind, base_url="http://nowhere.invalid", max_retries=1)), REQUEST)
    assert isinstance(error, anthropic.APIConnectionError)
    _check_end(budget, REFUND)


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_was_closed_sends_nothing_and_is_refunded(budget: Budget, plain: Make, kind: Any) -> None:
    client = budget.wrap(plain(kind, max_retries=1))
    if kind is anthropic.Anthropic:
        client.close()
    else:
        asyncio.run(client.close())
    assert isinstance(_call(client, REQUEST), anthropic.APIConnectionError)
    _check_end(budget, REFUND)


class _Pooled(httpx2.BaseTransport):
    """A transport that traces nothing and has no connection to spare."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        raise httpx2.PoolTimeout("no connection in time", request=request)


def test_an_error_says_what_a_transport_does_not_trace(budget: Budget, plain: Make) -> None:
    _call(budget.wrap(plain(http_client=httpx2.Client(transport=_Pooled()))), REQUEST)
    _check_end(budget, REFUND)


# What one attempt may have cost, no later attempt makes undone.


def _scripted(replies: Sequence[Reply]) -> Provider:
    """A provider whose n-th attempt gets the n-th reply."""
    left: Iterator[Reply] = iter(replies)

    def script(request: Request) -> Reply:
        return next(left)

    return Provider(script=script)


_429, _OK = Reply(status=429, retry_after=0.001), Reply()
_SEQUENCES: dict[str, tuple[list[Reply], str]] = {
    "429, 429, 429": ([_429] * 3, REFUND),
    "500, 503, 529": ([Reply(status=500), Reply(status=503), Reply(status=529)], REFUND),
    "no answer, 429, 429": ([Reply(hang=0.0), _429, _429], CHARGE),
    "timed out, 429, 400": ([Reply(hang=5.0), _429, Reply(status=400)], CHARGE),
    "429, no answer, 429": ([_429, Reply(hang=0.0), _429], CHARGE),
    "504, 429, 429": ([Reply(status=504), _429, _429], CHARGE),
    "429, 429, 502": ([_429, _429, Reply(status=502)], CHARGE),
    "no answer, 400": ([Reply(hang=0.0), Reply(status=400)], CHARGE),
    "409, 400": ([Reply(status=409), Reply(status=400)], CHARGE),
    "429, answered": ([_429, _OK], RESERVED),
    "504, timed out, answered": ([Reply(status=504), Reply(hang=5.0), _OK], RESERVED),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", _SEQUENCES)
def test_a_refund_needs_every_attempt_unbilled(budget: Budget, plain: Make, kind: Any, name: str) -> None:
    replies, how = _SEQUENCES[name]
    with _scripted(replies) as provider:
        wrapped = budget.wrap(plain(kind, base_url=provider.url, max_retries=2, timeout=httpx2.Timeout(30, read=0.5)))
        error = _call(wrapped, REQUEST)
        seen = list(provider.requests)
    assert len(seen) == len(replies)
    if how == RESERVED:  # the whole call has one reservation, and its answer's usage replaces it
        assert error is None
        assert only_end(budget).usd == cost(seen[-1].usage or {})
    else:
        _check_end(budget, how)


@pytest.mark.parametrize("kind", KINDS)
def test_no_answer_then_no_connection_is_charged(budget: Budget, plain: Make, kind: Any) -> None:
    """The last error says that nothing was sent; the attempt before it was, and may be billed."""
    with Provider() as provider:
        gone = threading.Event()

        def stop() -> None:
            provider._server.stop()
            gone.set()

        def script(request: Request) -> Reply:
            threading.Thread(target=stop).start()  # drops the connection, and listens no more
            return Reply(hang=30.0)

        provider._script = script
        wrapped = budget.wrap(plain(kind, base_url=provider.url, max_retries=2))
        wrapped._sleep_for_retry = _wait_for(gone, kind)
        error = _call(wrapped, REQUEST)
        assert len(provider.requests) == 1
    assert isinstance(error, anthropic.APIConnectionError)
    assert isinstance(error.__cause__, httpx2.ConnectError)
    _check_end(budget, CHARGE)


def _wait_for(event: threading.Event, kind: Any) -> Any:
    def wait(**_: Any) -> None:
        event.wait(60)

    async def await_(**_: Any) -> None:
        await asyncio.to_thread(event.wait, 60)

    return wait if kind is anthropic.Anthropic else await_


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_without_usage_is_charged(budget: Budget, plain: Make, kind: Any) -> None:
    assert _call(budget.wrap(plain(kind)), steer("usage=none")) is None
    _check_end(budget, CHARGE)
    assert only_end(budget).detail["outcome"] == "no usage"


def test_an_answer_that_is_not_json_is_charged(budget: Budget, plain: Make) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, text="<html>a proxy's page</html>")

    wrapped = budget.wrap(plain(http_client=httpx2.Client(transport=httpx2.MockTransport(answer))))
    _call(wrapped, REQUEST)
    _check_end(budget, CHARGE)


def test_a_cancelled_task_is_charged(budget: Budget, plain: Make, provider: Provider) -> None:
    async def main(client: Any) -> None:
        task = asyncio.create_task(client.messages.create(**steer("hang=30")))
        while not provider.requests:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        _check_end(budget, CHARGE)  # at once, not later
        assert only_end(budget).detail["outcome"] == "CancelledError"

    run_async(budget.wrap(plain(anthropic.AsyncAnthropic)), main)


def test_a_task_cancelled_before_any_attempt_is_refunded(budget: Budget, plain: Make, provider: Provider) -> None:
    async def middleware(request: Any, call_next: Any) -> Any:
        await asyncio.sleep(30)

    async def main(client: Any) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await client.messages.create(**REQUEST)

    run_async(budget.wrap(plain(anthropic.AsyncAnthropic, middleware=[middleware])), main)
    assert not provider.requests
    _check_end(budget, REFUND)


def test_an_interrupt_while_waiting_for_the_answer_is_charged(budget: Budget, plain: Make) -> None:
    def interrupt(request: httpx2.Request) -> httpx2.Response:
        raise KeyboardInterrupt

    wrapped = budget.wrap(plain(http_client=httpx2.Client(transport=httpx2.MockTransport(interrupt))))
    with pytest.raises(KeyboardInterrupt):
        wrapped.messages.create(**REQUEST)
    _check_end(budget, CHARGE)


def test_a_failing_middleware_is_refunded_before_and_charged_after_sending(budget: Budget, plain: Make) -> None:
    def before(request: Any, call_next: Any) -> Any:
        raise ValueError

    def after(request: Any, call_next: Any) -> Any:
        call_next(request)
        raise ValueError

    assert isinstance(_call(budget.wrap(plain(middleware=[before])), REQUEST), ValueError)
    assert isinstance(_call(budget.wrap(plain(middleware=[after])), REQUEST), ValueError)
    assert [end.kind for end in ends(budget)] == ["refunded", "reconciled"]


# What the answer says is what is booked.


def test_the_usage_of_the_answer_is_booked(budget: Budget, client: Any, provider: Provider) -> None:
    demo = "input=1000,cache_read=5000,cache_write_5m=200,cache_write_1h=100,output=7"
    message = client.messages.create(**steer(demo))
    end = only_end(budget)
    buckets = {"input": 1000, "cache_read": 5000, "cache_write": {"5m": 200, "1h": 100}, "output": 7}
    assert end.detail["usage"] == buckets
    # Reading a cache costs a tenth of the input price, writing it 1.25 times (5 minutes) or 2 times (1 hour).
    assert end.usd == budget.cost(message).usd == 1000 * IN + 500 * IN + 250 * IN + 200 * IN + 7 * OUT
    assert end.detail["latency_ms"] >= 0
    assert "first_token_ms" not in end.detail
    assert end.amounts[1:] == (6307, 6300, 7, 1)


def test_an_overrun_is_booked_in_full(budget: Budget, client: Any, provider: Provider) -> None:
    client.messages.create(**steer("output=5000"))
    end = only_end(budget)
    assert end.usd == cost(provider.requests[0].usage or {}) > reserved_usd(budget)


def test_the_model_as_answered_is_priced(budget: Budget, client: Any) -> None:
    client.messages.create(**steer("model=claude-haiku-4-5"))
    client.messages.create(**steer("model=nobody-knows"))
    known, unknown = ends(budget)
    assert (known.model, known.usd) == ("claude-haiku-4-5", 11 * IN / 3 + 40 * OUT / 3)
    assert (unknown.model, unknown.detail["priced_as"]) == ("nobody-knows", "claude-sonnet-4-6")
    assert unknown.usd == 11 * IN + 40 * OUT


# The table can be replaced.


def test_the_table_can_be_replaced(make_budget: Make, plain: Make) -> None:
    asked: list[tuple[str, int | None, list[int]]] = []

    def always_refund(error: BaseException | None, attempts: int | None, statuses: Sequence[int]) -> str:
        asked.append((type(error).__name__, attempts, list(statuses)))
        return REFUND

    budget = make_budget("memory://", outcome=always_refund)
    wrapped = budget.wrap(plain(max_retries=1))
    _call(wrapped, steer("status=504"))
    _call(wrapped, steer("hang=0"))
    _call(wrapped, steer("usage=none"))
    wrapped.messages.create(**REQUEST, stream=True).close()
    assert [end.kind for end in ends(budget)] == ["refunded"] * 4
    assert [row[1:] for row in asked] == [(2, [504, 504]), (2, []), (1, [200]), (1, [200])]


@pytest.mark.parametrize("answer", [None, "free", True])
def test_only_a_plain_refund_refunds(make_budget: Make, plain: Make, answer: object) -> None:
    budget = make_budget("memory://", outcome=lambda error, attempts, statuses: answer)
    assert isinstance(_call(budget.wrap(plain()), steer("status=400")), anthropic.BadRequestError)
    _check_end(budget, CHARGE)


def test_a_table_that_fails_charges_and_hides_no_error(make_budget: Make, plain: Make, caplog: Any) -> None:
    def broken(error: BaseException | None, attempts: int | None, statuses: Sequence[int]) -> str:
        raise LookupError

    budget = make_budget("memory://", outcome=broken)
    assert isinstance(_call(budget.wrap(plain()), steer("status=400")), anthropic.BadRequestError)
    _check_end(budget, CHARGE)
    assert "the function given as outcome= failed" in caplog.text
