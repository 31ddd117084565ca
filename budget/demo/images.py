"""OpenAI's images as the demo provider makes them: what was asked for, its usage, and no picture.

Shapes follow the types of the `openai` SDK (`types/images_response.py`, `image_gen_completed_event.py` and the like).
An image takes what gpt-image-2 bills for it (the figures of the vendor's guide), an image to edit 1,024 tokens; of `n`
images each is billed as a request of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from budget.demo.chat import answer_error, error
from budget.demo.reply import Reply
from budget.demo.turn import Turn, count, fields_of, frame

__all__ = ["decide", "error", "error_event", "events", "usage", "whole"]

_FRAME_TOKENS = 6
_SENT = 1024
_PREVIEW = 100
_MADE = {"low": (196, 158), "medium": (1756, 1372), "high": (7024, 5488)}  # square, and 1536 x 1024


def decide(body: object, reply: Reply, usual: int, id: str) -> Turn:
    """Decide the answer to a request's body, or to the fields of a form.

    Raises:
        Rejected: The body lacks what every request must have.
    """
    fields = fields_of(body, model=str, prompt=str)
    square, other = _MADE.get(fields.get("quality"), _MADE["medium"])  # type: ignore[arg-type]
    made = other if "1536" in str(fields.get("size")) else square
    made += _PREVIEW * int(fields.get("partial_images") or 0)
    return Turn(
        id, fields, reply, input=_text(fields) if reply.input is None else reply.input,
        output=made if reply.output is None else reply.output, thinking=0, full=False, tool=None, pieces=(),
    )  # fmt: skip


def usage(turn: Turn) -> dict[str, Any]:
    """The usage block of a whole answer."""
    made = turn.output * _count(turn)
    return {**_usage(turn, _count(turn)), "output_tokens_details": {"image_tokens": made, "text_tokens": 0}}


def whole(turn: Turn) -> dict[str, Any]:
    """The body of a whole answer."""
    answer = {"created": 0, "data": [{"b64_json": "AAAA"}] * _count(turn), **_looks(turn)}
    return {**answer, "usage": usage(turn)} if turn.reply.usage else answer


def events(turn: Turn) -> Iterator[bytes]:
    """The SSE events of a streamed answer."""
    kind = "image_edit" if "image" in turn.request else "image_generation"
    for _ in range(_count(turn)):
        for index in range(int(turn.request.get("partial_images") or 0)):
            yield _event(turn, f"{kind}.partial_image", {"partial_image_index": index})
        yield _event(turn, f"{kind}.completed", {"usage": _usage(turn, 1)} if turn.reply.usage else {})


def error_event() -> bytes:
    """The event of an error inside a stream."""
    return frame({"type": "error", **answer_error("server_error", "The server had an error")}, "error")


def _event(turn: Turn, kind: str, more: Mapping[str, Any]) -> bytes:
    return frame({"type": kind, "b64_json": "AAAA", "created_at": 0, **_looks(turn), **more}, kind)


def _usage(turn: Turn, images: int) -> dict[str, Any]:
    sent = _SENT * len(turn.request.get("image") or ()) * images
    text, made = turn.input * images, turn.output * images
    return {
        "input_tokens": text + sent,
        "input_tokens_details": {"text_tokens": text, "image_tokens": sent},
        "output_tokens": made,
        "total_tokens": text + sent + made,
    }


def _looks(turn: Turn) -> dict[str, Any]:
    asked = turn.request
    return {"background": "opaque", "output_format": "png", "quality": asked.get("quality") or "medium",
            "size": asked.get("size") or "1024x1024"}  # fmt: skip


def _count(turn: Turn) -> int:
    return int(turn.request.get("n") or 1)


def _text(fields: Mapping[str, Any]) -> int:
    return count([fields["prompt"]]) + _FRAME_TOKENS
