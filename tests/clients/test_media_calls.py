"""Images, sound and embeddings: what a request bounds is metered to the last nano-dollar, the rest refused unsent."""

from __future__ import annotations

import asyncio
import base64
import io
import wave
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest

from budget import Budget, BudgetExceeded, Unbounded, UnknownModel
from budget.demo.provider import Provider

from .conftest import BROKEN, EMBEDDING, ends, is_sync, only_end, open_reservations, reserved_usd, run_async

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # some of the methods are going away
KINDS = (openai.OpenAI, openai.AsyncOpenAI)
MILLIONTH = Decimal("0.000001")
IMAGE: dict[str, Any] = {"model": "gpt-image-2", "prompt": "a cat on a mat", "size": "1024x1024", "quality": "high"}


def wav(seconds: float) -> bytes:
    """A silent recording."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(1000)
        sound.writeframes(bytes(2 * round(1000 * seconds)))
    return file.getvalue()


def both(budget: Budget, plain: Callable[..., Any], kind: Any, call: Callable[[Any], Any]) -> Any:
    """Make a call with a guarded client; its whole stream, if it is one."""
    client = budget.wrap(plain(kind))
    if is_sync(kind):
        result = call(client)
        return list(result) if hasattr(type(result), "__stream__") else result

    async def main(client: Any) -> Any:
        result = await call(client)
        return [event async for event in result] if hasattr(type(result), "__stream__") else result

    return run_async(client, main)


def images_usd(usage: dict[str, Any]) -> Decimal:
    """What gpt-image-2 costs, by the provider's log."""
    sent = usage["input_tokens_details"]
    return (sent["text_tokens"] * 5 + sent["image_tokens"] * 8 + usage["output_tokens"] * 30) * MILLIONTH


# --- what is refused --------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "images of a model that writes, too": (
        lambda c: c.images.generate(**{**IMAGE, "model": "gpt-image-1.5"}), r"tokens gpt-image-1\.5 bills .*per_unit"),
    "an image of no known model": (lambda c: c.images.generate(prompt="a cat"), "names no model"),
    "an image by another model": (lambda c: c.images.generate(**{**IMAGE, "model": "gpt-4o"}), "tokens gpt-4o bills"),
    "a size that is none": (lambda c: c.images.generate(**{**IMAGE, "size": "huge"}), "size: huge is neither"),
    "a quality that it does not have": (lambda c: c.images.generate(**{**IMAGE, "quality": "max"}), "tokens gpt-image"),
    "a drawing that another model writes": (
        lambda c: c.images.generate(**IMAGE, extra_body={"output_format": "svg"}), "output_format: svg"),
    "a field that is not known": (lambda c: c.images.generate(**IMAGE, extra_body={"frames": 3}), "frames: unknown"),
    "a file that is not known": (
        lambda c: c.post("/images/edits", body=dict(IMAGE), files=[("overlay", b"x")], cast_to=object), "unknown file"),
    "speech by the token": (
        lambda c: c.audio.speech.create(model="gpt-4o-mini-tts", voice="alloy", input="hello"), "price per character"),
    "a transcript by the token": (
        lambda c: c.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", wav(1))), "price per second"),
    "a recording of no known length": (
        lambda c: c.audio.translations.create(model="whisper-1", file=("a.webm", b"\x1aE\xdf\xa3")), "how long it is"),
    "a film": (lambda c: c.videos.create(model="sora-2", prompt="a cat", seconds="4"), "billed by the second"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_no_bound_is_refused(budget: Budget, plain: Callable[..., Any], provider: Provider, kind: Any) -> None:
    for call, reason in REFUSED.values():
        with pytest.raises(Unbounded, match=reason):
            both(budget, plain, kind, call)
    with pytest.raises(UnknownModel, match="prices set"):
        both(budget, plain, kind, lambda c: c.images.generate(model="dall-e-3", prompt="a cat"))
    assert provider.requests == []
    assert list(budget.entries()) == []


def test_what_does_not_fit_is_refused(budget: Budget, oclient: Any, provider: Provider) -> None:
    budget.limits.set("$0.42/request")
    with pytest.raises(BudgetExceeded):
        oclient.images.generate(**IMAGE, n=2)
    assert provider.requests == []
    oclient.images.generate(**IMAGE)


def test_media_without_a_bound_pass_by_hand(budget: Budget, oclient: Any, provider: Provider) -> None:
    with budget.reservation("$1"):
        oclient.audio.speech.create(model="gpt-4o-mini-tts", voice="alloy", input="hello")
    assert len(provider.requests) == 1
    assert only_end(budget).usd == 1


# --- images -----------------------------------------------------------------------------------------------------------

IMAGES: dict[str, Callable[[Any], Any]] = {
    "one": lambda c: c.images.generate(**IMAGE),
    "several": lambda c: c.images.generate(**IMAGE, n=3),
    "auto": lambda c: c.images.generate(model="gpt-image-2-2026-04-21", prompt="a cat"),
    "raw": lambda c: c.images.with_raw_response.generate(**IMAGE),
    "stream": lambda c: c.images.generate(**IMAGE, stream=True, partial_images=2),
    "stream of several": lambda c: c.images.generate(**IMAGE, n=2, stream=True),
    "edit": lambda c: c.images.edit(**IMAGE, image=[("a.png", b"x"), ("b.png", b"y")], mask=b"z", n=2),
    "edit of files": lambda c: c.images.edit(**IMAGE, image=io.BytesIO(b"x")),
    "edit, stream": lambda c: c.images.edit(**IMAGE, image=b"x", stream=True, partial_images=1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_cost_what_the_log_says(
    make_budget: Callable[..., Budget], plain: Callable[..., Any], provider: Provider, kind: Any
) -> None:
    for name, call in IMAGES.items():
        budget = make_budget("memory://", limits=["$100/day"])
        both(budget, plain, kind, call)
        end = only_end(budget)
        assert provider.requests[-1].usage is not None, name
        assert end.usd == images_usd(provider.requests[-1].usage), name
        assert end.usd <= reserved_usd(budget), name
        assert "estimated" not in end.detail, name


def test_a_file_to_edit_arrives_whole(budget: Budget, oclient: Any, provider: Provider) -> None:
    file = io.BytesIO(b"x" * 5000)
    answer = oclient.images.edit(**IMAGE, image=file)
    assert provider.requests[0].body_bytes > 5000
    assert answer.usage.input_tokens_details.image_tokens == 1024


def test_an_edit_that_does_not_fit_goes_to_a_cheaper_model(
    make_budget: Callable[..., Budget], plain: Callable[..., Any], provider: Provider
) -> None:
    budget = make_budget("memory://", limits=["$0.1/day"])
    short = {"budget_on_short": "fallback:gpt-image-1-mini"}
    answer = budget.wrap(plain(openai.OpenAI)).images.edit(**IMAGE, image=io.BytesIO(b"x"), extra_body=short)
    plain(openai.OpenAI).images.edit(**{**IMAGE, "model": "gpt-image-1-mini"}, image=io.BytesIO(b"x"))
    assert [seen.model for seen in provider.requests] == ["gpt-image-1-mini"] * 2
    assert provider.requests[0].body_bytes == provider.requests[1].body_bytes
    assert answer.usage.input_tokens_details.image_tokens == 1024
    usage, end = answer.usage, ends(budget)[-1]
    assert end.usd == (10 * 2 + 1024 * Decimal("2.5") + usage.output_tokens * 8) * MILLIONTH


@pytest.mark.parametrize("steered", ["error_event=1", "usage=none", "cut=2"])
def test_a_stream_of_images_without_its_usage_costs_what_was_reserved(
    budget: Budget, oclient: Any, steered: str
) -> None:
    with suppress(*BROKEN):
        list(oclient.images.generate(**IMAGE, stream=True, partial_images=2, extra_headers={"x-demo": steered}))
    end = only_end(budget)
    assert end.usd == reserved_usd(budget)
    assert end.detail["estimated"]


def test_who_leaves_a_stream_of_images_is_charged_for_them(budget: Budget, oclient: Any) -> None:
    stream = oclient.images.generate(**IMAGE, n=2, stream=True)
    assert next(iter(stream)).usage.output_tokens == 7024
    stream.close()
    assert only_end(budget).usd == reserved_usd(budget) > 2 * 7024 * 30 * MILLIONTH


def test_text_beside_an_image_has_its_own_price(make_budget: Callable[..., Budget], plain: Callable[..., Any]) -> None:
    budget = make_budget("memory://", limits=["$100/day"])
    told = {"input_tokens": 48, "input_tokens_details": {"text_tokens": 48, "image_tokens": 0}, "output_tokens": 481,
            "total_tokens": 529, "output_tokens_details": {"image_tokens": 272, "text_tokens": 209}}  # fmt: skip
    assert budget.cost(told, model="gpt-image-1.5").usd == (48 * 5 + 272 * 32 + 209 * 10) * MILLIONTH
    del told["output_tokens_details"]
    event = {"type": "image_generation.completed", "usage": told}
    assert budget.cost(event, model="gpt-image-1.5").usd == (48 * 5 + 481 * 32) * MILLIONTH


OWN = (
    '[[models]]\nid = "gpt-image-1.5"\n[[models.prices]]\nfrom = 2023-01-01\ninput = "0"\noutput = "0"\nlower = true\n'
)


@pytest.mark.parametrize("stream", [False, True])
def test_a_price_by_the_image_of_ones_own(
    make_budget: Callable[..., Budget], plain: Callable[..., Any], tmp_path: Path, monkeypatch: Any, stream: bool
) -> None:
    (tmp_path / "own.toml").write_text(f'schema = 1\nprovider = "openai"\n{OWN}per_unit = {{image = "0.04"}}\n')
    monkeypatch.setenv("BUDGET_PRICE_FILES", str(tmp_path / "own.toml"))
    budget = make_budget("memory://", limits=["$100/day"])
    client = budget.wrap(plain(openai.OpenAI))
    made = client.images.generate(**{**IMAGE, "model": "gpt-image-1.5"}, n=3, stream=stream)
    assert len(list(made) if stream else made.data) == 3
    assert only_end(budget).usd == reserved_usd(budget) == Decimal("0.12")


def test_a_server_that_says_no_usage_of_images(make_budget: Callable[..., Budget], plain: Callable[..., Any]) -> None:
    own = {"my-painter": {"input": "0", "output": "0", "per_unit": {"image": "0.04"}}}
    budget = make_budget("memory://", limits=["$100/day"], prices=own)
    client = budget.wrap(plain(openai.OpenAI))
    client.images.generate(model="my-painter", prompt="a cat", extra_headers={"x-demo": "usage=none"})
    end = only_end(budget)
    assert end.usd == Decimal("0.04")
    assert "estimated" not in end.detail


def test_who_accepts_what_has_no_bound_is_charged_what_the_log_says(
    make_budget: Callable[..., Budget], plain: Callable[..., Any], provider: Provider
) -> None:
    budget = make_budget("memory://", limits=["$100/day"], on_unbounded="$2")
    budget.wrap(plain(openai.OpenAI)).images.generate(**{**IMAGE, "model": "gpt-image-1.5"})
    usage = provider.requests[0].usage
    assert usage is not None
    assert only_end(budget).usd == (usage["input_tokens"] * 5 + usage["output_tokens"] * 32) * MILLIONTH


# --- sound ------------------------------------------------------------------------------------------------------------

TEXT = "Grüße, 世界 🙂"
SPEECH: dict[str, Any] = {"model": "tts-1", "voice": "alloy", "input": TEXT}


@pytest.mark.parametrize("kind", KINDS)
def test_speech_costs_what_it_has_of_characters(
    make_budget: Callable[..., Budget], plain: Callable[..., Any], provider: Provider, kind: Any
) -> None:
    def stream(client: Any) -> Any:
        speech = client.audio.speech.with_streaming_response.create(**SPEECH)
        return _read(speech) if is_sync(kind) else _aread(speech)

    calls = (lambda c: c.audio.speech.create(**SPEECH), lambda c: c.audio.speech.with_raw_response.create(**SPEECH))
    for call in (*calls, stream):
        budget = make_budget("memory://", limits=["$100/day"])
        both(budget, plain, kind, call)
        end = only_end(budget)
        assert provider.requests[-1].usage == {"characters": len(TEXT)}
        assert end.usd == reserved_usd(budget) == len(TEXT) * 15 * MILLIONTH
        assert end.detail["usage"] == {"tools": {"character": len(TEXT)}}
        assert "estimated" not in end.detail


def _read(speech: Any) -> bytes:
    with speech as response:
        found: bytes = response.read()
        return found


async def _aread(speech: Any) -> bytes:
    async with speech as response:
        found: bytes = await response.read()
        return found


def test_speech_that_fails_costs_nothing(budget: Budget, oclient: Any) -> None:
    with pytest.raises(openai.BadRequestError):
        oclient.audio.speech.create(**SPEECH, extra_headers={"x-demo": "status=400"})
    assert only_end(budget).kind == "refunded"


def test_speech_with_a_price_of_ones_own(make_budget: Callable[..., Budget], plain: Callable[..., Any]) -> None:
    own = {"gpt-4o-mini-tts": {"input": "0", "output": "0", "per_unit": {"character": "0.00002"}, "provider": "openai"}}
    budget = make_budget("memory://", limits=["$100/day"], prices=own)
    budget.wrap(plain(openai.OpenAI)).audio.speech.create(**{**SPEECH, "model": "gpt-4o-mini-tts"})
    assert only_end(budget).usd == len(TEXT) * 20 * MILLIONTH


@pytest.mark.parametrize("kind", KINDS)
def test_transcripts_cost_what_they_have_of_seconds(
    make_budget: Callable[..., Budget], plain: Callable[..., Any], provider: Provider, kind: Any
) -> None:
    file = io.BytesIO(wav(3.2))
    file.seek(7)  # the SDK sends all of it
    asked = {"model": "whisper-1", "file": ("a.wav", file)}
    for call, most in (
        (lambda c: c.audio.transcriptions.create(**asked), 4),
        (lambda c: c.audio.translations.create(**asked), 4),
        (lambda c: c.audio.transcriptions.create(model="whisper-1", file=wav(3), response_format="text"), 3),
    ):
        budget = make_budget("memory://", limits=["$100/day"])
        both(budget, plain, kind, call)
        assert provider.requests[-1].usage == {"type": "duration", "seconds": 3}
        assert only_end(budget).usd == 300 * MILLIONTH
        assert reserved_usd(budget) == most * 100 * MILLIONTH


def test_a_file_that_cannot_be_read_twice_is_refused(budget: Budget, oclient: Any, provider: Provider) -> None:
    class Pipe(io.RawIOBase):
        def readable(self) -> bool:
            return True

    with pytest.raises(Unbounded, match="seekable"):
        oclient.audio.transcriptions.create(model="whisper-1", file=Pipe())
    assert provider.requests == []


# --- chat with sound --------------------------------------------------------------------------------------------------

SOUND = {"type": "input_audio", "input_audio": {"data": base64.b64encode(wav(3)).decode(), "format": "wav"}}
TALK: dict[str, Any] = {
    "model": "gpt-audio", "modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"},
    "max_completion_tokens": 60, "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}, SOUND]}],
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_sound_in_chat_have_their_own_price(
    budget: Budget, plain: Callable[..., Any], provider: Provider, kind: Any, stream: bool
) -> None:
    both(budget, plain, kind, lambda c: c.chat.completions.create(**TALK, stream=stream))
    usage, end = provider.requests[0].usage, only_end(budget)
    assert usage is not None
    heard, spoken = (usage[f"{name}_tokens_details"]["audio_tokens"] for name in ("prompt", "completion"))
    assert heard == spoken == 30
    text = (usage["prompt_tokens"] - heard) * Decimal("2.5") + (usage["completion_tokens"] - spoken) * 10
    assert end.usd == (text + heard * 32 + spoken * 64) * MILLIONTH
    assert (heard * 32 + 60 * 64) * MILLIONTH < reserved_usd(budget) < (200 * 32 + 60 * 64) * MILLIONTH


def test_a_stream_of_sound_that_is_left_costs_what_was_reserved(budget: Budget, oclient: Any) -> None:
    stream = oclient.chat.completions.create(**TALK, stream=True, extra_headers={"x-demo": "stall=6"})
    for _, _chunk in zip(range(5), stream, strict=False):
        pass
    stream.close()
    assert only_end(budget).usd == reserved_usd(budget)


def test_a_stream_of_sound_does_not_begin_with_less_than_its_bound(
    make_budget: Callable[..., Budget], plain: Callable[..., Any]
) -> None:
    budget = make_budget("memory://", limits=["$0.5/day"])
    client = budget.wrap(plain(openai.OpenAI))
    with pytest.raises(BudgetExceeded):  # 16,384 tokens; text alone would begin with a step
        client.chat.completions.create(**{**TALK, "max_completion_tokens": None}, stream=True)
    assert open_reservations(budget) == []


# --- embeddings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["hello there", ["one", "two"], [[1, 2, 3]]])
@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_metered(
    budget: Budget, plain: Callable[..., Any], provider: Provider, kind: Any, given: Any
) -> None:
    client, request = budget.wrap(plain(kind)), {**EMBEDDING, "input": given}
    made = client.embeddings.create(**request)
    answer = made if is_sync(kind) else asyncio.run(_closed(client, made))
    assert len(answer.data) == len(given) if isinstance(given, list) else 1
    assert only_end(budget).usd == answer.usage.prompt_tokens * Decimal("0.00000002")


async def _closed(client: Any, made: Any) -> Any:
    async with client:
        return await made
