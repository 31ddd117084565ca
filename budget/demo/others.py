"""The demo provider's other protocols: which path speaks which, and for which model, where the path names it.

Gemini's API and Vertex's, Bedrock's Converse, Cohere's version 2; Groq's and Mistral's chat, which are nearly OpenAI's:
Mistral's has paths of OpenAI's, so it is below `/mistral` here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote

from budget.demo import chat, clouds, cohere, converse, gemini
from budget.demo.reply import Reply
from budget.demo.turn import Turn, count

__all__ = ["Route", "embeddings", "route"]


class _Talk:
    """Groq's and Mistral's chat: a stream says its usage unasked, in the last chunk that has choices or beside it."""

    usage, whole = staticmethod(chat.usage), staticmethod(chat.whole)
    error, error_event = staticmethod(chat.error), staticmethod(chat.error_event)

    @staticmethod
    def decide(body: Any, reply: Reply, usual: int, id: str) -> Turn:
        """Decide the answer to a request's body; one of fill-in-the-middle has a prompt for messages."""
        if isinstance(body, dict) and "prompt" in body:
            body = {**body, "messages": [body["prompt"], body.get("suffix")]}
        return chat.decide(body, reply, usual, id)

    @staticmethod
    def events(turn: Turn) -> Iterator[bytes]:
        """The SSE events of a streamed answer."""
        options = {**turn.request, "stream_options": {"include_usage": True}}
        yield from chat.events(Turn(**{**{name: getattr(turn, name) for name in Turn.__slots__}, "request": options}))


class Route(NamedTuple):
    """How a path is spoken to.

    Attributes:
        speech: The module of its protocol; None for embeddings.
        model: The model that the path names, "" if the body does.
        stream: Whether the path asks for a stream; None if the body says.
    """

    speech: Any
    model: str = ""
    stream: bool | None = None


_EMBEDS = re.compile(
    r".*/(?:([^/:]+):(?:embedContent|batchEmbedContents)|models/([^/:]*embedding[^/:]*):predict|v2/embed)"
)
_GEMINI = re.compile(r".*/models/([^/:]+):(generateContent|streamGenerateContent)$")
_CONVERSE = re.compile(r"/model/([^/]+)/(converse|converse-stream)$")
_BODIES = {
    "/v2/chat": cohere,
    "/openai/v1/chat/completions": _Talk,
    "/mistral/v1/chat/completions": _Talk,
    "/mistral/v1/fim/completions": _Talk,
}


def route(path: str) -> Route | None:
    """Return how a POST path is spoken to, None if it is not one of these."""
    if found := _GEMINI.fullmatch(path):
        return Route(gemini, unquote(found[1]), found[2] != "generateContent")
    if found := _CONVERSE.fullmatch(path):
        return Route(converse, unquote(found[1]), found[2] != "converse")
    if found := _EMBEDS.fullmatch(path):
        return Route(None, unquote(found[1] or found[2] or ""))
    if (cloud := clouds.find(path)) is not None:
        return Route(*cloud)
    return Route(_BODIES[path]) if path in _BODIES else None


def embeddings(body: Any, path: str, says: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a whole answer of embeddings, and the usage that is billed for it.

    Args:
        body: The request.
        path: Where it was sent.
        says: Whether Gemini's says its usage: by each vector on Vertex, else beside them.
    """
    if path.endswith(":predict"):
        counts = [count([each.get("content")]) for each in body.get("instances") or ()]
        vectors = [{"values": [0.5, 0.25]} | ({"statistics": {"token_count": n}} if says else {}) for n in counts]
        return {"predictions": [{"embeddings": each} for each in vectors]}, {"promptTokenCount": sum(counts)}
    counted = count([body.get(name) for name in ("texts", "inputs", "content", "requests")])
    if path.endswith("/v2/embed"):
        usage, floats = {"input_tokens": counted}, {"float": [[0.5, 0.25] for _ in body.get("texts") or ()]}
        return {"id": "e", "embeddings": floats, "texts": [], "meta": {"billed_units": usage}}, usage
    usage = {"promptTokenCount": counted}
    vectors = [{"values": [0.5, 0.25]} for _ in body.get("requests") or (body,)]
    return {"embeddings": vectors, "embedding": vectors[0]} | ({"usageMetadata": usage} if says else {}), usage
