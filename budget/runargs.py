"""From the arguments of `Budget.run` to a run inside the current one."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING

from budget.errors import ArgumentTypeError, ConfigError
from budget.limits import Limit, check_attributes
from budget.loops import read_loop
from budget.money import MAX, format_usd
from budget.run import HEADER, Run, current, read_run
from budget.short import parse_short

if TYPE_CHECKING:
    from budget.verbs import Verbs

__all__ = ["make_run", "run_from_headers"]

_MOST = {"usd": f"${format_usd(MAX)}", "requests": f"{MAX} requests"}
"""Only a pool is counted over all processes: one of the largest amount that there is counts, and refuses nothing."""
_ROLLING = {"minute": "60s rolling", "hour": "3600s rolling"}
"""What a velocity's window means: always the last minute, not the one on the clock."""


def make_run(
    verbs: Verbs, limit: object, *, cap: object, max_calls: int | None, deadline: float | None, loop: object,
    velocity: object, on_short: str | None, id: str | None, attributes: Mapping[str, str], counted: bool = False,
) -> Run:  # fmt: skip
    """Make a run inside the current one; see `Budget.run`.

    Args:
        counted: Have its money and its calls counted over all processes, also where they are not limited.

    Raises:
        ConfigError, ArgumentTypeError: An argument cannot be used.
    """
    check_attributes(attributes)
    if "run" in attributes:
        raise ConfigError("run: an attribute of this name is the run's id; use id=")
    parent = current()
    name = verbs.new_id() if id is None else check_attributes({"run": id})["run"]
    limits = []
    if limit is not None:
        limits.append(_rule(limit, "run", "limit", name))
    if cap is not None:
        limits.append(_rule(cap, "request", "cap", name))
    if max_calls is not None:
        limits.append(_limit(f"{_calls(max_calls)} requests/run", "max_calls", name))
    if counted:
        limited = {each.unit for each in limits if each.window.kind == "run"}
        limits += [Limit(f"{most}/run", run=name) for unit, most in _MOST.items() if unit not in limited]
    if velocity is not None:
        limits.append(_velocity(velocity, name))
    over = None if deadline is None else verbs.now() / 1e6 + _seconds(deadline)
    rule = None if loop is None else read_loop(loop)
    if on_short is not None:
        parse_short(on_short, "on_short")
    scope = {**(parent.scope if parent else {}), **attributes}
    return Run(verbs, name, scope, parent, limits, over, rule, on_short or "")


def run_from_headers(verbs: Verbs, headers: Mapping[str, str]) -> Run:
    """Continue a run of another process.

    Raises:
        ArgumentTypeError: They are no mapping of names to texts.
        ConfigError: The headers carry no run, or one that was damaged.
    """
    if not isinstance(headers, Mapping):
        raise ArgumentTypeError(f"headers: {type(headers).__name__} is not a mapping of names to texts")
    text = next((value for name, value in headers.items() if isinstance(name, str) and name.lower() == HEADER), None)
    if text is None:
        raise ConfigError(f"headers: there is no {HEADER}")
    if not isinstance(text, str):
        raise ArgumentTypeError(f"headers: {HEADER}: {type(text).__name__} is not a text")
    return read_run(verbs, text, f"headers: {HEADER}")


def _calls(max_calls: object) -> int:
    if type(max_calls) is not int:
        raise ArgumentTypeError(f"max_calls: {type(max_calls).__name__} is not an int")
    if max_calls < 1:
        raise ConfigError(f"max_calls: {max_calls} is not at least 1")
    return max_calls


def _seconds(deadline: object) -> float:
    if isinstance(deadline, bool) or not isinstance(deadline, int | float):
        raise ArgumentTypeError(f"deadline: {type(deadline).__name__} is not a number of seconds")
    if not 0 < deadline < 10**9:
        raise ConfigError(f"deadline: {deadline!r} is not a positive number of seconds")
    return deadline


def _velocity(value: object, run: str) -> Limit:
    """Read how much of a unit a run may use in a time, which becomes a rolling limit of the run's own."""
    if not isinstance(value, str):
        raise ArgumentTypeError(f"velocity: {type(value).__name__} is not a text such as '$1/minute'")
    amount, _, window = value.rpartition("/")
    limit = _limit(f"{amount}/{_ROLLING.get(window.strip(), window)}" if amount else value, "velocity", run)
    if limit.window.kind != "rolling":
        raise ConfigError(f"velocity: {value[:80]!r} is no amount in a time, such as '$1/minute' or '$5/10m rolling'")
    return _alone(limit, "velocity", value)


def _rule(value: object, window: str, name: str, run: str) -> Limit:
    """Read a run's limit or cap: an amount, whose window goes without saying."""
    if isinstance(value, Decimal):
        value = f"${value:f}"
    if not isinstance(value, str):
        raise ArgumentTypeError(f"{name}: {type(value).__name__} is not a text such as '$2'")
    if value.strip().endswith(" concurrent"):
        raise ConfigError(f"{name}: {value!r}: calls at once belong to no {window}; set a limit with per='run'")
    limit = _limit(value if "/" in value else f"{value}/{window}", name, run)
    if limit.window.kind != window:
        raise ConfigError(f"{name}: {value!r} has another window; here it is one {window}, so write '$2'")
    return _alone(limit, name, value)


def _limit(text: str, name: str, run: str) -> Limit:
    """Read a limit of a run; an error names the argument that it is."""
    try:
        return Limit(text, run=run)
    except ConfigError as error:
        raise ConfigError(f"{name}: {str(error).removeprefix('limit: ')}") from None


def _alone(limit: Limit, name: str, value: str) -> Limit:
    if limit.per is not None or len(limit.selector) != 1:
        raise ConfigError(f"{name}: {value!r} must be an amount alone")
    return limit
