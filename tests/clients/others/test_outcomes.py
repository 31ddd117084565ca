"""The table of outcomes over all SDKs: what is booked is what the provider's log says; what is uncertain is charged."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from budget import Budget, BudgetExceeded, Limit
from budget.demo.provider import Provider, Reply
from tests.clients.conftest import only_end, reserved_usd
from tests.clients.others.conftest import spent
from tests.clients.others.drivers import Cohere, Driver, Google, Groq, Mistral


def run(driver: Driver, client: Any, main: Callable[[], Any]) -> Any:
    """Run an async main, and close the client in the same loop."""

    async def whole() -> Any:
        try:
            return await main()
        finally:
            await driver.aclose(client)

    return asyncio.run(whole())


async def read(stream: Any) -> int:
    """Read an async stream to its end; return how many events it had."""
    return len([event async for event in stream])


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
def test_a_call_costs_what_the_provider_says(driver: Driver, budget: Budget, provider: Provider, streams: bool) -> None:
    client = driver.guard(budget, driver.make(provider.url, 0))
    if streams:
        assert len(list(driver.stream(client))) >= 8
    else:
        assert driver.ask(client) == "".join(f"w{n} " for n in range(8))
    end = only_end(budget)
    assert end.kind == "reconciled"
    assert end.detail.get("estimated") is None
    assert Decimal(end.usd) == driver.cost(provider.requests[0].usage) > 0


CLOSING: dict[type[Driver], Callable[[Any], None]] = {
    Google: lambda client: client.close(),
    Mistral: lambda client: client.sdk_configuration.client.close(),
    Groq: lambda client: client[0].close(),
    Cohere: lambda client: client[0]._client_wrapper.httpx_client.httpx_client.close(),
}
"""How a sync client is closed; those of `boto3` open again, and LiteLLM has none."""


@pytest.mark.parametrize("kind", CLOSING)
def test_a_client_that_was_closed_sends_nothing_and_is_refunded(
    kind: type[Driver], budget: Budget, provider: Provider
) -> None:
    pytest.importorskip(kind.package)
    driver = kind()
    client = driver.guard(budget, driver.make(provider.url, 0))
    CLOSING[kind](client)
    with pytest.raises(Exception, match=r"closed|Connection error"):
        driver.ask(client)
    assert not provider.requests
    assert only_end(budget).kind == "refunded"


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
def test_so_does_an_async_call(adriver: Driver, budget: Budget, provider: Provider, streams: bool) -> None:
    client = adriver.guard(budget, adriver.make(provider.url, 0))

    async def main() -> None:
        if streams:
            assert await read(await adriver.astream(client)) >= 8
        else:
            assert await adriver.aask(client) == "".join(f"w{n} " for n in range(8))

    run(adriver, client, main)
    end = only_end(budget)
    assert (end.kind, end.detail.get("estimated")) == ("reconciled", None)
    assert Decimal(end.usd) == adriver.cost(provider.requests[0].usage) > 0


def test_a_refused_call_sends_nothing(driver: Driver, make_budget: Callable[..., Budget], provider: Provider) -> None:
    budget = make_budget("memory://", limits=["$0.000001/day"])
    client = driver.guard(budget, driver.make(provider.url, 2))
    with pytest.raises(BudgetExceeded) as plain:
        driver.ask(client)
    with pytest.raises(BudgetExceeded):
        list(driver.stream(client))
    assert type(plain.value) is BudgetExceeded
    assert provider.requests == []


def test_nor_does_an_async_one(adriver: Driver, make_budget: Callable[..., Budget], provider: Provider) -> None:
    budget = make_budget("memory://", limits=["$0.000001/day"])
    client = adriver.guard(budget, adriver.make(provider.url, 2))

    async def main() -> None:
        with pytest.raises(BudgetExceeded):
            await adriver.aask(client)
        with pytest.raises(BudgetExceeded):
            await read(await adriver.astream(client))

    run(adriver, client, main)
    assert provider.requests == []


@pytest.mark.parametrize("status", [400, 429, 500])
def test_an_error_answer_is_refunded(
    driver: Driver, budget: Budget, provider: Provider, replies: list[Reply], status: int
) -> None:
    client = driver.guard(budget, driver.make(provider.url, 0))
    replies.append(Reply(status=status))
    with pytest.raises(Exception):  # noqa: B017, PT011 - each SDK has errors of its own
        driver.ask(client)
    assert len(provider.requests) == 1
    assert only_end(budget).kind == "refunded"


def test_an_error_answer_to_an_async_call_and_to_a_stream(
    adriver: Driver, budget: Budget, provider: Provider, replies: list[Reply]
) -> None:
    client = adriver.guard(budget, adriver.make(provider.url, 0))
    replies.extend([Reply(status=400), Reply(status=400)])

    async def main() -> None:
        with pytest.raises(Exception):  # noqa: B017, PT011
            await adriver.aask(client)
        with pytest.raises(Exception):  # noqa: B017, PT011
            await read(await adriver.astream(client))

    run(adriver, client, main)
    kinds = [entry.kind for entry in budget.entries()][-4:]
    assert kinds == ["reserved", "refunded", "reserved", "refunded"]


def test_a_gateway_that_waited_too_long_is_charged(
    driver: Driver, budget: Budget, provider: Provider, replies: list[Reply]
) -> None:
    client = driver.guard(budget, driver.make(provider.url, 0))
    replies.append(Reply(status=504))
    with pytest.raises(Exception):  # noqa: B017, PT011
        list(driver.stream(client))
    end = only_end(budget)
    assert (end.kind, end.detail["estimated"]) == ("reconciled", True)


def test_a_retry_stays_inside_one_reservation(
    driver: Driver, budget: Budget, provider: Provider, replies: list[Reply]
) -> None:
    client = driver.guard(budget, driver.make(provider.url, 2))
    replies.append(Reply(status=429, retry_after=0.001))
    if driver.package == "litellm" and not driver.repeats_broken:
        pytest.skip("LiteLLM repeats calls of OpenAI's kind alone by itself")
    driver.ask(client)
    assert [seen.status for seen in provider.requests] == [429, 200]
    assert Decimal(only_end(budget).usd) == driver.cost(provider.requests[1].usage)


def test_an_attempt_without_an_answer_is_charged_whatever_came_after(
    driver: Driver, budget: Budget, provider: Provider, replies: list[Reply]
) -> None:
    client = driver.guard(budget, driver.make(provider.url, 2 if driver.repeats_broken else 0))
    replies.extend([Reply(cut=0), Reply(status=400)] if driver.repeats_broken else [Reply(cut=0)])
    with pytest.raises(Exception):  # noqa: B017, PT011
        driver.ask(client)
    end = only_end(budget)
    assert (end.kind, end.detail["estimated"]) == ("reconciled", True)
    assert Decimal(end.usd) == reserved_usd(budget)


NOBODY = "http://127.0.0.1:9"


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
def test_nobody_listens(driver: Driver, budget: Budget, streams: bool) -> None:
    client = driver.guard(budget, driver.make(NOBODY, 0))
    with pytest.raises(Exception):  # noqa: B017, PT011
        list(driver.stream(client)) if streams else driver.ask(client)
    assert only_end(budget).kind == "refunded"


def test_nobody_listens_to_an_async_call(adriver: Driver, budget: Budget) -> None:
    client = adriver.guard(budget, adriver.make(NOBODY, 0))

    async def main() -> None:
        with pytest.raises(Exception):  # noqa: B017, PT011
            await adriver.aask(client)
        with pytest.raises(Exception):  # noqa: B017, PT011
            await read(await adriver.astream(client))

    run(adriver, client, main)
    assert [entry.kind for entry in budget.entries()] == ["reserved", "refunded"] * 2


class Leaver:
    """A server that takes one request, and is gone without an answer: whoever tries again is refused."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        connection.recv(1 << 20)
        self._socket.close()
        connection.close()


def test_nobody_listens_any_more_after_an_attempt_that_was_sent(driver: Driver, budget: Budget) -> None:
    gone = Leaver()
    client = driver.guard(budget, driver.make(gone.url, 2 if driver.repeats_broken else 0))
    with pytest.raises(Exception):  # noqa: B017, PT011
        driver.ask(client)
    gone.thread.join()
    assert (only_end(budget).kind, only_end(budget).detail["estimated"]) == ("reconciled", True)


def test_nor_does_an_async_call_that_was_sent_go_free(adriver: Driver, budget: Budget) -> None:
    gone = Leaver()
    client = adriver.guard(budget, adriver.make(gone.url, 2 if adriver.repeats_broken else 0))

    async def main() -> None:
        with pytest.raises(Exception):  # noqa: B017, PT011
            await adriver.aask(client)

    run(adriver, client, main)
    gone.thread.join()
    assert (only_end(budget).kind, only_end(budget).detail["estimated"]) == ("reconciled", True)


def test_an_answer_without_a_usage_is_charged_its_reservation(
    driver: Driver, budget: Budget, provider: Provider, replies: list[Reply]
) -> None:
    client = driver.guard(budget, driver.make(provider.url, 0))
    replies.append(Reply(usage=False))
    list(driver.stream(client))
    end = only_end(budget)
    assert end.detail["estimated"] is True
    assert Decimal(end.usd) == reserved_usd(budget)


@pytest.mark.parametrize("cut", [0, 1, 3, 6])
def test_a_stream_that_is_cut(
    driver: Driver, budget: Budget, provider: Provider, replies: list[Reply], cut: int
) -> None:
    client = driver.guard(budget, driver.make(provider.url, 0))
    replies.append(Reply(cut=cut))
    received = 0
    try:
        for _ in driver.stream(client):
            received += 1
    except Exception:
        pass
    end = only_end(budget)
    assert (end.kind, end.detail["estimated"]) == ("reconciled", True)
    rate = Decimal(driver.prices[1]) / 10**6
    assert max(0, received - 3) * rate < Decimal(end.usd) <= reserved_usd(budget)  # some events carry no text


@pytest.mark.parametrize("closes", [False, True], ids=["dropped", "closed"])
def test_a_stream_that_is_left(
    driver: Driver, budget: Budget, provider: Provider, replies: list[Reply], closes: bool
) -> None:
    client = driver.guard(budget, driver.make(provider.url, 0))
    replies.append(Reply(pace=0.005, output=30))
    stream = driver.stream(client)
    for _ in range(4):
        next(stream)
    if closes and hasattr(stream, "close"):
        stream.close()
    del stream
    gc.collect()
    end = only_end(budget)
    assert (end.kind, end.detail["estimated"]) == ("reconciled", True)
    assert Decimal(driver.prices[1]) / 10**6 < Decimal(end.usd) < reserved_usd(budget)


@pytest.mark.parametrize("closes", [False, True], ids=["dropped", "closed"])
def test_an_async_stream_that_is_left(
    adriver: Driver, budget: Budget, provider: Provider, replies: list[Reply], closes: bool
) -> None:
    client = adriver.guard(budget, adriver.make(provider.url, 0))
    replies.append(Reply(pace=0.005, output=30))

    async def main() -> None:
        stream = await adriver.astream(client)
        for _ in range(4):
            await anext(stream)
        if closes:
            await getattr(stream, "aclose", getattr(stream, "close", None))()
        del stream
        gc.collect()
        await asyncio.sleep(0.01)

    run(adriver, client, main)
    end = only_end(budget)
    assert (end.kind, end.detail["estimated"]) == ("reconciled", True)
    assert Decimal(end.usd) < reserved_usd(budget)


def test_a_cancelled_call_is_charged(adriver: Driver, budget: Budget, provider: Provider, replies: list[Reply]) -> None:
    client = adriver.guard(budget, adriver.make(provider.url, 0))
    replies.append(Reply(latency=5.0))

    async def main() -> None:
        task = asyncio.create_task(adriver.aask(client))
        while not provider.requests:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(adriver, client, main)
    end = only_end(budget)
    assert (end.kind, end.detail["estimated"]) == ("reconciled", True)
    assert Decimal(end.usd) == reserved_usd(budget)


def test_a_stream_without_a_bound_grows_and_is_stopped_with_what_it_said(
    driver: Driver, make_budget: Callable[..., Budget], provider: Provider, replies: list[Reply]
) -> None:
    most = Decimal(driver.prices[0]) * 300 / 10**6 + Decimal(driver.prices[1]) * 700 / 10**6
    budget = make_budget("memory://", limits=[f"${most}/day"])
    client = driver.guard(budget, driver.make(provider.url, 0))
    replies.append(Reply(output=5000))
    with pytest.raises(BudgetExceeded) as stopped:
        list(driver.stream(client, None))
    assert stopped.value.partial.startswith("w0 w1 ")
    assert len(stopped.value.partial.split()) > 50
    assert spent(budget) <= most


def test_a_clamped_call_asks_for_less(
    driver: Driver, make_budget: Callable[..., Budget], provider: Provider, replies: list[Reply]
) -> None:
    most = Decimal(driver.prices[0]) * 300 / 10**6 + Decimal(driver.prices[1]) * 700 / 10**6
    budget = make_budget("memory://", limits=[Limit(f"${most}/day", on_short="clamp")])
    client = driver.guard(budget, driver.make(provider.url, 0))
    provider._output_tokens = 3000
    driver.ask(client, 5000)
    reserved, end = list(budget.entries())[-2:]
    assert reserved.detail["clamped"]["from"] == 5000
    assert driver.counts(provider.requests[0].usage)[1] < 1000
    assert Decimal(end.usd) == driver.cost(provider.requests[0].usage) <= most


def test_a_refused_call_falls_back_to_a_cheaper_model(
    driver: Driver, make_budget: Callable[..., Budget], provider: Provider
) -> None:
    most = Decimal(driver.prices[1]) * 1000 / 10**6 * Decimal("0.9")
    budget = make_budget("memory://", limits=[Limit(f"${most}/day", on_short=f"fallback:{driver.cheaper}")])
    client = driver.guard(budget, driver.make(provider.url, 0))
    assert driver.ask(client, 1000).startswith("w0 ")
    assert provider.requests[0].model == driver.cheaper
    assert Decimal(list(budget.entries())[-1].usd) < driver.cost(provider.requests[0].usage)


def test_a_disabled_budget_lets_everything_pass(
    driver: Driver, make_budget: Callable[..., Budget], provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUDGET_DISABLED", "1")
    budget = make_budget("memory://", limits=["$0.000001/day"])
    client = driver.guard(budget, driver.make(provider.url, 0))
    assert driver.ask(client).startswith("w0 ")
    assert len(list(driver.stream(client))) >= 8
    assert list(budget.entries()) == []


def test_the_client_that_was_given_is_as_it_was(driver: Driver, budget: Budget, provider: Provider) -> None:
    client = driver.make(provider.url, 0)
    guarded = driver.guard(budget, client)
    for one, twin in zip(*((each if driver.two else (each,)) for each in (client, guarded)), strict=True):
        assert isinstance(twin, type(one))
        assert twin is not one
        assert budget.wrap(twin) is twin
    driver.ask(client)
    assert len(list(driver.stream(client))) >= 8
    assert [entry.kind for entry in budget.entries() if entry.kind == "reserved"] == []
    del guarded
    gc.collect()
    driver.ask(client)  # a twin that goes takes no connection with it
