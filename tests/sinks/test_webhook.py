"""Webhook: signed, with a key for repeats, and whatever the receiver does, each record arrives."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from budget.sinks import make_sink
from budget.sinks.base import SinkFailed
from budget.sinks.http import Poster
from budget.testing import Sandbox

from .helpers import call, drain, feed_of, mixed_budget
from .receiver import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def told(receiver: Receiver) -> list[dict[str, Any]]:
    return [json.loads(body) for _, _, body in receiver.taken]


def test_a_batch_is_posted_and_signed(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLS_SECRET", "open sesame")
    with mixed_budget() as budget:
        drain(feed_of(budget, make_sink(f"webhook+{receiver.url}/in?a=b&secret_env=CALLS_SECRET&name=hook")))
    ((path, headers, body),) = receiver.taken
    read = json.loads(body)
    assert path == "/in?a=b"
    assert (read["account"], read["first"], read["last"]) == ("default", 1, 10)
    assert [(line["seq"], line["kind"]) for line in read["records"]][-3:] == [
        (8, "correction"), (9, "withdrawn"), (10, "refused"),
    ]  # fmt: skip
    assert headers["Idempotency-Key"] == "default:1-10"
    assert headers["Content-Type"] == "application/json"
    signed = headers["Budget-Timestamp"].encode() + b"." + body
    assert headers["Budget-Signature"] == "v1=" + hmac.new(b"open sesame", signed, hashlib.sha256).hexdigest()
    assert abs(int(headers["Budget-Timestamp"]) - datetime.now(UTC).timestamp()) < 600


def test_unsigned_without_a_secret(receiver: Receiver) -> None:
    with mixed_budget() as budget:
        drain(feed_of(budget, make_sink(f"webhook+{receiver.url}/")))
    assert "Budget-Signature" not in receiver.taken[0][1]


def test_a_batch_that_comes_again_has_the_same_key(receiver: Receiver) -> None:
    receiver.mode = "taken, cut"
    with Sandbox() as budget:
        ids = [call(budget) for _ in range(3)]
        feed = feed_of(budget, make_sink(f"webhook+{receiver.url}/"))
        with pytest.raises(SinkFailed) as caught:
            feed.turn(flush=True)
        feed.failed(caught.value)
        ids.append(call(budget))
        receiver.mode = "ok"
        drain(feed)
    by_key = {headers["Idempotency-Key"]: body for _, headers, body in receiver.taken}
    assert list(by_key) == ["default:1-3", "default:4-4"]
    assert len(receiver.taken) > 2
    assert [line["id"] for body in by_key.values() for line in json.loads(body)["records"]] == ids


@pytest.mark.parametrize("date", [False, True])
def test_a_wait_that_is_asked_for_is_kept(receiver: Receiver, date: bool) -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    receiver.mode, receiver.retry_after = 503, until if date else "30"
    with mixed_budget() as budget:
        feed = feed_of(budget, make_sink(f"webhook+{receiver.url}/"))
        with pytest.raises(SinkFailed) as caught:
            feed.turn(flush=True)
        assert feed.failed(caught.value) >= 29.0
        assert not caught.value.permanent


def test_a_batch_that_is_too_large_comes_in_halves(receiver: Receiver) -> None:
    take = receiver.take

    def small(path: str, headers: Any, body: bytes) -> tuple[int, bytes]:
        return (413, b"") if len(json.loads(body)["records"]) > 3 else take(path, headers, body)

    receiver.take = small  # type: ignore[method-assign]
    with mixed_budget() as budget:
        drain(feed_of(budget, make_sink(f"webhook+{receiver.url}/")), tries=30)
    assert [line["seq"] for batch in told(receiver) for line in batch["records"]] == list(range(1, 11))


def test_a_server_that_is_gone_is_said_without_its_path(receiver: Receiver) -> None:
    receiver.kill()
    poster = Poster(f"{receiver.url}/secret-path?token=secret")
    with pytest.raises(SinkFailed, match="does not answer: Connection refused") as caught:
        poster.post(b"", {})
    assert "secret" not in str(caught.value)
    assert not caught.value.permanent


def test_a_server_that_hangs_is_given_up_on(receiver: Receiver) -> None:
    receiver.mode = "hang"
    poster = Poster(receiver.url, timeout=0.2)
    with pytest.raises(SinkFailed, match="does not answer"):
        poster.post(b"", {})
    poster.close()


def test_a_connection_is_kept_and_made_anew_when_the_server_let_it_go(receiver: Receiver) -> None:
    poster = Poster(receiver.url)
    poster.post(b"1", {})
    kept = poster._connection
    poster.post(b"2", {})
    assert poster._connection is kept
    assert kept is not None
    kept.sock.shutdown(2)  # as a server that lets idle connections go
    poster.post(b"3", {})
    assert [body for _, _, body in receiver.taken] == [b"1", b"2", b"3"]
    poster.close()
