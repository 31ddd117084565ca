"""What the tests of wrapped clients share: a provider on loopback, guarded clients of it, questions to the ledger."""

from __future__ import annotations

import asyncio
import gc
import ssl
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from budget import Budget
from budget.demo.provider import Provider
from budget.ledger import Entry

MODEL = "claude-sonnet-4-6"
REQUEST: dict[str, Any] = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "hello there"}]}
IN, OUT = Decimal("0.000003"), Decimal("0.000015")  # USD per token of that model
CHAT_MODEL = "gpt-4.1-mini"
CHAT: dict[str, Any] = {"model": CHAT_MODEL, "max_tokens": 100, "messages": REQUEST["messages"]}
RESPONSE: dict[str, Any] = {"model": CHAT_MODEL, "max_output_tokens": 100, "input": "hello there"}
EMBEDDING: dict[str, Any] = {"model": "text-embedding-3-small", "input": "hello there"}
CHAT_IN, CHAT_OUT = Decimal("0.0000004"), Decimal("0.0000016")
# What a broken connection raises: an error of an SDK, or of the HTTP library below it.
OPENAI_HTTP = sys.modules[openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0]]  # `httpx` or `httpx2`
BROKEN = (anthropic.APIError, openai.APIError, httpx2.HTTPError, OPENAI_HTTP.HTTPError)
_TLS = ssl.create_default_context()  # made once: it is what making a client takes longest for
ONE_TLS_ONLY: dict[str, Any] = {"verify": _TLS}
"""How an SDK's HTTP client is made without making another of those."""
ENDS = ("reconciled", "refunded", "expired")


def steer(text: str, tag: str | None = None, request: dict[str, Any] = REQUEST, **more: Any) -> dict[str, Any]:
    """A request that tells the provider how to answer it; errors are retried almost at once."""
    headers = {"x-demo": f"{text},retry-after=0.001" if "status" in text or "fail_first" in text else text}
    return {**request, "extra_headers": headers | ({"x-demo-tag": tag} if tag else {}), **more}


def is_sync(kind: type) -> bool:
    """Whether a client class is of the sync kind."""
    return issubclass(kind, (anthropic.Anthropic, openai.OpenAI))


def ends(budget: Budget, **scope: str) -> list[Entry]:
    """The final entries of calls, oldest first."""
    return [entry for entry in budget.entries(**scope) if entry.kind in ENDS]


def only_end(budget: Budget, **scope: str) -> Entry:
    """The final entry of the one call there was: one reservation, one end, and nothing left reserved."""
    if open_reservations(budget):
        gc.collect()  # an exception's traceback holds the frames of the call, and with them its stream
    found = [entry for entry in budget.entries(**scope) if entry.kind not in ("limit_set", "limit_unset")]
    assert [entry.kind for entry in found[:1]] == ["reserved"]
    assert len(found) == 2, [entry.kind for entry in found]
    assert found[0].reservation == found[1].reservation
    assert not open_reservations(budget)
    assert found[1].kind in ENDS
    return found[1]


def open_reservations(budget: Budget) -> list[str]:
    """The ids of what is still reserved."""
    store = budget.engine.store
    return [reservation.id for reservation in store.reservations(budget.settings.account)]


def reserved_usd(budget: Budget) -> Decimal:
    """What the only call there was had reserved."""
    entry = next(entry for entry in budget.entries() if entry.kind == "reserved")
    assert entry.estimate is not None
    return Decimal(entry.estimate["usd_max"])


def words(text: str) -> int:
    """How many tokens of output the provider made for a text of its own: each word is one."""
    return len(text.split())


def cost(usage: dict[str, Any]) -> Decimal:
    """What the provider would bill for a usage block of its own, without a cache."""
    return usage["input_tokens"] * IN + usage["output_tokens"] * OUT


def run_async(client: Any, main: Callable[[Any], Any]) -> Any:
    """Run `main(client)` in an event loop of its own, and close the client in it."""

    async def whole() -> Any:
        async with client:
            return await main(client)

    return asyncio.run(whole())


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running
        running.wait()


@pytest.fixture
def budget(make_budget: Callable[..., Budget]) -> Budget:
    return make_budget("memory://", limits=["$100/day"])


@pytest.fixture
def plain(provider: Provider) -> Iterator[Callable[..., Any]]:
    """Make clients of the provider that nobody guards. Sync ones are closed when the test ends (async: `run_async`)."""
    made: list[Any] = []

    def make(kind: Any = anthropic.Anthropic, **options: Any) -> Any:
        sdk = openai if issubclass(kind, (openai.OpenAI, openai.AsyncOpenAI)) else anthropic
        http = sdk.DefaultHttpxClient if is_sync(kind) else sdk.DefaultAsyncHttpxClient
        options.setdefault("http_client", http(verify=_TLS))
        url = f"{provider.url}/v1" if sdk is openai else provider.url
        made.append(kind(**{"base_url": url, "api_key": "key", "max_retries": 0, **options}))
        return made[-1]

    yield make
    for client in made:
        if is_sync(type(client)):
            client.close()


@pytest.fixture
def client(budget: Budget, plain: Callable[..., Any]) -> anthropic.Anthropic:
    guarded: anthropic.Anthropic = budget.wrap(plain())
    return guarded


@pytest.fixture
def aclient(budget: Budget, plain: Callable[..., Any]) -> anthropic.AsyncAnthropic:
    guarded: anthropic.AsyncAnthropic = budget.wrap(plain(anthropic.AsyncAnthropic))
    return guarded


@pytest.fixture
def oclient(budget: Budget, plain: Callable[..., Any]) -> openai.OpenAI:
    guarded: openai.OpenAI = budget.wrap(plain(openai.OpenAI))
    return guarded


@pytest.fixture
def aoclient(budget: Budget, plain: Callable[..., Any]) -> openai.AsyncOpenAI:
    guarded: openai.AsyncOpenAI = budget.wrap(plain(openai.AsyncOpenAI))
    return guarded
