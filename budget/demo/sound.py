"""Speech and transcripts as the demo provider makes them, and the forms in which recordings and images come."""

from __future__ import annotations

import io
import re
import wave
from typing import Any

from budget.demo.server import Request
from budget.demo.turn import Rejected, fields_of

__all__ = ["PATHS", "form", "seconds", "speech", "transcript"]

PATHS = ("/v1/images/edits", "/v1/audio/speech", "/v1/audio/transcriptions", "/v1/audio/translations")
"""What comes as a form, or is answered with sound."""

_BOUNDARY = re.compile(r'boundary="?([^";]+)')
_NAME = re.compile(rb'name="([^"]*)"')


def form(request: Request) -> dict[str, Any]:
    """Return the fields of a form as text, and its files as lists of bytes by their field's name.

    Raises:
        Rejected: It is no form.
    """
    found = _BOUNDARY.search(request.headers.get("content-type", ""))
    if found is None:
        raise Rejected(400, "the body must be a form")
    fields: dict[str, Any] = {}
    for part in request.body.split(b"--" + found[1].encode())[1:-1]:
        head, _, data = part.partition(b"\r\n\r\n")
        name = _NAME.search(head)
        if name is not None and b"filename=" in head:
            fields.setdefault(name[1].decode().removesuffix("[]"), []).append(data[:-2])
        elif name is not None:
            fields[name[1].decode()] = data[:-2].decode()
    return fields


def speech(body: object) -> tuple[bytes, dict[str, Any]]:
    """Return a text as "sound", and what a provider bills for it.

    Raises:
        Rejected: The body lacks what every request must have.
    """
    fields = fields_of(body, model=str, input=str)
    return b"\xff\xfb" + bytes(len(fields["input"])), {"characters": len(fields["input"])}


def transcript(fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the transcript of a WAV, and what a provider bills for it.

    Raises:
        Rejected: There is no such file.
    """
    bill = {"type": "duration", "seconds": round(seconds(*fields.get("file", ())))}
    return {"text": "w0 w1", "usage": bill}, bill


def seconds(file: bytes = b"") -> float:
    """Return how long a WAV is.

    Raises:
        Rejected: It is none.
    """
    try:
        with wave.open(io.BytesIO(file)) as sound:
            return float(sound.getnframes() / sound.getframerate())
    except (wave.Error, EOFError):
        raise Rejected(400, "file: must be a WAV file") from None
