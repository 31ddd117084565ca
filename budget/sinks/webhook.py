"""Webhook: `webhook+https://example.com/calls?secret_env=CALLS_SECRET`, a POST per batch.

The body is JSON: `account`, `first` and `last` (the numbers of the entries that it covers), and `records`, a list of
what `rows.line_of` makes of each change. Headers:

    Idempotency-Key: ACCOUNT:FIRST-LAST     the same when the same batch comes again
    Budget-Timestamp: 1700000000            seconds since the epoch, anew at each attempt
    Budget-Signature: v1=HEX                HMAC-SHA256 of "TIMESTAMP.BODY" with the secret, if there is one

Any answer of 2xx means that the batch was taken. A receiver that must have each record once keeps the ids (`id`, and
`seq` for what follows of a call), because after a crash of ours a batch may come again in other bounds.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import time

from budget.errors import ConfigError
from budget.sinks.base import Batch, Spec
from budget.sinks.http import Poster
from budget.sinks.rows import lines_of

__all__ = ["Webhook", "secret_of", "sign"]

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,79}", re.ASCII)
"""What is surely meant as a name. Lower case would be one too, but also many a password."""


class Webhook:
    """A URL that batches are posted to.

    Args:
        url: Where to.
        secret_env: The environment variable with the secret that bodies are signed with; None: unsigned.
        name: Of the sink.
    """

    def __init__(self, url: str, secret_env: str | None = None, name: str = "webhook"):
        self.name, self._poster, self._secret_env = name, Poster(url), secret_env
        secret_of(secret_env)

    @classmethod
    def of(cls, spec: Spec) -> Webhook:
        """Make one from text. Options that are not ours belong to the URL."""
        name, secret_env = spec.name(), spec.take("secret_env", "")
        return cls(spec.url(), secret_env or None, name)

    def write(self, batch: Batch) -> None:
        """Post a batch."""
        told = {"account": batch.account, "first": batch.first, "last": batch.last, "records": list(lines_of(batch))}
        body = json.dumps(told, separators=(",", ":")).encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "budget-engine",
            "Idempotency-Key": f"{batch.account}:{batch.first}-{batch.last}",
        }
        if self._secret_env is not None:
            headers |= sign(body, secret_of(self._secret_env) or "", int(time.time()))
        self._poster.post(body, headers)

    def close(self) -> None:
        """Let go of the connection."""
        self._poster.close()


def secret_of(variable: str | None) -> str | None:
    """Return the secret in an environment variable; None where none is named.

    Raises:
        ConfigError: The variable is not set. What does not look like the name of one is not shown: many a secret was
            written where its variable belongs.
    """
    if variable is None:
        return None
    if secret := os.environ.get(variable):
        return secret
    if _VARIABLE.fullmatch(variable):
        raise ConfigError(f"the environment variable {variable} is not set")
    raise ConfigError(
        "no environment variable is called what is written where the name of one belongs (it is not shown here, for it "
        "may be the secret itself): put the secret into a variable, and write its name, such as WEBHOOK_TOKEN"
    )


def sign(body: bytes, secret: str, timestamp: int) -> dict[str, str]:
    """Return the headers that say when a body was sent, and that its sender knows the secret.

    The timestamp is part of what is signed, so that a receiver can turn away what is old.
    """
    told = f"{timestamp}.".encode() + body
    return {
        "Budget-Timestamp": str(timestamp),
        "Budget-Signature": f"v1={hmac.new(secret.encode(), told, hashlib.sha256).hexdigest()}",
    }
