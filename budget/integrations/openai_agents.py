"""OpenAI Agents: a `RunConfig` whose models are guarded.

    await Runner.run(agent, "Find it.", run_config=run_config(budget, "$2", user="alice"))

The models that the configuration's provider makes get a wrapped client. A model is not told for which agent it works,
but the configuration's `call_model_input_filter` is, right before the call and in the same task: it leaves the name for
the model. It also refuses agents that bring a model object of their own, whose calls would not be in the run.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agents import Model, ModelProvider, RunConfig

from budget.errors import ConfigError
from budget.integrations import open_run, within

if TYPE_CHECKING:
    from budget.engine import Budget
    from budget.run import Run

__all__ = ["run_config"]

_agent: ContextVar[str | None] = ContextVar("budget_openai_agent", default=None)


def run_config(
    budget: Budget, limit: object = None, /, *, config: RunConfig | None = None, **options: Any
) -> RunConfig:
    """Return a configuration for one run of `Runner`, whose calls are one run of the budget, handoffs and all.

    A refusal comes out of `Runner.run` and `run_sync`, and out of a streamed run's `stream_events`, as
    `BudgetExceeded`. The attribute `agent` of each call is the name of the agent that makes it.

    Args:
        budget: The engine.
        limit: What the run may spend: "$2".
        config: The configuration to start from.
        **options: What `Budget.run` takes: `cap`, `max_calls`, attributes such as `user=`.

    Raises:
        ConfigError, ArgumentTypeError: An option cannot be used; or, when an agent is about to call: its model has no
            client that can be wrapped, or is an object of the agent's own, which no configuration leads into the run.
    """
    given = config or RunConfig()
    run = open_run(budget, limit, options)
    model = given.model if given.model is None or isinstance(given.model, str) else _guarded(budget, run, given.model)
    provider = _Provider(budget, run, given.model_provider)
    announce = _announcer(given.call_model_input_filter, checks_agents=given.model is None)
    return replace(given, model=model, model_provider=provider, call_model_input_filter=announce)


class _Provider(ModelProvider):
    """Makes what another provider makes, guarded."""

    def __init__(self, budget: Budget, run: Run, inner: ModelProvider):
        self._budget, self._run, self._inner = budget, run, inner

    def get_model(self, model_name: str | None) -> Model:
        return _guarded(self._budget, self._run, self._inner.get_model(model_name))

    async def aclose(self) -> None:
        await self._inner.aclose()


def _announcer(inner: Any, checks_agents: bool) -> Any:
    """Return the filter that says which agent is about to call; it changes nothing itself."""

    async def announce(call: Any) -> Any:
        model = call.agent.model
        if checks_agents and isinstance(model, Model):
            raise ConfigError(
                f"model: agent {call.agent.name!r} brings its own, whose calls would not be in the run; give its name, "
                "and its client to a model_provider, or make it with budget.wrap(client) and use budget.run(...) "
                "instead of a configuration"
            )
        _agent.set(call.agent.name)
        if inner is None:
            return call.model_data
        made = inner(call)
        return await made if inspect.isawaitable(made) else made

    return announce


def _guarded(budget: Budget, run: Run, model: Model) -> Model:
    """Copy a model, with a wrapped client, so that its calls are in the run.

    Raises:
        ConfigError, ArgumentTypeError: It has no client that can be wrapped.
    """
    guarded: Any = copy.copy(model)
    if not hasattr(model, "_client"):
        raise ConfigError(f"model: {type(model).__name__} has no client that can be guarded")
    guarded._client = budget.wrap(guarded._get_client())
    respond, stream = guarded.get_response, guarded.stream_response

    def enter() -> Run:
        name = _agent.get()
        return within(budget, run, **({} if name is None or "agent" in run.scope else {"agent": name}))

    async def get_response(*args: Any, **options: Any) -> Any:
        with enter():
            return await respond(*args, **options)

    async def stream_response(*args: Any, **options: Any) -> AsyncIterator[Any]:
        with enter():
            async for event in stream(*args, **options):
                yield event

    guarded.get_response, guarded.stream_response = get_response, stream_response  # its class stays what it is
    made: Model = guarded
    return made
