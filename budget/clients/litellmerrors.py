"""What an error of LiteLLM's says of the attempts that were made: it wraps what it got from below, again and again."""

from __future__ import annotations

from collections.abc import Iterator

from budget.outcome import never_connected

__all__ = ["answered_status", "history_of", "is_only_attempt", "made_no_connection"]

_BROKEN = {
    "ReadError", "ReadTimeout", "WriteError", "WriteTimeout", "RemoteProtocolError", "LocalProtocolError", "CloseError",
    "APITimeoutError", "TimeoutException", "ServerDisconnectedError", "ClientOSError", "ClientPayloadError",
    "TimeoutError", "SocketTimeoutError",
}  # fmt: skip
"""What says that an attempt was sent and got no answer."""


def history_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, what caused it or was handled when it was raised, and so on."""
    for _ in range(32):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def is_only_attempt(history: list[BaseException]) -> bool:
    """Whether nothing in an error's history says that there was an attempt before, or one that broke."""
    if any(type(each).__name__ in _BROKEN for each in history):
        return False
    requests = [getattr(of, "_request", None) for each in history for of in (each, getattr(each, "response", None))]
    return all(each is None or each.headers.get("x-stainless-retry-count", "0") == "0" for each in requests)


def made_no_connection(history: list[BaseException]) -> bool:
    """Whether the first error that is not LiteLLM's own, or the SDK's for any of those, says that none was made."""
    wrapped = ("litellm.", "openai.APIConnectionError")
    names = ((each, f"{type(each).__module__}.{type(each).__qualname__}") for each in history)
    return never_connected(next((each for each, name in names if not name.startswith(wrapped)), None))


def answered_status(history: list[BaseException]) -> int | None:
    """Return the status of the answer that an error stands for, None if there may have been none."""
    answer = next((each for each in history if _is_answer(each)), None)
    status = getattr(getattr(answer, "response", history[0]), "status_code", None)
    return status if isinstance(status, int) and (status < 500 or answer is not None) else None


def _is_answer(error: BaseException) -> bool:
    """Whether an error is made of an HTTP answer, by who raises it first."""
    ours = type(error).__module__.startswith("openai.") and hasattr(error, "status_code")
    return ours or type(error).__name__ == "HTTPStatusError"
