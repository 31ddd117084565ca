"""Drivers: the same few things done with each SDK, so that one table of outcomes can be run over all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from decimal import Decimal
from importlib import import_module
from typing import Any

from budget import Budget

TEXT = "hello there"
CHAT = [{"role": "user", "content": TEXT}]
PARTS = [{"role": "user", "content": [{"text": TEXT}]}]


class Driver:
    """One SDK.

    Attributes:
        package: What must be installed.
        model: As the SDK is given it.
        prices: USD per million tokens of input and output.
        cheaper: Another model of the provider.
        repeats_broken: The SDK, as `make` sets it up, repeats a request whose connection broke.
        two: There are two clients, one of them async.
    """

    package = ""
    model = ""
    prices = ("0", "0")
    cheaper = ""
    repeats_broken = False
    two = False

    def make(self, url: str, retries: int) -> Any:
        """Make a client."""
        raise NotImplementedError

    def guard(self, budget: Budget, client: Any) -> Any:
        """Guard it."""
        return tuple(map(budget.wrap, client)) if self.two else budget.wrap(client)

    def counts(self, usage: Mapping[str, Any]) -> tuple[int, int]:
        """Return input and output tokens of a usage in the provider's log."""
        return usage["prompt_tokens"], usage["completion_tokens"]

    def cost(self, usage: Mapping[str, Any]) -> Decimal:
        """What the provider bills for it."""
        return sum(
            (n * Decimal(price) / 10**6 for n, price in zip(self.counts(usage), self.prices, strict=True)), Decimal()
        )


class Google(Driver):
    package, model, prices = "google.genai", "gemini-2.5-flash", ("0.30", "2.50")
    cheaper = "gemini-2.5-flash-lite"

    def make(self, url: str, retries: int) -> Any:
        options = {"base_url": url}
        if retries:
            options["retry_options"] = {
                "attempts": retries + 1,
                "initial_delay": 0.001,
                "max_delay": 0.002,
                "jitter": 0.001,
            }
        return import_module("google.genai").Client(api_key="k", http_options=options)

    def counts(self, usage: Mapping[str, Any]) -> tuple[int, int]:
        return usage["promptTokenCount"], usage["candidatesTokenCount"]

    def _asked(self, most: int | None) -> dict[str, Any]:
        config = {"thinking_config": {"thinking_budget": 0}} | ({"max_output_tokens": most} if most else {})
        return {"model": self.model, "contents": TEXT, "config": config}

    def ask(self, client: Any, most: int | None = 100) -> Any:
        return client.models.generate_content(**self._asked(most)).text

    def stream(self, client: Any, most: int | None = 100) -> Iterator[Any]:
        return client.models.generate_content_stream(**self._asked(most))

    async def aask(self, client: Any, most: int | None = 100) -> Any:
        return (await client.aio.models.generate_content(**self._asked(most))).text

    async def astream(self, client: Any, most: int | None = 100) -> AsyncIterator[Any]:
        return await client.aio.models.generate_content_stream(**self._asked(most))

    async def aclose(self, client: Any) -> None:
        await client.aio.aclose()


class Bedrock(Driver):
    package, model, prices = "boto3", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", ("3.30", "16.50")
    cheaper = "amazon.nova-lite-v1:0"
    repeats_broken = True

    def make(self, url: str, retries: int) -> Any:
        config = import_module("botocore.config").Config(
            retries={"mode": "standard", "total_max_attempts": retries + 1}
        )
        return import_module("boto3").client(
            "bedrock-runtime", region_name="us-east-1", endpoint_url=url, aws_access_key_id="x",
            aws_secret_access_key="y", config=config,
        )  # fmt: skip

    def counts(self, usage: Mapping[str, Any]) -> tuple[int, int]:
        return usage["inputTokens"], usage["outputTokens"]

    def _asked(self, most: int | None) -> dict[str, Any]:
        return {"modelId": self.model, "messages": PARTS} | ({"inferenceConfig": {"maxTokens": most}} if most else {})

    def ask(self, client: Any, most: int | None = 100) -> Any:
        return client.converse(**self._asked(most))["output"]["message"]["content"][0]["text"]

    def stream(self, client: Any, most: int | None = 100) -> Iterator[Any]:
        return iter(client.converse_stream(**self._asked(most))["stream"])


class Chat(Driver):
    """What speaks nearly as OpenAI."""

    def _asked(self, most: int | None) -> dict[str, Any]:
        return {"model": self.model, "messages": CHAT} | ({"max_tokens": most} if most else {})


class Mistral(Chat):
    package, model, prices = "mistralai", "mistral-small-latest", ("0.15", "0.60")
    cheaper = "ministral-3b-latest"
    repeats_broken = True

    def make(self, url: str, retries: int) -> Any:
        kinds = import_module("mistralai.client.utils.retries")
        config = kinds.RetryConfig("backoff", kinds.BackoffStrategy(1, 2, 1, 100), True) if retries else None
        return import_module("mistralai.client").Mistral(server_url=f"{url}/mistral", api_key="k", retry_config=config)

    def ask(self, client: Any, most: int | None = 100) -> Any:
        return client.chat.complete(**self._asked(most)).choices[0].message.content

    def stream(self, client: Any, most: int | None = 100) -> Iterator[Any]:
        return client.chat.stream(**self._asked(most))

    async def aask(self, client: Any, most: int | None = 100) -> Any:
        return (await client.chat.complete_async(**self._asked(most))).choices[0].message.content

    async def astream(self, client: Any, most: int | None = 100) -> AsyncIterator[Any]:
        return await client.chat.stream_async(**self._asked(most))

    async def aclose(self, client: Any) -> None:
        await client.sdk_configuration.async_client.aclose()


class Groq(Chat):
    package, model, prices = "groq", "llama-3.3-70b-versatile", ("0.59", "0.79")
    cheaper = "llama-3.1-8b-instant"
    repeats_broken = two = True

    def make(self, url: str, retries: int) -> Any:
        groq, options = import_module("groq"), {"base_url": url, "api_key": "k", "max_retries": retries}
        return groq.Groq(**options), groq.AsyncGroq(**options)

    def ask(self, client: Any, most: int | None = 100) -> Any:
        return client[0].chat.completions.create(**self._asked(most)).choices[0].message.content

    def stream(self, client: Any, most: int | None = 100) -> Iterator[Any]:
        return client[0].chat.completions.create(**self._asked(most), stream=True)

    async def aask(self, client: Any, most: int | None = 100) -> Any:
        return (await client[1].chat.completions.create(**self._asked(most))).choices[0].message.content

    async def astream(self, client: Any, most: int | None = 100) -> AsyncIterator[Any]:
        return await client[1].chat.completions.create(**self._asked(most), stream=True)

    async def aclose(self, client: Any) -> None:
        await client[1].close()


class Cohere(Chat):
    package, model, prices = "cohere", "command-a-03-2025", ("2.50", "10")
    cheaper = "command-r7b-12-2024"
    two = True

    def make(self, url: str, retries: int) -> Any:
        cohere, options = import_module("cohere"), {"base_url": url, "api_key": "k", "max_retries": retries}
        return cohere.ClientV2(**options), cohere.AsyncClientV2(**options)

    def counts(self, usage: Mapping[str, Any]) -> tuple[int, int]:
        return usage["billed_units"]["input_tokens"], usage["billed_units"]["output_tokens"]

    def ask(self, client: Any, most: int | None = 100) -> Any:
        return client[0].chat(**self._asked(most)).message.content[0].text

    def stream(self, client: Any, most: int | None = 100) -> Iterator[Any]:
        return client[0].chat_stream(**self._asked(most))

    async def aask(self, client: Any, most: int | None = 100) -> Any:
        return (await client[1].chat(**self._asked(most))).message.content[0].text

    async def astream(self, client: Any, most: int | None = 100) -> AsyncIterator[Any]:
        return client[1].chat_stream(**self._asked(most))

    async def aclose(self, client: Any) -> None:
        await client[1]._client_wrapper.httpx_client.httpx_client.aclose()


class LiteLLM(Chat):
    package, two = "litellm", True
    path = "/v1"

    def make(self, url: str, retries: int) -> Any:
        litellm = import_module("litellm")
        litellm.suppress_debug_info = True
        self._more = {"api_base": f"{url}{self.path}", "api_key": "k", "max_retries": retries}
        return litellm.completion, litellm.acompletion

    def _asked(self, most: int | None) -> dict[str, Any]:
        return super()._asked(most) | self._more

    def ask(self, client: Any, most: int | None = 100) -> Any:
        return client[0](**self._asked(most)).choices[0].message.content

    def stream(self, client: Any, most: int | None = 100) -> Iterator[Any]:
        return client[0](**self._asked(most), stream=True)

    async def aask(self, client: Any, most: int | None = 100) -> Any:
        return (await client[1](**self._asked(most))).choices[0].message.content

    async def astream(self, client: Any, most: int | None = 100) -> AsyncIterator[Any]:
        return await client[1](**self._asked(most), stream=True)

    async def aclose(self, client: Any) -> None:
        pass


class LiteLLMOpenAI(LiteLLM):
    model, prices = "openai/gpt-4.1-mini", ("0.40", "1.60")
    cheaper = "gpt-4.1-nano"
    repeats_broken = True


class LiteLLMAnthropic(LiteLLM):
    model, prices, path = "anthropic/claude-sonnet-4-6", ("3", "15"), ""
    cheaper = "claude-haiku-4-5"

    def counts(self, usage: Mapping[str, Any]) -> tuple[int, int]:
        return usage["input_tokens"], usage["output_tokens"]


class LiteLLMGemini(LiteLLM):
    model, prices, path = "gemini/gemini-2.5-flash", ("0.30", "2.50"), "/v1beta"
    cheaper = "gemini-2.5-flash-lite"
    counts = Google.counts  # type: ignore[assignment]

    def _asked(self, most: int | None) -> dict[str, Any]:
        return super()._asked(most) | {"thinking": {"type": "disabled"}}


DRIVERS = (Google, Bedrock, Mistral, Groq, Cohere, LiteLLMOpenAI, LiteLLMAnthropic, LiteLLMGemini)
ASYNC = tuple(kind for kind in DRIVERS if hasattr(kind, "aask"))
