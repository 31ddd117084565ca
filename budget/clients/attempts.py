"""What the transport said of one HTTP attempt: whether anything was sent, without which nothing can be billed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Attempt"]


class Attempt:
    """What the transport said of one attempt (httpcore's `trace` extension)."""

    def __init__(self) -> None:
        self.traced = self._sent = False

    @property
    def sent_nothing(self) -> bool:
        """Whether the transport was heard of, and never began to send."""
        return self.traced and not self._sent

    def note(self, event: str) -> None:
        self.traced = True
        self._sent = self._sent or "send_request_headers" in event

    def watch(self, given: Any) -> Any:
        """Return a trace hook that also calls the one that was there."""

        def hook(event: str, info: Mapping[str, Any]) -> None:
            self.note(event)
            if given is not None:
                given(event, info)

        return hook

    def awatch(self, given: Any) -> Any:
        """Return the same for an async transport."""

        async def hook(event: str, info: Mapping[str, Any]) -> None:
            self.note(event)
            if given is not None:
                await given(event, info)

        return hook
