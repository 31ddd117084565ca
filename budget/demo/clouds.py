"""The flavours of both SDKs at the demo provider: Claude on Bedrock and Vertex, OpenAI on Azure.

What differs is the path, which names the model, and Bedrock's stream: its events are those of Messages, each as the
bytes of a message of AWS's event stream.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from budget.demo import chat, converse, messages, responses
from budget.demo.turn import Turn

__all__ = ["find"]


class _Invoked:
    """Messages as InvokeModel of Bedrock answers them."""

    HEADERS = converse.HEADERS
    decide, usage, whole = staticmethod(messages.decide), staticmethod(messages.usage), staticmethod(messages.whole)
    error, error_event = staticmethod(messages.error), staticmethod(converse.error_event)

    @staticmethod
    def events(turn: Turn) -> Iterator[bytes]:
        """The messages of a streamed answer."""
        head = {":message-type": "event", ":event-type": "chunk", ":content-type": "application/json"}
        for event in messages.events(turn):
            data = event.partition(b"data: ")[2].strip()
            yield converse.message(head, {"bytes": base64.b64encode(data).decode()})


_INVOKE = re.compile(r".*/model/([^/]+)/(invoke|invoke-with-response-stream)")
_PREDICT = re.compile(r".*/publishers/anthropic/models/(?!count-tokens)([^/:]+):(rawPredict|streamRawPredict)")
_DEPLOYED = re.compile(r"/openai/deployments/([^/]+)/(chat/completions|embeddings)")


def find(path: str) -> tuple[Any, str, bool | None] | None:
    """Return the protocol, the model and the stream of a path (as `others.Route`), None if it is not one of these."""
    if found := _INVOKE.fullmatch(path):
        return _Invoked, unquote(found[1]), found[2] != "invoke"
    if found := _PREDICT.fullmatch(path):
        return messages, unquote(found[1]), None
    if found := _DEPLOYED.fullmatch(path):
        return (chat if found[2] != "embeddings" else None), unquote(found[1]), None
    return (responses, "", None) if path == "/openai/responses" else None
