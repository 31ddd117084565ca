"""LangChain and LangGraph: chat models with wrapped clients, and a middleware that guards an agent.

    model = guard(budget, ChatAnthropic(model="claude-sonnet-4-6"))                  # anywhere a chat model goes
    agent = create_agent(model, tools, middleware=[BudgetMiddleware(budget, "$2")])  # guards whatever model it is given

Callbacks could not stop a call; a chat model's own client can. `wrap_model_call` is where an agent's model is known.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, TypedDict, TypeVar

from langchain.agents.middleware.types import AgentMiddleware, PrivateStateAttr
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableBinding
from langgraph.config import get_config

from budget.clients.functions import guarded_class
from budget.errors import BudgetExceeded, ConfigError
from budget.integrations import open_run

if TYPE_CHECKING:
    from budget.engine import Budget
    from budget.run import Run

__all__ = ["BudgetMiddleware", "guard"]

M = TypeVar("M")

_CLIENTS = ("root_client", "root_async_client", "_client", "_async_client")
"""Where chat models keep an SDK's client: `langchain-openai` in fields, `langchain-anthropic` in cached properties."""


def guard(budget: Budget, model: M) -> M:
    """Return a copy of a chat model whose calls are guarded; the one given stays as it is.

    Takes `ChatOpenAI`, `ChatAnthropic`, what descends from them, and what `bind` and `bind_tools` made of them. What
    holds models of its own (`with_fallbacks`, `configurable_fields` ...) is made of guarded ones.

    Raises:
        ConfigError: The model has no client that can be guarded, or is no chat model itself.
        ArgumentTypeError: Its client is none that is known.
    """
    found: Any = model
    if isinstance(found, RunnableBinding):
        bound: M = found.model_copy(update={"bound": guard(budget, found.bound)})
        return bound
    names = _CLIENTS if isinstance(found, BaseChatModel) else ()  # others seem to have the clients of what they hold
    clients = {name: getattr(found, name) for name in names if getattr(found, name, None) is not None}
    if not clients:
        raise ConfigError(
            f"model: {type(model).__name__} has no client that can be guarded; if it holds models, guard each of those"
        )
    copied = found.model_copy()
    object.__setattr__(copied, "__class__", _class(budget, type(found)))
    vars(copied).update({name: budget.wrap(client) for name, client in clients.items()})
    for name, root in (("client", "root_client"), ("async_client", "root_async_client")):  # of their chat completions
        if root in clients:
            vars(copied)[name] = getattr(copied, root).chat.completions
    guarded: M = copied
    return guarded


def _class(budget: Budget, kind: Any) -> Any:
    """Return the class of a guarded copy: one whose clients are guarded too where they are made when asked for.

    LangChain makes such a model anew of its fields, which those clients are not in: `configurable_fields` does.
    """
    classes: dict[Any, Any] = vars(budget).setdefault("_guarded", {})
    if kind not in classes and kind not in classes.values():
        found = {name: getattr(kind, name, None) for name in _CLIENTS}
        own = {name: _wrapped(budget, made) for name, made in found.items() if isinstance(made, cached_property)}
        classes[kind] = guarded_class(kind, **own) if own else kind
    return classes.get(kind, kind)


def _wrapped(budget: Budget, made: cached_property[Any]) -> cached_property[Any]:
    return cached_property(lambda model: budget.wrap(made.func(model)))


class _State(TypedDict):
    budget_run: NotRequired[Annotated[str, PrivateStateAttr]]


class BudgetMiddleware(AgentMiddleware[Any, Any, Any]):
    """Guards the model calls of an agent, whichever models other middleware chooses.

    Each invocation of the agent is a run, which its tools are in, too. The run's id is part of the agent's state, so an
    invocation that was interrupted goes on in the same run, in another process if need be.

    Args:
        budget: The engine.
        limit: What one invocation may spend: "$2".
        at_limit: "raise": a refusal comes out of `invoke` and `stream` as `BudgetExceeded`. "end": the agent ends with
            an `AIMessage` that says so, and has the refusal's figures in `response_metadata["budget"]`.
        **options: What `Budget.run` takes: `cap`, `max_calls`, attributes such as `user=`. Each, and the limit, is a
            value or a function of LangGraph's `Runtime`: `user=lambda runtime: runtime.context.user`. The attribute
            `agent` is the agent's name unless it is given.

    Raises:
        ConfigError: `at_limit` is another.
    """

    state_schema = _State

    def __init__(self, budget: Budget, limit: Any = None, /, *, at_limit: str = "raise", **options: Any):
        super().__init__()
        if at_limit not in ("raise", "end"):
            raise ConfigError(f"at_limit: {at_limit!r} is neither 'raise' nor 'end'")
        self._budget, self._limit, self._ends, self._options = budget, limit, at_limit == "end", options

    def before_agent(self, state: Any, runtime: Any) -> dict[str, Any]:
        """Begin a run."""
        return {"budget_run": self._budget.engine.verbs.new_id()}

    def wrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """Make a model call with the guarded model."""
        try:
            with self._run(request):
                return handler(request.override(model=guard(self._budget, request.model)))
        except BudgetExceeded as refused:
            return self._last_words(refused)

    async def awrap_model_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """Make a model call with the guarded model, awaited."""
        try:
            with self._run(request):
                return await handler(request.override(model=guard(self._budget, request.model)))
        except BudgetExceeded as refused:
            return self._last_words(refused)

    def wrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """Run a tool inside the run, because agents and models may be behind it."""
        with self._run(request):
            return handler(request)

    async def awrap_tool_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """Run a tool inside the run, awaited."""
        with self._run(request):
            return await handler(request)

    def _run(self, request: Any) -> Run:
        name = get_config().get("metadata", {}).get("lc_agent_name")
        options = {**self._options, "id": request.state["budget_run"]}
        return open_run(self._budget, self._limit, options, request.runtime, agent=name)

    def _last_words(self, refused: BudgetExceeded) -> AIMessage:
        if not self._ends:
            raise refused
        words = f"The budget does not allow another call. {refused}"
        return AIMessage(words, response_metadata={"budget": refused.to_dict()})
