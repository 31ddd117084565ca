"""Sinks in a hurry: what takes seconds in earnest takes hundredths here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from budget.sinks import feed, runner

from .helpers import OPENED


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "EVERY", 0.02)
    monkeypatch.setattr(feed, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(feed, "LONGEST_WAIT", 0.04)


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()
