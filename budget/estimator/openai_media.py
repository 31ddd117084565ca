"""OpenAI's images and sound: requests whose answer is no text, or whose input is a file.

Images are billed by tokens, which the size and quality that are asked for bound (the rules of a family, kind
"drawing"), or, where an operator's own prices say so, by the piece. Speech is billed by the character of its text,
which is exact before it is sent, and a transcript by the second of its recording. What a model bills in another way
has no bound here.

The fields are those of the SDK `openai` 3.54 (types/image_generate_params.py, image_edit_params.py and, of audio,
speech_create_params.py and transcription_create_params.py, read 2026-11-22). A form's files stand in a body under
`FILES`: each file's name, and of a recording its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from budget.errors import ConfigError
from budget.estimator.bounds import Measure
from budget.estimator.media import Media, audio_of
from budget.estimator.plain import shown
from budget.estimator.walk import Walk, read_count

__all__ = ["FILES", "measure_images", "measure_recording", "measure_speech"]

FILES = "(files)"
"""Where a body has the files of its form; no field of a request has such a name."""

# fmt: off
_IMAGE_FIELDS = frozenset({
    "model", "prompt", "n", "size", "quality", "partial_images", "stream", "output_format", "input_fidelity", FILES,
    "background", "moderation", "output_compression", "response_format", "safety_identifier", "user",
})
_SPEECH_FIELDS = frozenset({"model", "input", "voice", "instructions", "response_format", "speed", "stream_format"})
_RECORDING_FIELDS = frozenset({
    "model", "language", "languages", "keywords", "prompt", "response_format", "temperature", "timestamp_granularities",
    "chunking_strategy", "include", "known_speaker_names", "known_speaker_references", "stream", FILES,
})
# fmt: on
_FORMATS = ("png", "jpeg", "webp")  # a GIF has frames, and an SVG is written by another model
_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")
_PICTURES = re.compile(r"(image|mask)(\[\d*\])?")


def measure_images(body: Mapping[str, Any], vocabulary: str) -> Measure:
    """Walk a request for images, or for edits of those that it sends, once.

    Raises:
        ConfigError: A shape that the API does not take; names the place.
    """
    walk = Walk(vocabulary)
    walk.unknown_fields(body, _IMAGE_FIELDS, "")
    walk.base_tokens += walk.count(_text(body, "prompt"))
    walk.messages = walk.parts = 1
    walk.makes.add("image")
    if (kind := body.get("output_format")) not in (None, *_FORMATS):
        walk.reason("output_format", f"{shown(kind)} is not one of {', '.join(_FORMATS)}")
    for name, _ in body.get(FILES) or ():
        if _PICTURES.fullmatch(name):
            walk.image(None, body.get("input_fidelity") or "")
        else:
            walk.reason(shown(name), "unknown file")
    count = read_count(body.get("n"), "n", 1) or 1
    return walk.result(
        None, {}, choices=count, drawing=_drawing(walk, body), units={"image": count},
        previews=read_count(body.get("partial_images"), "partial_images") or 0,
    )  # fmt: skip


def measure_speech(body: Mapping[str, Any], vocabulary: str) -> Measure:
    """Walk a request for speech once.

    Raises:
        ConfigError: A shape that the API does not take; names the place.
    """
    walk = Walk(vocabulary)
    walk.unknown_fields(body, _SPEECH_FIELDS, "")
    return walk.result(0, {}, bare=True, units={"character": len(_text(body, "input"))})


def measure_recording(body: Mapping[str, Any], vocabulary: str) -> Measure:
    """Walk a request for a transcript or a translation of a recording once. A second that has begun is billed whole.

    Raises:
        ConfigError: A shape that the API does not take; names the place.
    """
    walk = Walk(vocabulary)
    walk.unknown_fields(body, _RECORDING_FIELDS, "")
    files = dict(body.get(FILES) or ())
    found = audio_of(files.get("file"))
    if found is None or len(files) > 1:
        walk.reason("file", "how long it is cannot be read; send one WAV, MP3, FLAC or Ogg file, as bytes or seekable")
    return walk.result(0, {}, bare=True, units={"second": -(-found.ms // 1000) if found else 0})


def _drawing(walk: Walk, body: Mapping[str, Any]) -> Media:
    size, quality = body.get("size") or "auto", body.get("quality") or "auto"
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if found is None and size != "auto":
        walk.reason("size", f'{shown(size)} is neither "auto" nor of the form "1024x1024"')
    width, height = map(int, found.groups()) if found else (0, 0)
    return Media("drawing", width, height, detail=str(quality))


def _text(body: Mapping[str, Any], name: str) -> str:
    text = body.get(name)
    if not isinstance(text, str):
        raise ConfigError(f"{name}: must be a string, not {type(text).__name__}")
    return text
