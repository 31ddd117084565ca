"""Channels: where warnings are told. Each is a small class with a `name` and `send`, or a function of the caller's.

    log                                                             the logger `budget.alerts`
    webhook+https://ops.example.com/hook?secret_env=HOOK_SECRET     JSON, signed
    slack:SLACK_WEBHOOK_URL                                         the variable with the URL of an incoming webhook
    email:ops@example.com?host=smtp.example.com&from=budget@example.com&user=budget&password_env=SMTP_PASSWORD

A channel that could not take a warning raises `SinkFailed`, and gets it again. So a warning may come twice, with the
same id: as `Idempotency-Key` of a webhook, as `Message-ID` of an email.
"""

from __future__ import annotations

import json
import logging
import re
import smtplib
import ssl
import time
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from typing import Any, Protocol
from urllib.parse import parse_qsl

from budget.alerts.alert import Alert
from budget.errors import ArgumentTypeError, ConfigError
from budget.sinks.base import SinkFailed, Spec
from budget.sinks.http import Poster
from budget.sinks.webhook import secret_of, sign

__all__ = ["Channel", "Email", "Function", "Log", "Slack", "Webhook", "make_channel", "make_channels"]

_TIMEOUT = 10.0
_log = logging.getLogger("budget.alerts")


class Channel(Protocol):
    """Something that takes warnings.

    Attributes:
        name: What it is called in the history; its warnings wait under this name.
    """

    @property
    def name(self) -> str:
        """See above."""

    def send(self, alert: Alert) -> None:
        """Tell a warning; it counts as told when this returns.

        Raises:
            SinkFailed: It was not, or nobody knows.
        """


class Log:
    """The logger `budget.alerts`."""

    name = "log"

    def send(self, alert: Alert) -> None:
        """Log a warning."""
        _log.warning("%s", alert)


class Function:
    """A function of the caller's. What it raises means that it did not take the warning."""

    def __init__(self, function: Callable[[Alert], Any]):
        self.name = f"function {getattr(function, '__qualname__', type(function).__qualname__)}"
        self._function = function

    def send(self, alert: Alert) -> None:
        """Call it."""
        try:
            self._function(alert)
        except Exception as error:
            _log.exception("the function given in alert_to= failed")
            raise SinkFailed(f"the function raised {type(error).__name__}") from error


class Webhook:
    """A URL that a warning is posted to as JSON, signed as the sink of that name signs (`budget.sinks.webhook`)."""

    def __init__(self, url: str, secret_env: str | None = None, name: str = "webhook"):
        self.name, self._poster, self._secret_env = name, Poster(url, _TIMEOUT), secret_env
        secret_of(secret_env)

    @classmethod
    def of(cls, spec: Spec) -> Webhook:
        """Make one from text; options that are not ours belong to the URL."""
        name, secret_env = spec.name(), spec.take("secret_env", "")
        return cls(spec.url(), secret_env or None, name)

    def send(self, alert: Alert) -> None:
        """Post a warning."""
        body = json.dumps(alert.to_dict(), separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "budget-engine", "Idempotency-Key": alert.id}
        if self._secret_env is not None:
            headers |= sign(body, secret_of(self._secret_env) or "", int(time.time()))
        _post(self._poster, body, headers)


class Slack:
    """An incoming webhook of Slack. Its URL is a secret, so that an environment variable has it.

    The body is the `text` of https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks (2026-11-22), in
    which "&", "<" and ">" are escaped, so that no user's name becomes a link or a mention.
    """

    def __init__(self, url_env: str, name: str = "slack"):
        self.name, self._poster = name, Poster(secret_of(url_env) or "", _TIMEOUT)

    @classmethod
    def of(cls, spec: Spec) -> Slack:
        """Make one from text."""
        name = spec.name()
        spec.done()
        return cls(spec.target, name)

    def send(self, alert: Alert) -> None:
        """Post a warning."""
        text = str(alert).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        body = json.dumps({"text": f":warning: {text}"}).encode()
        _post(self._poster, body, {"Content-Type": "application/json", "User-Agent": "budget-engine"})


class Email:
    """A mail by SMTP with STARTTLS.

    Args:
        to: Who gets it.
        host, port: The server. Without `tls` the mail goes in the clear: for a relay on this machine alone.
        sender: From whom.
        user, password_env: How to log in, if need be; the environment variable has the password.
    """

    def __init__(
        self, to: str, host: str, sender: str, *, port: int = 587, user: str = "", password_env: str | None = None,
        tls: bool = True, name: str = "email",
    ):  # fmt: skip
        if password_env is not None and not tls:
            raise ConfigError("alert_to: a password does not go in the clear; leave tls=no out")
        self.name, self._to, self._host, self._port, self._from = name, to, host, port, sender
        self._user, self._password_env, self._tls = user, password_env, tls
        secret_of(password_env)

    @classmethod
    def of(cls, spec: Spec) -> Email:
        """Make one from text."""
        name, host, sender = spec.name(), spec.take("host", ""), spec.take("from", "")
        if "@" not in spec.target or not host or not sender:
            raise ConfigError("alert_to: write email:WHO@example.com?host=SMTP-SERVER&from=SENDER@example.com")
        port, tls = spec.take("port", "587"), spec.take("tls", "yes")
        if not (port.isdecimal() and 0 < int(port) < 65536) or tls not in ("yes", "no"):
            raise ConfigError("alert_to: of an email, port is a number and tls is yes or no")
        user, password_env = spec.take("user", ""), spec.take("password_env", "") or None
        spec.done()
        return cls(spec.target, host, sender, port=int(port), user=user, password_env=password_env, tls=tls == "yes",
                   name=name)  # fmt: skip

    def send(self, alert: Alert) -> None:
        """Mail a warning."""
        mail = EmailMessage()
        mail["Subject"] = "budget: " + " ".join(alert.text.split())[:150]
        mail["From"], mail["To"] = self._from, self._to
        mail["Message-ID"] = f"<{alert.id}@{self._from.rpartition('@')[2].rstrip('>')}>"
        mail.set_content(f"{alert}\n\n{json.dumps(alert.to_dict(), indent=2)}\n")
        try:
            with smtplib.SMTP(self._host, self._port, timeout=_TIMEOUT) as server:
                if self._tls:
                    server.starttls(context=ssl.create_default_context())
                if self._password_env is not None:
                    server.login(self._user or self._from, secret_of(self._password_env) or "")
                server.send_message(mail)
        except (OSError, smtplib.SMTPException) as error:
            code = getattr(error, "smtp_code", None)
            said = f"answered {code}" if code else f"cannot be talked to: {type(error).__name__}"
            raise SinkFailed(f"{self._host} {said}", permanent=bool(code and code >= 500)) from error


def _post(poster: Poster, body: bytes, headers: Mapping[str, str]) -> None:
    """Post over a connection of its own: warnings are rare, and a kept one would be closed before the next."""
    try:
        poster.post(body, headers)
    finally:
        poster.close()


_KINDS: dict[str, Any] = {"webhook": Webhook, "slack": Slack, "email": Email}


def make_channel(what: object) -> Channel:
    """Make a channel from text or a function; one that is a channel already is returned.

    Raises:
        ConfigError, ArgumentTypeError: It cannot be made; nothing was opened.
    """
    if isinstance(what, str):
        return Log() if what == "log" else _of_text(what)
    if callable(getattr(what, "send", None)) and isinstance(getattr(what, "name", None), str):
        made: Channel = what  # type: ignore[assignment]
        return made
    if callable(what):
        return Function(what)
    kind = type(what).__name__
    raise ArgumentTypeError(f"alert_to: {kind} is neither a text such as 'log', a function nor a channel")


def _of_text(text: str) -> Channel:
    match = re.match(r"([a-z]+)[:+](.+)", text)
    if match is None or match[1] not in _KINDS:
        known = "log, webhook+https://..., slack:VARIABLE, email:WHO@example.com?host=...&from=..."
        raise ConfigError(f"alert_to: {text.partition(':')[0][:20]!r} is not a channel; known are {known}")
    target, _, query = match[2].partition("?")
    spec = Spec(match[1], target, dict(parse_qsl(query, keep_blank_values=True)))
    try:
        made: Channel = _KINDS[match[1]].of(spec)
    except ConfigError as error:  # of what sinks use too, which does not know whose it is
        raise ConfigError(f"alert_to: {str(error).removeprefix('sinks: ').removeprefix('alert_to: ')}") from None
    return made


def make_channels(whats: object) -> list[Channel]:
    """Make several, whose names must differ.

    Raises:
        ConfigError, ArgumentTypeError: One cannot be made.
    """
    if isinstance(whats, str) or not isinstance(whats, list | tuple):
        raise ArgumentTypeError("alert_to: a list is needed, such as ['log', 'slack:SLACK_WEBHOOK_URL']")
    made = [make_channel(what) for what in whats]
    names = [channel.name for channel in made]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"alert_to: two have the name {name!r}, and so would share what waits; add ?name=OTHER")
    return made
