"""pydantic-ai: a capability that guards whatever model serves an agent's requests.

    agent = Agent("anthropic:claude-sonnet-4-6", capabilities=[BudgetCapability(budget, "$2")])

Each agent run is a run of the budget. Before each request the model that will send it is copied with a provider whose
client is wrapped: fallbacks, overrides and models chosen on the way are guarded too, and nobody else's model changes.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.models.wrapper import WrapperModel

from budget.errors import ConfigError
from budget.integrations import open_run

if TYPE_CHECKING:
    from pydantic_ai.models import Model

    from budget.engine import Budget

__all__ = ["BudgetCapability"]


class BudgetCapability(AbstractCapability[Any]):
    """Guards the model requests of an agent.

    A refusal comes out of `run`, `run_sync`, `run_stream` and `iter` as `BudgetExceeded`.

    Args:
        budget: The engine.
        limit: What one agent run may spend: "$2".
        **options: What `Budget.run` takes: `cap`, `max_calls`, attributes such as `user=`. Each, and the limit, is a
            value or a function of the run's `RunContext`: `user=lambda context: context.deps.user`. The attribute
            `agent` is the agent's name unless it is given.

    Raises:
        ArgumentTypeError, ConfigError: At the request: the model's client is none that can be wrapped; or at the run:
            an option cannot be used.
    """

    def __init__(self, budget: Budget, limit: Any = None, /, **options: Any):
        self._budget, self._limit, self._options = budget, limit, options

    def get_ordering(self) -> CapabilityOrdering:
        """Stand next to the model, so that whatever other capabilities make of it is guarded."""
        return CapabilityOrdering(position="innermost")

    async def wrap_run(self, ctx: Any, *, handler: Any) -> Any:
        """Make the agent's run a run of the budget."""
        name = ctx.agent.name if ctx.agent is not None else None
        with open_run(self._budget, self._limit, self._options, ctx, agent=name):
            return await handler()

    def get_wrapper_model(self, model: Model) -> Model:
        """Return the guarded copy of a model that is about to send a request."""
        return _Guarded(_guarded(self._budget, model))


class _Guarded(WrapperModel):
    """A guarded model, entered around one request. Its HTTP client is the original's, whose owner closes it."""

    async def __aenter__(self) -> _Guarded:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None


def _guarded(budget: Budget, model: Any) -> Any:
    """Copy a model and those inside it, with wrapped clients.

    Raises:
        ArgumentTypeError: The client is none that is known.
        ConfigError: The model has no client, or has it where a guarded one cannot be put.
    """
    if isinstance(model, TestModel | FunctionModel):  # they answer by themselves
        return model
    guarded = copy.copy(model)
    if isinstance(model, WrapperModel):
        guarded.wrapped = _guarded(budget, model.wrapped)
    elif isinstance(model, FallbackModel):
        guarded.models = [_guarded(budget, each) for each in model.models]
    elif model.provider is None:
        raise ConfigError(f"pydantic_ai: {type(model).__name__} has no provider whose client can be guarded")
    else:
        guarded._provider = copy.copy(model.provider)
        guarded._provider._client = client = budget.wrap(model.provider.client)
        if any(getattr(each, "client", client) is not client for each in (guarded.provider, guarded)):
            raise ConfigError(f"pydantic_ai: {type(model).__name__} has a client of its own making, past the guard")
    return guarded
