"""What `budget watch` shows on a terminal: pools, the fullest first, and the last events below."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from budget.cli.feed import HOUR, Event, Feed
from budget.cli.output import safe, scope_text
from budget.money import show_usd
from budget.overview import load_policy
from budget.window import SECOND, at_zone, instant

if TYPE_CHECKING:
    from budget.engine import Budget
    from budget.pools import Pool

__all__ = ["Now", "Screen", "draw", "look"]

_KEPT = 200  # events: more lines has no terminal
_LEAST = 3  # pools that come before events where a terminal is low
_STYLES = {"refused": "red", "would refuse": "yellow", "policy": "cyan", "not billed": "dim", "corrected": "dim"}
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


class Now(NamedTuple):
    """What is so at one moment: time (microseconds since the epoch), what was spent in the last minute and hour and is
    reserved by how many open reservations (nano-dollars), pools, who is frozen, the last events."""

    at_us: int
    minute: int
    hour: int
    reserved: int
    open: int
    pools: Sequence[Pool]
    frozen: Sequence[str]
    events: Sequence[Event]


class Screen:
    """The screen of a terminal; what was there comes back when the block ends."""

    past = HOUR

    def __init__(self, budget: Budget, attributes: Mapping[str, str]):
        self._budget, self._attributes = budget, attributes
        self._events: deque[Event] = deque(maxlen=_KEPT)
        self._now: Now | None = None
        self._console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
        self._live = Live(console=self._console, screen=True, auto_refresh=False)
        account = f"account {budget.settings.account}"
        self._title = f"{account}, {scope_text(attributes)}" if attributes else account

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, feed: Feed, events: Sequence[Event]) -> None:
        """Draw everything anew."""
        self._events.extend(events)
        self._now = look(self._budget, self._attributes, feed, self._events)
        self._draw("")

    def trouble(self, text: str) -> None:
        """Say what is wrong above what was known last."""
        self._draw(text)

    def _draw(self, trouble: str) -> None:
        now = self._now or Now(self._budget.engine.verbs.now(), 0, 0, 0, 0, (), (), ())
        self._live.update(draw(self._console, self._title, now, trouble), refresh=True)


def look(budget: Budget, attributes: Mapping[str, str], feed: Feed, events: Sequence[Event]) -> Now:
    """Ask what is so now of calls with some attributes."""
    engine, wanted = budget.engine, attributes.items()
    held = [each for each in engine.store.reservations(engine.settings.account) if wanted <= each.scope.items()]
    frozen = [scope_text(subject) or "everybody" for subject in load_policy(engine).freezes]
    reserved, at_us = sum(each.amounts[0] or 0 for each in held), engine.verbs.now()
    minute, hour = feed.spent(at_us, 60), feed.spent(at_us, HOUR)
    return Now(at_us, minute, hour, reserved, len(held), budget.status(**attributes), frozen, events)


def draw(console: Console, title: str, now: Now, trouble: str = "") -> Group:
    """Lay out what is so now for the size of a terminal."""
    head = [_line(f"{safe(title)}  {at_zone(now.at_us):%Y-%m-%d %H:%M:%S} UTC", "bold"), _line(_figures(now))]
    head += [_line(f"FROZEN: {safe(', '.join(now.frozen))}", "bold red")] if now.frozen else []
    head += [_line(safe(trouble), "bold red")] if trouble else []
    room = console.height - len(head) - 4  # two blank lines, two headers
    pools = sorted(now.pools, key=_fullness, reverse=True)
    fit = max(0, min(room, max(_LEAST, room // 2)))
    most = len(pools) if len(pools) <= fit else max(0, fit - 1)
    more = [_line(f"and {len(pools) - most} pools that are emptier", "dim")] if len(pools) > most else []
    lines = max(0, room - most - len(more))
    events = list(now.events)[-lines:][::-1] if lines else []
    return Group(*head, Text(), _pools(console, pools[:most], now.at_us), *more, Text(), _events(console, events))


def _figures(now: Now) -> str:
    return (
        f"last minute {_money(now.minute)}, last hour {_money(now.hour)}; "
        f"{now.open:,} calls under way, {_money(now.reserved)} reserved"
    )


def _fullness(pool: Pool) -> Decimal:
    whole = Decimal(pool.limit.amount)
    return (pool.spent + pool.reserved) / whole if whole else Decimal(1)


def _pools(console: Console, pools: Sequence[Pool], now_us: int) -> Table:
    glyphs = "#=." if console.options.ascii_only else "█▒░"
    width = max(12, min(60, console.width * 11 // 20 - 28))  # 16 of 80 columns, 60 of 160
    drawn = f"{glyphs[0]} spent {glyphs[1]} reserved"
    shown = _table(("pool", "left", 1), (drawn if len(drawn) <= width else "used", "left", 0),
                   *((name, "right", 0) for name in ("spent", "reserved", "available", "resets in")))  # fmt: skip
    for pool in pools:
        account = f"{pool.account}: " if pool.account else ""
        mode = "" if pool.limit.mode == "enforce" else f" ({pool.limit.mode})"
        figures = [_text(_amount(value)) for value in (pool.spent, pool.reserved, pool.available)]
        name = " ".join(part for part in (account, str(pool.subject), f"{pool.limit.rule}{mode}") if part)
        resets = "-" if pool.resets_at is None else _span((instant(pool.resets_at) - now_us) // SECOND)
        shown.add_row(_text(name), _bar(pool, width, glyphs), *figures, _text(resets))
    return shown


def _bar(pool: Pool, width: int, glyphs: str) -> Text:
    """Draw how much is spent and reserved; what is not zero has a letter at least."""
    whole = pool.limit.amount
    if not whole:
        return Text("-")
    spent = min(width, max(int(pool.spent * width / whole), pool.spent > 0))
    held = min(width - spent, max(int(pool.reserved * width / whole), pool.reserved > 0))
    style = "red" if pool.available <= 0 else "yellow" if spent + held >= 0.8 * width else "green"
    return Text(glyphs[0] * spent + glyphs[1] * held + glyphs[2] * (width - spent - held), style, no_wrap=True)


def _events(console: Console, events: Sequence[Event]) -> Table:
    shown = _table(("time", "left", 0), ("user", "left", 2), ("agent", "left", 2), ("model", "left", 3),
                   ("usd", "right", 0), ("outcome", "left", 4))  # fmt: skip
    for event in events:
        style = _STYLES.get(event.what, "" if event.outcome == "ok" else "yellow")
        told = event.outcome if event.what == "call" else f"{event.what}: {event.outcome}"
        names = (event.scope.get("user"), event.scope.get("agent"), event.model)
        money = "-" if event.what in ("refused", "would refuse", "policy") else _money(event.nanos)
        cells = (f"{at_zone(event.at_us):%H:%M:%S}", *(name or "-" for name in names), money, told)
        shown.add_row(*(_text(cell, style) for cell in cells))
    return shown


def _table(*columns: tuple[str, str, int]) -> Table:
    """Make a table of one line per row; a column with a ratio takes its share of the room that others leave."""
    made = Table(box=None, expand=True, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name, justify, ratio in columns:
        made.add_column(
            name, justify=justify, ratio=ratio or None, no_wrap=True, overflow="ellipsis"  # type: ignore[arg-type]
        )  # fmt: skip
    return made


def _text(text: str, style: str = "") -> Text:
    return Text(safe(text), style, no_wrap=True, overflow="ellipsis")


def _line(text: str, style: str = "") -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def _amount(value: Decimal | int) -> str:
    return _money(int(value.scaleb(9))) if isinstance(value, Decimal) else f"{value:,}"


def _money(nanos: int) -> str:
    """Write money in few letters: cents from a dollar on, else two digits that are not zero, rounded down."""
    size = len(str(abs(nanos)))
    step = 10 ** (7 if size > 9 else max(0, size - 2))
    return show_usd(nanos // step * step if nanos >= 0 else -(-nanos // step * step))


def _span(seconds: int) -> str:
    """Write a time to come, in the largest unit that there are two of."""
    return next((f"{seconds // size} {unit}" for size, unit in _UNITS if seconds >= 2 * size), "1 s")
