"""CrewAI: a language model whose calls are guarded.

    agent = Agent(role=..., goal=..., backstory=..., llm=guard(budget, LLM("anthropic/claude-sonnet-4-6")))

CrewAI's models of its own providers keep an SDK's clients; the guarded copy has wrapped ones. It has no API key any
more: CrewAI's conversion of a task's `output_json` would make a client of its own with it, past the guard, and fails
instead; `output_pydantic` goes through the model. Embeddings (a crew's memory, knowledge) are made by other clients.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, TypeVar

from crewai.llms.base_llm import BaseLLM

from budget.errors import ArgumentTypeError, ConfigError

if TYPE_CHECKING:
    from budget.engine import Budget

__all__ = ["guard"]

L = TypeVar("L")

_NO_KEY = "held-by-the-guarded-client"


def guard(budget: Budget, llm: L) -> L:
    """Return a copy of a CrewAI model whose calls are guarded; the one given stays as it is.

    Takes what `crewai.LLM(...)` makes for the providers whose SDKs `Budget.wrap` knows. A refusal comes out of `call`,
    `acall` and a crew's `kickoff` as `BudgetExceeded`; CrewAI repeats a failed task up to `max_retry_limit` times, and
    is refused each time.

    Raises:
        ArgumentTypeError: It is no CrewAI model, such as a name, or its client is none that is known.
        ConfigError: CrewAI would call it through LiteLLM, which has no client to guard.
    """
    if not isinstance(llm, BaseLLM):
        raise ArgumentTypeError(f"llm: {type(llm).__name__} is no CrewAI model; make one with crewai.LLM(...)")
    if not hasattr(llm, "_get_sync_client"):
        raise ConfigError(
            f"llm: {llm.model} goes through LiteLLM or a class of its own; give one of CrewAI's own providers"
        )
    guarded = copy.copy(llm)
    for make, name in (("_get_sync_client", "_client"), ("_get_async_client", "_async_client")):
        client = getattr(llm, make)()
        if client is not None and name in llm.__private_attributes__:
            setattr(guarded, name, budget.wrap(client))
    guarded.api_key = _NO_KEY
    return guarded
