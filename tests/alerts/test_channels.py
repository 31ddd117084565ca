"""Channels: what arrives, what is tried again, and that one that fails holds up no other."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redisserver import certificate
from sinks.receiver import Receiver

from alerts.ledgers import NOON, World
from alerts.smtpserver import SmtpServer
from budget.alerts import Alert, Alerts
from budget.alerts.alert import alert_id
from budget.alerts.channels import make_channel, make_channels
from budget.errors import ArgumentTypeError, ConfigError
from budget.sinks.base import SinkFailed
from budget.window import instant

AT = instant(NOON)
ALERT = Alert(
    alert_id("default", "limit at 50%", "p", AT, 50), "default", "limit at 50%", "$1/day (user=<@all> & co)", AT, AT,
    "$1/day (user=<@all> & co): 50 % reached", {"share": 50, "spent": "0.51"},
)  # fmt: skip


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    made = SmtpServer()
    yield made
    made.close()


def test_a_webhook_gets_json_signed_with_an_id(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", "open sesame")
    make_channel(f"webhook+{receiver.url}/in?a=b&secret_env=HOOK_SECRET").send(ALERT)
    ((path, headers, body),) = receiver.taken
    assert path == "/in?a=b"
    assert json.loads(body) == ALERT.to_dict()
    assert headers["Idempotency-Key"] == ALERT.id
    signed = headers["Budget-Timestamp"].encode() + b"." + body
    assert headers["Budget-Signature"] == "v1=" + hmac.new(b"open sesame", signed, hashlib.sha256).hexdigest()


def test_slack_gets_a_text_in_which_nobody_is_mentioned(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLACK_URL", f"{receiver.url}/services/T0/B0/x")
    make_channel("slack:SLACK_URL").send(ALERT)
    ((path, _, body),) = receiver.taken
    assert path == "/services/T0/B0/x"
    assert json.loads(body) == {"text": ":warning: $1/day (user=&lt;@all&gt; &amp; co): 50 % reached"}


def test_an_email_goes_encrypted_and_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = certificate(tmp_path, "IP:127.0.0.1")
    server = SmtpServer((made["tls_cert_file"], made["tls_key_file"]), ("budget", "pass"))
    monkeypatch.setenv("SMTP_PASSWORD", "pass")
    monkeypatch.setenv("SSL_CERT_FILE", made["tls_cert_file"])
    channel = make_channel(
        f"email:ops@example.com?host=127.0.0.1&port={server.port}&from=b@example.com&user=budget"
        "&password_env=SMTP_PASSWORD"
    )
    try:
        channel.send(ALERT)
        monkeypatch.setenv("SMTP_PASSWORD", "wrong")
        with pytest.raises(SinkFailed, match="535"):
            channel.send(ALERT)
    finally:
        server.close()
    ((mail, secure, user),) = server.mails
    assert (secure, user) == (True, "budget")
    assert mail["To"] == "ops@example.com"
    assert mail["Message-ID"] == f"<{ALERT.id}@example.com>"
    assert mail["Subject"] == f"budget: {ALERT.text}"
    assert '"share": 50' in mail.get_content()


def test_an_email_does_not_go_in_the_clear_unless_that_was_said(smtp: SmtpServer) -> None:
    where = f"email:ops@example.com?host=127.0.0.1&port={smtp.port}&from=b@example.com"
    with pytest.raises(SinkFailed):
        make_channel(where).send(ALERT)
    assert smtp.mails == []
    make_channel(f"{where}&tls=no").send(ALERT)
    assert len(smtp.mails) == 1
    smtp.answer = "451 later"
    with pytest.raises(SinkFailed, match="451") as failed:
        make_channel(f"{where}&tls=no").send(ALERT)
    assert not failed.value.permanent


def test_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "budget.alerts"):
        make_channel("log").send(ALERT)
    assert [record.getMessage() for record in caplog.records] == [ALERT.text]


def test_a_channel_that_fails_holds_up_no_other_and_gets_it_later(receiver: Receiver, tmp_path: Path) -> None:
    receiver.mode = 503
    world, told = World(), list[Alert]()
    alerts = world.alerts = Alerts(
        world.budget.engine, ["session > $5 in 10m"], [f"webhook+{receiver.url}/", told.append]
    )
    world.place = alerts.resume("default", 0)
    world.spend("6", session="s1")
    world.spend("6", session="s2")
    world.look()
    assert [alert.subject for alert in told] == ["session=s1", "session=s2"]
    assert receiver.seen[503] == 1  # the channel is left alone for a while, with all that waits for it
    world.look()
    assert receiver.seen[503] == 1
    receiver.mode = "ok"
    with alerts._file.step("default") as step:
        step.hold("webhook", 0)
    world.look()
    assert [json.loads(body)["id"] for _, _, body in receiver.taken] == [alert.id for alert in told]
    assert all(each.done_us for _, each_told in alerts.history() for each in each_told)
    assert len(told) == 2


def test_a_channel_that_hangs_holds_up_no_other(receiver: Receiver) -> None:
    receiver.mode = "hang"
    world, told = World(), list[Alert]()
    alerts = Alerts(world.budget.engine, ["session > $5 in 10m"], [f"webhook+{receiver.url}/", told.append])
    world.alerts, world.place = alerts, alerts.resume("default", 0)
    world.spend("6", session="s1")
    alerts._teller.wait = lambda seconds: None  # type: ignore[method-assign]  # not for the one that hangs
    world.look()
    end = time.monotonic() + 30
    while not told:
        assert time.monotonic() < end
        time.sleep(0.01)
    receiver.released.set()


def test_a_function_that_raises_gets_it_again() -> None:
    world, told = World(), list[Alert]()

    def function(alert: Alert) -> None:
        told.append(alert)
        if len(told) == 1:
            raise ValueError("a secret")

    world.alerts = alerts = Alerts(world.budget.engine, ["session > $5 in 10m"], [function])
    world.place = alerts.resume("default", 0)
    world.spend("6", session="s1")
    world.look()
    ((_, (first,)),) = alerts.history()
    assert (first.done_us, first.error) == (None, "the function raised ValueError")
    with alerts._file.step("default") as step:
        step.hold(first.channel, 0)
    world.look()
    assert len(told) == 2
    assert told[0].id == told[1].id


@pytest.mark.parametrize(
    "text",
    ["slack:NOT_SET", "webhook:", "pager:me", "email:nobody", "email:a@b.c?host=h", "email:a@b.c?host=h&from=x&port=no",
     "webhook+ftp://x/", "webhook+http://h/?secret_env=NOT_SET", "email:a@b.c?host=h&from=x&why=1"],
)  # fmt: skip
def test_what_is_no_channel_is_said_before_anything_is_opened(text: str) -> None:
    with pytest.raises(ConfigError):
        make_channel(text)


@pytest.mark.parametrize("secret", ["https://hooks.slack.com/services/T0/B0/SECRET", "ghp_Secret123", "hunter2", "A B"])
@pytest.mark.parametrize("form", ["slack:{}", "webhook+http://h/?secret_env={}",
                                  "email:a@b.c?host=h&from=x&password_env={}"])  # fmt: skip
def test_a_secret_in_the_place_of_its_variable_is_not_shown(form: str, secret: str) -> None:
    with pytest.raises(ConfigError, match="alert_to: no environment variable is called") as failed:
        make_channel(form.format(secret))
    assert not any(part in str(failed.value) for part in (secret, secret[:8], secret[-6:]))


def test_a_variable_may_have_any_name_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("slack.url", "https://hooks.slack.com/services/T0/B0/SECRET")
    assert make_channel("slack:slack.url").name == "slack"
    with pytest.raises(ConfigError, match=r"^alert_to: the environment variable SLACK_WEBHOOK_URL is not set$"):
        make_channel("slack:SLACK_WEBHOOK_URL")


def test_channels_are_a_list_with_names_of_their_own() -> None:
    with pytest.raises(ConfigError, match="name"):
        make_channels(["log", "log"])
    for wrong in ("log", None, [3]):
        with pytest.raises(ArgumentTypeError, match="alert_to"):
            make_channels(wrong)


def test_a_password_does_not_go_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_PASSWORD", "pass")
    with pytest.raises(ConfigError, match="in the clear"):
        make_channel("email:a@b.c?host=h&from=x@y&tls=no&password_env=SMTP_PASSWORD")
