"""Sinks: what becomes of calls is told to the outside, in the background, from the ledger.

`base.py` says what a sink is, `feed.py` tells one what the ledger has, `runner.py` does so in the background,
`places.py` keeps how far each has come, and each kind is one small file. A sink is given as text or as an object:

    jsonl:/var/log/calls.jsonl?rotate=100MB&keep=10
    arc+http://arc:8000/llm_costs?token_env=ARC_TOKEN
    webhook+https://example.com/calls?secret_env=CALLS_SECRET
    postgresql://writer@db/costs?table=calls
    parquet:/var/lib/calls
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from budget.errors import ArgumentTypeError, ConfigError
from budget.sinks.base import Batch, Batching, Resuming, Sink, SinkFailed, Spec, Ticking, check_name

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Batch", "Batching", "Resuming", "Sink", "SinkFailed", "Spec", "Ticking", "make_sink", "make_sinks"]

_KINDS = {
    "jsonl": "jsonl:JsonLines",
    "arc": "arc:Arc",
    "webhook": "webhook:Webhook",
    "postgresql": "postgres:Postgres",
    "parquet": "parquet:Parquet",
    "prometheus": "prometheus:Prometheus",
    "otel": "otel:OpenTelemetry",
}
"""Where each kind is: a module here, and the class in it, whose `of(spec)` makes a sink from text."""


def make_sink(what: str | Sink) -> Sink:
    """Make a sink from text; one that is a sink already is returned.

    Raises:
        ConfigError, ArgumentTypeError: It cannot be made; nothing was opened.
    """
    if not isinstance(what, str):
        if not all(callable(getattr(what, name, None)) for name in ("write", "close")):
            raise ArgumentTypeError(f"sinks: {type(what).__name__} is neither a text such as 'jsonl:/path' nor a sink")
        check_name(getattr(what, "name", None))
        return what
    spec = Spec.of(what)
    if spec.kind not in _KINDS:
        raise ConfigError(f"sinks: {spec.kind!r} is not a kind of sink; known are {', '.join(sorted(_KINDS))}")
    module, _, name = _KINDS[spec.kind].partition(":")
    try:
        made: Sink = getattr(import_module(f"budget.sinks.{module}"), name).of(spec)
    except ConfigError as error:  # of what channels of warnings use too, which does not know whose it is
        raise ConfigError(f"sinks: {str(error).removeprefix('sinks: ')}") from None
    return made


def make_sinks(whats: Iterable[str | Sink]) -> list[Sink]:
    """Make several, whose names must differ.

    Raises:
        ConfigError, ArgumentTypeError: One cannot be made.
    """
    made = [make_sink(what) for what in whats]
    names = [sink.name for sink in made]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"sinks: two have the name {name!r}, and so one place; give one of them ?name=OTHER")
    return made
