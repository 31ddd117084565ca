"""A warning, as it is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from budget.window import at_zone

__all__ = ["Alert", "alert_id"]


@dataclass(frozen=True, slots=True)
class Alert:
    """A warning.

    Attributes:
        id: 32 hex digits, the same whoever makes it: a receiver that has had this id has had this warning.
        account: Whose ledger it comes from.
        rule: The rule, as text.
        subject: Whom or what it is about: "user=alice", "$5/day (user=alice)", "agent=support model=claude-sonnet-5".
        window_us: When the window began for which it is given once, microseconds since the epoch.
        at_us: When what it is about happened, microseconds since the epoch.
        text: One sentence for people.
        figures: What the sentence says, as JSON types; money as decimal strings.
    """

    id: str
    account: str
    rule: str
    subject: str
    window_us: int
    at_us: int
    text: str
    figures: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "id": self.id,
            "account": self.account,
            "rule": self.rule,
            "subject": self.subject,
            "window": at_zone(self.window_us).isoformat(),
            "at": at_zone(self.at_us).isoformat(),
            "text": self.text,
            "figures": dict(self.figures),
        }

    def __str__(self) -> str:
        return self.text


def alert_id(account: str, rule: str, key: str, window_us: int, level: int) -> str:
    """Return the id of a warning: a hash of what it is given once for."""
    content = "\n".join((account, rule, key, str(window_us), str(level)))
    return blake2b(content.encode(), digest_size=16).hexdigest()
