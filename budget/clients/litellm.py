"""LiteLLM's functions: `completion = budget.wrap(litellm.completion)`, `acompletion`, `embedding`, `aembedding`.

LiteLLM speaks to a provider through whatever client it likes (one that is passed for `anthropic/...` is ignored),
repeats calls itself, and turns whatever is raised below it into an error of its own, which it repeats again. So the
guard stands around the function: it reserves before LiteLLM is called, so that a refusal comes out untouched and is
never repeated, and ends by the usage of what LiteLLM returns. Nothing of LiteLLM is changed: who calls
`litellm.completion` itself is not guarded, until the guarded function is put in its place. A `litellm.Router` looks
there for `completion`, `acompletion`, `embedding` and `aembedding` each time it calls one: each deployment that it
tries is a call of its own then, at that deployment's prices, and its tries after a refusal are refused like the first.

There is no last line of defence here, since no single place below sees every attempt. How many there were is known
neither; so a failed call is refunded only if its error is a provider's answer that is surely unbilled, or says that no
connection was made, LiteLLM was not asked to repeat calls, and nothing in the error's history says that there was an
earlier attempt. Give `max_retries=0` to be surer. Some streams are only opened when they are first read; that is the
attempt then.

A stream is asked for its usage, and the chunk that has it is kept from whoever did not ask. Where a provider says
none, LiteLLM fills in a guess of its own; that is not taken for a usage. A request is read as chat completions,
whoever it goes to, and priced for the provider that LiteLLM tells from the model's name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache, partial, wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self, TypeVar

from budget.clients.call import Call
from budget.clients.extras import Extras
from budget.clients.functions import (
    Event,
    Spoken,
    abegun,
    afinish,
    astart,
    begun,
    extras_of,
    finish,
    guarded_class,
    seconds,
    start,
)
from budget.clients.litellmbody import body_of
from budget.clients.litellmerrors import answered_status, history_of, is_only_attempt, made_no_connection
from budget.clients.metered import AsyncMetered, Metered
from budget.clients.openai import ChatMeter
from budget.errors import ConfigError
from budget.estimate import Estimate
from budget.reported.fields import as_dict

if TYPE_CHECKING:
    from budget.engine import Budget

__all__ = ["guard"]

C = TypeVar("C")

_ENDPOINTS = {"completion": "chat", "acompletion": "chat", "embedding": "embeddings", "aembedding": "embeddings"}
_PROVIDERS = {
    "gemini": "google", "vertex_ai": "google-vertex", "vertex_ai_beta": "google-vertex", "bedrock": "aws-bedrock",
    "bedrock_converse": "aws-bedrock", "cohere_chat": "cohere", "codestral": "mistral", "together_ai": "together",
    "fireworks_ai": "fireworks", "text-completion-openai": "openai",
    **{name: name for name in ("openai", "azure", "anthropic", "mistral", "groq", "cohere", "xai", "deepseek",
                               "perplexity", "openrouter")},
}  # fmt: skip
"""LiteLLM's names of providers, and those of the price book; the model of another is looked up wherever it is sold."""

_END = object()


def guard(budget: Budget, function: C) -> C:
    """Return a guarded function of the same signature.

    Raises:
        ConfigError: It is not one of those that are known here.
    """
    name = getattr(function, "__name__", type(function).__name__)
    if name == "Router":
        raise ConfigError("wrap: a Router calls LiteLLM's functions: say litellm.completion = wrap(litellm.completion)")
    if name not in _ENDPOINTS:
        raise ConfigError(f"wrap: litellm.{name} is not available in this version, only {', '.join(_ENDPOINTS)}")
    made: Any = (_asynchronous if name.startswith("a") else _synchronous)(budget, function, _ENDPOINTS[name])
    made._budget_engine = budget
    guarded: C = made
    return guarded


def _synchronous(budget: Budget, function: Any, endpoint: str) -> Any:
    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        given = _given(function, args, kwargs)
        extras = extras_of(given)
        if budget.settings.disabled or _mocked(given):
            return function(**given)
        asked = _Asked(endpoint, given, extras)
        call = begun(asked.made, budget)
        if call is None:
            return function(**given)

        def send(changes: Mapping[str, Any]) -> Any:
            with asked.attempt() as once:
                return once.made(function(**asked.sent(changes)))

        answer = start(call, send)
        if hasattr(answer, "completion_stream"):
            return asked.metered(answer, Metered)
        finish(call, asked.read(answer))
        call.tell(answer)
        return answer

    return guarded


def _asynchronous(budget: Budget, function: Any, endpoint: str) -> Any:
    @wraps(function)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        given = _given(function, args, kwargs)
        extras = extras_of(given)
        if budget.settings.disabled or _mocked(given):
            return await function(**given)
        asked = _Asked(endpoint, given, extras)
        call = await abegun(asked.made, budget)
        if call is None:
            return await function(**given)

        async def send(changes: Mapping[str, Any]) -> Any:
            with asked.attempt() as once:
                return once.made(await function(**asked.sent(changes)))

        answer = await astart(call, send)
        if hasattr(answer, "completion_stream"):
            return asked.metered(answer, AsyncMetered)
        await afinish(call, asked.read(answer))
        call.tell(answer)
        return answer

    return guarded


def _given(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return a call's arguments by name."""
    if not args:
        return dict(kwargs)
    whole = getattr(import_module("litellm.main"), function.__name__)  # the public one takes anything
    return {**inspect.signature(whole).bind_partial(*args).arguments, **kwargs}


def _mocked(given: Mapping[str, Any]) -> bool:
    return bool(given.get("mock_response") or given.get("mock_timeout"))


class _Asked:
    """One call: what was asked of LiteLLM, and how its answer is read.

    Attributes:
        call: The call, once it is `made`.
    """

    call: Call

    def __init__(self, endpoint: str, given: Mapping[str, Any], extras: Extras):
        self._endpoint, self._given, self._extras = endpoint, given, extras

    def made(self, budget: Budget) -> Call:
        """Make the call."""
        given, litellm = self._given, import_module("litellm")
        name, of, *_ = litellm.get_llm_provider(
            given.get("model"), given.get("custom_llm_provider"), given.get("api_base") or given.get("base_url")
        )
        self._provider = _PROVIDERS.get(of)
        self._prefix = str(given["model"]).removesuffix(name)
        self._hides = bool(given.get("stream")) and not (given.get("stream_options") or {}).get("include_usage")
        self._repeats = any(given.get(each) for each in ("num_retries", "retry_policy")) or bool(litellm.num_retries)
        body = {**body_of(given, litellm), "model": name}
        spoken = Spoken(self._provider, chat=partial(_Meter, self._reasons(litellm, name, of)))
        self.call = Call(budget, spoken, self._endpoint, body, extras=self._extras)
        return self.call

    def sent(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that LiteLLM gets."""
        sent = {**self._given, **changes}
        if (limit := seconds(sent.get("timeout"))) is not None:
            sent["timeout"] = limit
        if "model" in changes:
            sent["model"] = self._prefix + changes["model"]
        if self._hides:
            sent["stream_options"] = {**(sent.get("stream_options") or {}), "include_usage": True}
        return sent

    def _reasons(self, litellm: Any, model: str, of: str) -> bool:
        """Whether the model may reason out of sight: many do so unasked, Claude does when it is asked."""
        thinking, effort = (self._given.get("thinking") or {}).get("type"), self._given.get("reasoning_effort")
        if thinking == "disabled" or effort in ("none", "disable"):
            return False
        if thinking or effort or "claude" in model:
            return bool(thinking or effort)
        return bool(litellm.supports_reasoning(model=model, custom_llm_provider=of))

    def attempt(self) -> _Once:
        """Take note of what LiteLLM does."""
        return _Once(self.call, self._repeats)

    def read(self, answer: Any) -> Any:
        """Return an answer as its usage can be read; one from LiteLLM's own cache costs nothing."""
        if (getattr(answer, "_hidden_params", None) or {}).get("cache_hit"):
            return {"model": answer.model, "usage": {"prompt_tokens": 0, "completion_tokens": 0}}
        usage = getattr(answer, "usage", None)
        said = {name: getattr(answer, name, None) for name in ("model", "service_tier")}
        return {**said, "usage": self._usage(usage)} if usage is not None else {}

    def _usage(self, usage: Any) -> dict[str, Any]:
        """Return a usage in OpenAI's words; in Anthropic's, which say for how long, if a cache was written to."""
        said = as_dict(usage)
        details = as_dict(said.get("prompt_tokens_details"))
        written = details.get("cache_creation_tokens") or said.get("cache_creation_input_tokens") or 0
        if not written or self._provider not in ("anthropic", "aws-bedrock", "google-vertex"):
            return said
        read = details.get("cached_tokens") or said.get("cache_read_input_tokens") or 0
        return {
            "input_tokens": said["prompt_tokens"] - read - written,
            "cache_read_input_tokens": read,
            "cache_creation_input_tokens": written,
            "cache_creation": as_dict(details.get("cache_creation_token_details")),
            "output_tokens": said["completion_tokens"],
            "server_tool_use": said.get("server_tool_use"),
        }

    def metered(self, stream: Any, kind: Callable[..., Any]) -> Any:
        """Return a twin of a stream that ends the call."""
        base: Any = type(stream)
        twin = object.__new__(_stream_class(base))
        twin.__dict__ = stream.__dict__

        def read(chunk: Any) -> Any:
            said = any(getattr(each, "usage", None) for each in stream.chunks)
            usage = self._usage(chunk.usage) if said and getattr(chunk, "usage", None) is not None else None
            known = {name: getattr(chunk, name, None) for name in ("choices", "model", "service_tier")}
            return Event(known, usage=usage)

        closing = stream.aclose if kind is AsyncMetered else partial(_close, stream)
        events = _Unopened(stream, self) if _is_unopened(stream) else stream
        twin._budget_events = kind(events, self.call, closing, read, _only_usage if self._hides else _shown)
        self.call.tell(twin)
        return twin


class _Once:
    """Takes note of what LiteLLM did as of one attempt, which stands for all."""

    def __init__(self, call: Call, repeats: bool):
        self._call, self._repeats, self._unsent = call, repeats, False

    def made(self, answer: Any) -> Any:
        """Take note of what LiteLLM returned: a stream that it opens when it is first read has sent nothing yet."""
        self._unsent = _is_unopened(answer)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        history = list(history_of(error))
        sure = not self._repeats and is_only_attempt(history)
        if self._unsent or (sure and made_no_connection(history)):
            return
        # LiteLLM's errors have a response with a status also where nothing was answered: 0 says that nobody knows.
        self._call.tried(None if error is None else Event(status_code=(sure and answered_status(history)) or 0))


def _is_unopened(stream: Any) -> bool:
    return getattr(stream, "completion_stream", stream) is None


class _Unopened:
    """The chunks of a stream that LiteLLM opens when it is first read: that is an attempt."""

    def __init__(self, stream: Any, asked: _Asked):
        self._stream, self._asked, self._opened = stream, asked, False

    def __next__(self) -> Any:
        if self._opened:
            return next(self._stream)
        self._opened, call = True, self._asked.call
        try:
            with self._asked.attempt():
                event = next(self._stream, _END)
        except Exception as error:
            call.guard.end(*call.failed(error))
            raise
        if event is _END:
            raise StopIteration
        return event

    async def __anext__(self) -> Any:
        if self._opened:
            return await anext(self._stream)
        self._opened, call = True, self._asked.call
        try:
            with self._asked.attempt():
                event = await anext(self._stream, _END)
        except Exception as error:
            await call.guard.aend(*call.failed(error))
            raise
        if event is _END:
            raise StopAsyncIteration
        return event


class _Meter(ChatMeter):
    """Reads the chunks of one stream of LiteLLM, which may say its usage beside the finish reason or after it."""

    _finished = False

    def __init__(self, reasons: bool, estimate: Estimate):
        super().__init__(estimate)
        self.hidden = self.hidden or reasons

    def feed(self, chunk: Any) -> None:
        """Take note of one chunk."""
        super().feed(chunk)
        self._finished = self._finished or any(choice.finish_reason for choice in chunk.choices or ())
        self.complete = self._finished and bool(self.usage)


def _only_usage(chunk: Any) -> bool:
    if getattr(chunk, "usage", None) is None:
        return False
    return not any(each.finish_reason or any(as_dict(each.delta).values()) for each in chunk.choices or ())


def _close(stream: Any) -> None:
    if hasattr(stream.completion_stream, "close"):
        stream.completion_stream.close()


def _shown(chunk: Any) -> bool:
    return False


@cache
def _stream_class(base: Any) -> Any:
    def next_of(self: Any) -> Any:
        return next(self._budget_events)

    async def anext_of(self: Any) -> Any:
        return await anext(self._budget_events)

    async def aclose(self: Any) -> None:
        events = self._budget_events
        await events.aclose() if hasattr(events, "aclose") else events.close()

    members = {"__next__": next_of, "__anext__": anext_of, "aclose": aclose}
    return guarded_class(base, __slots__=("_budget_events",), **members)
