"""Images, sound and video are refused with the reason, and nothing is sent; embeddings are metered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import openai
import pytest

from budget import Budget, Unbounded
from budget.demo.provider import Provider

from .conftest import EMBEDDING, is_sync, only_end, open_reservations, run_async

KINDS = (openai.OpenAI, openai.AsyncOpenAI)
WAV = ("a.wav", b"RIFF\x00\x00\x00\x00WAVE")
PNG = ("a.png", b"\x89PNG\r\n\x1a\n")
CALLS: dict[str, Callable[[Any], Any]] = {
    "images.generate": lambda c: c.images.generate(model="gpt-image-2", prompt="a cat", n=2, size="1024x1024"),
    "images.edit": lambda c: c.images.edit(model="gpt-image-2", image=PNG, prompt="a dog"),
    "audio.speech": lambda c: c.audio.speech.create(model="tts-1", voice="alloy", input="hello"),
    "audio.transcriptions": lambda c: c.audio.transcriptions.create(model="whisper-1", file=WAV),
    "audio.translations": lambda c: c.audio.translations.create(model="whisper-1", file=WAV),
    "videos": lambda c: c.videos.create(model="sora-2", prompt="a cat", seconds="4"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # some of them are going away
def test_what_has_no_price_is_refused(
    budget: Budget, plain: Callable[..., Any], provider: Provider, kind: Any, name: str
) -> None:
    client = budget.wrap(plain(kind))
    with pytest.raises(Unbounded, match=r"billed|price|tokens"):
        CALLS[name](client) if is_sync(kind) else run_async(client, CALLS[name])
    assert provider.requests == []
    assert open_reservations(budget) == []


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
