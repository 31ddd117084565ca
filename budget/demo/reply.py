"""Reply: how the demo provider answers one call, whatever the protocol.

A test steers a single call from the client's side with the header `x-demo`, a comma-separated list of the fields below:

    x-demo: status=429, retry-after=0.001
    x-demo: output=120, pace=0.01, cut=5
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from budget.errors import ArgumentTypeError, ConfigError

__all__ = ["Reply"]


@dataclass(frozen=True, slots=True)
class Reply:
    """How one call is answered. Times are in seconds, amounts in tokens; events are SSE events, pings counted too.

    Attributes:
        status: 200, or the HTTP error to answer with.
        retry_after: The `retry-after` header of an error. The SDK takes only what is above 0; at 0 it waits about
            half a second, as without the header.
        fail_first: `(n, status)`: the first n attempts of a logical call get this error. Attempts are counted by the
            header `x-demo-tag`, without it by the SDK's own `x-stainless-retry-count`.
        latency: The wait before the first byte; None takes the server's.
        pace: The wait before each event of a stream. At 0 the whole stream leaves in one write, so a client that
            leaves early is noticed only in a paced stream.
        hang: Wait so long, then close the connection without any answer.
        cut: Close the connection after so many events; in a call that does not stream, before any answer.
        stall: Send nothing more after so many events of a stream, and wait until the client goes away.
        error_event: Send an error event after so many events and end the stream, whose status was 200.
        failed: Answer, with status 200, that the model failed (OpenAI's Responses only).
        input: Uncached input; None counts the request.
        cache_read: Input read from a cache, beside `input`.
        cache_write_5m: Input written to a cache for five minutes, beside `input`. OpenAI's APIs name no time to live.
        cache_write_1h: The same for one hour.
        output: All output, thinking included, also above the request's bound (an overrun); of each choice, where the
            request asks for several. None takes the smaller of that bound and the server's.
        thinking: How many of the output tokens are hidden reasoning, of which only a short summary is sent.
        tool: Answer with a call of the request's first tool.
        usage: False leaves the usage out everywhere; the SDK's stream helper cannot read such a stream, a raw stream
            can be.
        model: The model as answered; None repeats the request's.
    """

    status: int = 200
    retry_after: float | None = None
    fail_first: tuple[int, int] | None = None
    latency: float | None = None
    pace: float = 0.0
    hang: float | None = None
    cut: int | None = None
    stall: int | None = None
    error_event: int | None = None
    failed: bool = False
    input: int | None = None
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int | None = None
    thinking: int = 0
    tool: bool = False
    usage: bool = True
    model: str | None = None

    def __post_init__(self) -> None:
        for names, kinds in ((_COUNTS, (int,)), (_SECONDS, (int, float))):
            for name in names:
                value = getattr(self, name)
                if value is None:
                    continue
                if type(value) not in kinds:
                    raise ArgumentTypeError(f"{name}: must be a number ({kinds[-1].__name__}), not {value!r}")
                if not 0 <= value < 10**9:  # also refuses NaN
                    raise ConfigError(f"{name}: {value} must be 0 or more, and finite")
        for status in (self.status, self.fail_first[1] if self.fail_first else 500):
            if status != 200 and not 400 <= status <= 599:
                raise ConfigError(f"status: {status} must be 200 or an error, 400 to 599")

    def steered(self, header: str) -> Reply:
        """Return a copy with the fields that a `x-demo` header names.

        Raises:
            ConfigError: A field that does not exist, or a value that it cannot have.
        """
        values: dict[str, Any] = {}
        for item in filter(None, (part.strip() for part in header.split(","))):
            key, _, text = item.partition("=")
            name = key.strip().replace("-", "_")
            if name not in _READERS:
                raise ConfigError(f"x-demo: there is no field {key.strip()!r}; there are {', '.join(_READERS)}")
            try:
                values[name] = _READERS[name](text.strip())
            except (ValueError, KeyError):
                raise ConfigError(f"x-demo: {name}={text.strip()!r} cannot be read") from None
        return replace(self, **values) if values else self


def _pair(text: str) -> tuple[int, int]:
    count, status = text.split(":")
    return int(count), int(status)


_COUNTS = (
    "status", "cut", "stall", "error_event", "input", "cache_read", "cache_write_5m", "cache_write_1h", "output",
    "thinking",
)  # fmt: skip
_SECONDS = ("retry_after", "latency", "pace", "hang")
_READERS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(_COUNTS, int),
    **dict.fromkeys(_SECONDS, float),
    "fail_first": _pair,
    **dict.fromkeys(("tool", "failed"), {"0": False, "1": True}.__getitem__),
    "usage": {"none": False, "full": True}.__getitem__,
    "model": str,
}
