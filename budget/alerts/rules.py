"""Which rules there are, and how they are made from text."""

from __future__ import annotations

from collections.abc import Sequence

from budget.alerts.amounts import Hour, Request, Spree
from budget.alerts.cache import Cache
from budget.alerts.drift import Drift
from budget.alerts.pools import Burn, Exhaustion, Share
from budget.alerts.prices import Stale, Unpriced
from budget.alerts.rule import Rule
from budget.alerts.trouble import Trouble
from budget.errors import ArgumentTypeError, ConfigError

__all__ = ["DEFAULT", "KINDS", "make_rule", "make_rules"]

KINDS: tuple[type[Rule], ...] = (Share, Burn, Exhaustion, Spree, Hour, Request, Cache, Drift, Unpriced, Stale, Trouble)
DEFAULT = (
    "limit at 50% 75% 90% 100%", "exhausted before reset", "user hour > 10x usual over $1", "drift in 1d", "unpriced",
    "stale prices", "store trouble",
)  # fmt: skip
"""What "default" stands for: rules that need no figure of the operator's."""


def make_rule(text: object) -> Rule:
    """Make a rule from text; one that is a rule already is returned.

    Raises:
        ConfigError, ArgumentTypeError: It is none.
    """
    if isinstance(text, Rule):
        return text
    if not isinstance(text, str):
        raise ArgumentTypeError(f"alerts: {type(text).__name__} is neither a rule nor its text")
    plain = " ".join(text.split())
    for kind in KINDS:
        made = kind.of(plain)
        if made is not None:
            return made
    forms = "; ".join(kind.form for kind in KINDS)
    raise ConfigError(f"alerts: {text[:60]!r} is no rule; rules are written like these: default; {forms}")


def make_rules(texts: object) -> list[Rule]:
    """Make several; each counts once.

    Raises:
        ConfigError, ArgumentTypeError: One is none.
    """
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise ArgumentTypeError("alerts: a list is needed, such as ['default', 'session > $5 in 10m']")
    given = [each for text in texts for each in (DEFAULT if text == "default" else (text,))]
    return list({rule.text: rule for rule in map(make_rule, given)}.values())
