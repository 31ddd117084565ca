"""DSPy: a language model whose every request is guarded.

    dspy.configure(lm=guard(budget, dspy.LM("anthropic/claude-sonnet-4-6", max_tokens=1000)))

DSPy hands each attempt at one answer to an engine, below its cache, its retries and its several candidates, whether
that engine is its own or LiteLLM's. The guarded model has an engine that reserves, has the engine that the given model
would have used make the attempt, and reconciles with the answer's usage. DSPy turns what is raised below it into an
error of its own; the guarded model turns a refusal back.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dspy
from dspy.clients.backend_selection import CLIENT_KEYS
from dspy.clients.execution import _select_engine, prepare
from dspy.clients.lm15_boundary import request_kwargs
from dspy.utils.exceptions import LMUnexpectedError

from budget.clients.call import Call
from budget.clients.functions import Event, Spoken, abegun, afinish, astart, begun, finish, start
from budget.clients.meter import StreamMeter
from budget.clients.metered import AsyncMetered, Metered
from budget.errors import ArgumentTypeError, BudgetError, ConfigError
from budget.outcome import never_connected

if TYPE_CHECKING:
    from budget.engine import Budget

__all__ = ["guard"]

_PROVIDERS = {"gemini": "google"}
"""Prefixes of models that are not the price book's names of their providers."""


def guard(budget: Budget, lm: dspy.LM) -> dspy.LM:
    """Return a copy of a language model whose requests are guarded; the one given stays as it is.

    A refusal comes out of a module that calls it as `BudgetExceeded`. What DSPy has in its cache costs nothing, and is
    not asked for.

    Raises:
        ArgumentTypeError: It is no `dspy.LM`.
        ConfigError: It completes texts, which has no price here.
    """
    if not isinstance(lm, dspy.LM):
        raise ArgumentTypeError(f"lm: {type(lm).__name__} is not a dspy.LM")
    if lm.model_type == "text":
        raise ConfigError("lm: model_type='text' is not available in this version; use 'chat' or 'responses'")
    if isinstance(lm, _GuardedLM):
        return lm
    guarded: Any = copy.copy(lm)
    guarded.__class__ = _GuardedLM
    guarded.kwargs = {name: value for name, value in lm.kwargs.items() if name not in CLIENT_KEYS}
    guarded._engine_spec, guarded._async_engine_spec = _Engine(budget, lm), _AsyncEngine(budget, lm)
    made: dspy.LM = guarded
    return made


class _GuardedLM(dspy.LM):
    """A language model that lets refusals through."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _refusals():
            return super().__call__(*args, **kwargs)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        with _refusals():
            return await super().acall(*args, **kwargs)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except LMUnexpectedError as error:
        if isinstance(error.__cause__, BudgetError):
            raise error.__cause__ from None
        raise


class _Attempts:
    """What the engines share: one attempt, in the words of both sides."""

    def __init__(self, budget: Budget, lm: dspy.LM):
        self._budget, self._lm = budget, lm

    def __getattr__(self, name: str) -> Any:
        if name.startswith("support"):  # what an engine says that its model can do
            return getattr(self._lm, name)
        raise AttributeError(name)

    def _chosen(self, request: Any, asynchronous: bool) -> tuple[Any, Any]:
        """Return the engine that the given model would use, and the request for it."""
        prepared = prepare(self._lm, request, None, {"cache": False}, asynchronous=asynchronous)
        engine, canonical, _ = _select_engine(self._lm, prepared, asynchronous)
        return engine, canonical

    def _call(self, budget: Budget, request: Any, streams: bool) -> Call:
        prefix, _, name = request.model.rpartition("/") if request.model.count("/") == 1 else ("", "", request.model)
        body = {**request_kwargs(request, "chat"), "model": name, **({"stream": True} if streams else {})}
        return Call(budget, Spoken(self._provider(prefix), chat=_Meter), "chat", body)

    def _provider(self, prefix: str) -> str | None:
        provider = _PROVIDERS.get(prefix, prefix)
        try:
            self._budget.settings.book.check_provider(provider)
        except ConfigError:
            return None  # the model is looked up wherever it is sold
        return provider


@contextmanager
def _attempt(call: Call) -> Iterator[None]:
    """Take note of the attempt, which is one: DSPy repeats calls above its engines."""
    try:
        yield
    except BaseException as error:
        if not never_connected(error):
            call.tried(Event(status_code=getattr(error, "status", None) or 0))
        raise
    call.tried()


class _Engine(_Attempts):
    """Makes guarded attempts."""

    def complete(self, request: Any) -> Any:
        """Return the answer to a request.

        Raises:
            BudgetExceeded: It is refused, and nothing was sent.
        """
        engine, canonical = self._chosen(request, asynchronous=False)
        call = begun(self._call, self._budget, request, streams=False)
        if call is None:
            return engine.complete(canonical)

        def send(changes: Mapping[str, Any]) -> Any:
            with _attempt(call):
                return engine.complete(_changed(canonical, changes))

        answer = start(call, send)
        finish(call, _said(answer))
        return answer

    def stream(self, request: Any) -> Iterator[Any]:
        """Return the events of the answer to a request."""
        engine, canonical = self._chosen(request, asynchronous=False)
        call = begun(self._call, self._budget, request, streams=True)
        if call is None:
            return engine.stream(canonical)  # type: ignore[no-any-return]
        events = start(call, _opened(engine, canonical, call))
        return Metered(events, call, events.close)


class _AsyncEngine(_Attempts):
    """Makes guarded attempts, awaited."""

    async def complete(self, request: Any) -> Any:
        """Like `_Engine.complete`."""
        engine, canonical = self._chosen(request, asynchronous=True)
        call = await abegun(self._call, self._budget, request, streams=False)
        if call is None:
            return await engine.complete(canonical)

        async def send(changes: Mapping[str, Any]) -> Any:
            with _attempt(call):
                return await engine.complete(_changed(canonical, changes))

        answer = await astart(call, send)
        await afinish(call, _said(answer))
        return answer

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        """Like `_Engine.stream`."""
        engine, canonical = self._chosen(request, asynchronous=True)
        call = await abegun(self._call, self._budget, request, streams=True)
        if call is None:
            async for event in engine.stream(canonical):
                yield event
            return
        open_ = _opened(engine, canonical, call)

        async def send(changes: Mapping[str, Any]) -> Any:
            return open_(changes)

        events = await astart(call, send)
        metered = AsyncMetered(events, call, events.aclose)
        try:
            async for event in metered:
                yield event
        finally:
            await metered.aclose()


def _opened(engine: Any, canonical: Any, call: Call) -> Callable[[Mapping[str, Any]], Any]:
    """Return what opens a stream; it is sent when it is first read."""

    def send(changes: Mapping[str, Any]) -> Any:
        call.tried()
        return engine.stream(_changed(canonical, changes))

    return send


def _changed(request: Any, changes: Mapping[str, Any]) -> Any:
    """Return a request with what was changed because money ran short: its bound, or its model."""
    for name, value in changes.items():
        if name == "model":
            request = replace(request, model=request.model.replace(request.model.rpartition("/")[2], value))
        else:
            request = replace(request, config=replace(request.config, max_tokens=value))
    return request


def _said(answer: Any) -> Any:
    """Return an answer as its provider gave it, since DSPy's own figures mean what each provider's do."""
    return answer.provider_data or {}


class _Meter(StreamMeter):
    """Reads the events of one stream."""

    def feed(self, event: Any) -> None:
        """Take note of one event."""
        if event.type == "delta":
            delta = event.delta
            self.begun = True
            self.hidden = self.hidden or delta.type == "thinking"
            self.received(getattr(delta, "text", None) or getattr(delta, "input", None), (delta.type, delta.part_index))
        elif event.type == "error":
            self.failed = True
        elif event.type == "end":
            self._end(event)

    def is_text(self, place: object) -> bool:
        """Whether a place is that of the answer's text."""
        return isinstance(place, tuple) and place[0] == "text"

    def _end(self, event: Any) -> None:
        self.finish()
        data = event.provider_data or {}
        data = data.get("response") or data
        self.usage = dict(data.get("usage") or {})
        if self.usage and "prompt_tokens" not in self.usage and event.usage is not None:  # Anthropic may say it once
            begun = {
                "input_tokens": event.usage.input_tokens,
                "cache_read_input_tokens": event.usage.cache_read_tokens,
                "cache_creation_input_tokens": event.usage.cache_write_tokens,
            }
            self.usage = {**{name: count for name, count in begun.items() if count is not None}, **self.usage}
        self.answer = {"model": data.get("model"), "service_tier": data.get("service_tier")}
        self.complete = bool(self.usage)
