"""Ask the provider how much input a call has, where our bound would have it refused and our expectation would not.

The call's own client asks, with the headers and the query of the call. It asks once per call, without retries, and
whatever goes wrong leaves the bound as it was: a count can admit a call, it never stops one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from budget.errors import ConfigError
from budget.estimate import Estimate, with_input
from budget.prices import PriceBook

__all__ = ["TIMEOUT", "counted", "expected", "post_arguments"]

TIMEOUT = 2.0
"""Seconds for each of connecting, sending and each wait for bytes of the answer, as the SDK's HTTP client counts them.

A count of Anthropic takes about 150 ms (measured by third parties, read 2026-11-21)."""

_NOT_SENT = ("x-stainless-raw-response", "x-stainless-helper-method", "idempotency-key")


def post_arguments(options: Any, question: tuple[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the arguments with which a client's `post` asks a protocol's question about the call of these options."""
    more, body = question
    path, mark, query = options.url.partition("?")
    headers = options.headers if isinstance(options.headers, Mapping) else {}
    sent = {name: value for name, value in headers.items() if name.lower() not in _NOT_SENT}
    asked = {"headers": sent, "params": options.params, "timeout": TIMEOUT, "max_retries": 0}
    return {"path": f"{path}{more}{mark}{query}", "cast_to": object, "body": body, "options": asked}


def counted(book: PriceBook, estimate: Estimate, answer: object, at_us: int) -> Estimate:
    """Return an estimate with the provider's count in it.

    Raises:
        ConfigError: The answer is no count.
    """
    tokens = answer.get("input_tokens") if isinstance(answer, Mapping) else None
    if type(tokens) is not int or tokens < 1:
        raise ConfigError("the provider's answer is no count")
    return _with(book, estimate, tokens, at_us)


def expected(book: PriceBook, estimate: Estimate, at_us: int) -> Estimate:
    """Return an estimate as it would be if the provider counted what we expect."""
    return _with(book, estimate, estimate.input_tokens, at_us)


def _with(book: PriceBook, estimate: Estimate, tokens: int, at_us: int) -> Estimate:
    """Put a count in, with 2 % and 16 tokens of room: Anthropic says that what it bills may differ a little."""
    return with_input(book, estimate, tokens, tokens + tokens // 50 + 16, at_us)
