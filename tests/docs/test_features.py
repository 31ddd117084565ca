"""What docs/features.md names exists: commands and their options, Python names and their parameters, limits, files."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest

import budget
from budget import Limit
from budget.alerts import make_rule
from budget.cli import main
from budget.errors import ConfigError
from budget.sinks.base import Spec

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "features.md").read_text()
SOURCE = "\n".join(path.read_text() for path in (ROOT / "budget").rglob("*.py"))
SPANS = sorted(set(re.findall(r"`([^`\n]+)`", PAGE)))
NAME = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*)(?:\(([\w=, ]+)\))?")


def is_command(text: str) -> bool:
    """Whether a text is a command line whose commands and options exist."""
    if not text.startswith("budget "):
        return False
    found: Any = main
    words = shlex.split(text)[1:]
    while words and isinstance(found, click.Group):
        found = found.get_command(click.Context(found), words.pop(0))
        if found is None:
            return False
    options = {name for param in found.params for name in param.opts}
    return all(word.split("=")[0] in options for word in words if word.startswith("-"))


def is_name(text: str) -> bool:
    """Whether a text is a public name, a method of one, or a call of it with parameters that it has."""
    match = NAME.fullmatch(text)
    if match is None:
        return False
    try:
        found = resolve(match[1])
    except (AttributeError, ModuleNotFoundError):
        return False
    taken = inspect.signature(found).parameters if match[2] else {}
    given = [part.strip().removesuffix("=") for part in (match[2] or "").split(",") if part.strip()]
    return all(name in taken or "attributes" in taken for name in given)


def resolve(path: str) -> Any:
    first, *rest = path.split(".")
    found: Any = budget if first == "budget" else getattr(budget, first)
    for name in rest:
        if inspect.isclass(found) and re.search(rf"^ +(\w+, )*{name}(, \w+)*:", found.__doc__ or "", re.M):
            return found  # an attribute of its instances
        try:
            found = getattr(found, name)
        except AttributeError:
            found = import_module(f"{found.__name__}.{name}")
    return found


def made(make: Callable[[str], object]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            make(text)
        except ConfigError:
            return False
        return True

    return check


def is_sink(text: str) -> bool:
    from budget.sinks import _KINDS

    return ":" in text and made(Spec.of)(text) and Spec.of(text).kind in _KINDS


def is_word(text: str) -> bool:
    """Whether a text is a variable, a keyword of a call, or an option that the source has; or what a cell shows."""
    return bool(re.fullmatch(r"BUDGET_\w+|budget_\w+|--[a-z-]+|\(none\)|per=user", text)) and text in SOURCE


CHECKS: tuple[Callable[[str], bool], ...] = (
    is_command, is_name, made(Limit), made(make_rule), is_sink, is_word, lambda text: (ROOT / text).is_file(),
)  # fmt: skip


@pytest.mark.parametrize("span", SPANS)
def test_what_the_page_names_exists(span: str) -> None:
    assert any(check(span) for check in CHECKS), span


def test_the_checks_can_fail() -> None:
    for wrong in (
        "budget repport", "budget report --buy user", "budget ledger burn", "Budget.wrapp", "Budget(stroe=)",
        "budget.testing.Clok", "Budget.reserve.x", "$5/dya", "session < $5", "jsnol:/x", "BUDGET_STROE",
        "deploy/x.yaml",
    ):  # fmt: skip
        assert not any(check(wrong) for check in CHECKS), wrong
    assert len(SPANS) > 100
