"""Limits: rules that say how much, of what, in which window, and whose calls they apply to.

Text form: `[attr=value ...] [per=attr] AMOUNT/WINDOW`, for instance `user=alice $5/day`, `per=user 2M tokens/hour`,
`$500/day`, `$0.25/request`, `$20/7d rolling`; or `8 concurrent`, so many calls at once, which has no window. A limit's
identity is its selector (the attributes and `per`), unit, window and mode; amount and options (time zone, start of the
window, end, roll-over, warnings, what is done when money runs short) are what setting it again replaces.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from budget.errors import ArgumentTypeError, ConfigError, UnknownModel
from budget.money import MAX, format_usd, parse_usd, to_decimal
from budget.short import short_text
from budget.window import Window, at_zone, check_starts, instant, zone

if TYPE_CHECKING:
    from budget.prices import PriceBook

__all__ = ["CONCURRENT", "MODES", "UNITS", "Limit", "check_attributes", "name_model"]

UNITS = ("usd", "tokens", "input_tokens", "output_tokens", "requests", "concurrent")
"""What a pool counts; `usd` in nano-dollars, the others one by one."""
CONCURRENT = UNITS.index("concurrent")
"""The unit that is only ever reserved: each call takes one slot, whatever it costs, and its end gives it back."""
MODES = ("enforce", "shadow")
"""Whether a limit refuses, or only says in the ledger what it would have refused."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_COUNT = re.compile(
    r"(\d{1,16}(?:\.\d{1,12})?)([kKMB]?) (tokens|input tokens|output tokens)|(\d{1,16}) (requests?)", re.ASCII
)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_SLOTS = re.compile(r"(\d{1,16}) concurrent", re.ASCII)
_PLAIN = re.compile(r"[ !#-&(-\[\]-~]*")  # nothing that a shell's rules of quoting are about; ten times as fast
_PERCENT = re.compile(r"([1-9]\d?|100)%", re.ASCII)
_SCALE = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9}
_GOOD_NAMES: set[str] = set()
_RESERVED_NAMES = frozenset({"per"})
_OPTIONS = frozenset({"mode", "tz", "starts", "until", "rollover", "warn", "on_short"})


@dataclass(frozen=True, init=False, slots=True)
class Limit:
    """A rule: an amount, a unit, a window, and whose calls it applies to.

    Attributes:
        selector: The attributes a call must have, sorted by name.
        per: The attribute of which each value has a pool of its own, or None.
        unit: usd, tokens, input_tokens, output_tokens, requests or concurrent.
        quantity: The amount as an int: nano-dollars, tokens, requests or calls at once.
        window: When `spent` starts again; lifetime for concurrent, of which nothing is ever spent.
        mode: "enforce", or "shadow": it never refuses.
        tz: The zone of a calendar window.
        starts: Where such windows begin: "06:00", "sunday", "15", "04-01"; "" for midnight, Monday, the first.
        rollover: The most that a window takes over from what the one before left unspent, nano-dollars.
        warn: At how many percent of it a warning is given, ascending.
        on_short: What a call may do instead of being refused by it (`budget.short`); "" for nothing.
        until_us: When it ends, microseconds since the epoch; 0 if it does not.
        source: Where it was set: "code", "file" or "store".
        created_us: When it was set, microseconds since the epoch; 0 if unknown.
    """

    selector: tuple[tuple[str, str], ...]
    per: str | None
    unit: str
    quantity: int
    window: Window
    mode: str
    tz: str
    starts: str
    rollover: int
    warn: tuple[int, ...]
    on_short: str
    until_us: int
    source: str = field(compare=False)
    created_us: int = field(compare=False)

    def __init__(
        self,
        text: str,
        /,
        *,
        per: str | None = None,
        tz: str | None = None,
        starts: str | int | None = None,
        mode: str = "enforce",
        rollover: str | Decimal | None = None,
        warn: str | Sequence[str] | None = None,
        on_short: str | None = None,
        until: datetime | None = None,
        **attributes: str,
    ) -> None:
        """Read a limit.

        Args:
            text: `AMOUNT/WINDOW` or "8 concurrent", with or without selectors before it: "$5/day",
                "per=user 100 requests/minute", "$20/7d rolling".
            per: Give each value of this attribute a pool of its own.
            tz: An IANA zone for a calendar window; UTC if not given.
            starts: Where windows begin: an hour for days (6 or "06:00"), a weekday for weeks ("sunday"), a day for
                months (15; the last day of a month that is shorter), a month and day for years ("04-01").
            mode: "enforce", or "shadow": it never refuses, and the ledger says what it would have refused.
            rollover: The most that a calendar window of money takes over from what the one before left unspent: "$2".
            warn: At how much of it a warning is given: "80%", or several such.
            on_short: What a call of a wrapped client may do instead of being refused: "clamp", "fallback:MODEL",
                "grow", "wait:30s", "ask" (see `budget.short`); several, separated by `;`, are tried in order.
            until: When it ends, aware.
            **attributes: What a call must have: `user="alice"`.

        Raises:
            ArgumentTypeError: An argument has a wrong type.
            ConfigError: An argument has a wrong value.
        """
        if not isinstance(text, str):
            raise ArgumentTypeError(f"limit: {type(text).__name__} is not a text such as '$5/day'")
        selector, written_per, rule = _split(text)
        per = per if written_per is None else _once(written_per, per, "per")
        for name, value in attributes.items():
            selector[name] = _once(value, selector.get(name), name)
        check_attributes(selector)
        if per is not None:
            _check_name(per)
            if per in selector:
                raise ConfigError(f"limit: {per}= and per={per} exclude one another")
        unit, quantity, window = _read_rule(rule)
        values = (
            tuple(sorted(selector.items())), per, unit, quantity, window, _check_mode(mode),
            _check_zone(tz, unit, window), "" if starts is None else check_starts(window, starts),
            0 if rollover is None else _check_rollover(rollover, unit, quantity, window),
            () if warn is None else _check_warn(warn, window), "" if on_short is None else short_text(on_short),
            0 if until is None else _check_until(until, tz or "UTC"), "code", 0,
        )  # fmt: skip
        for name, item in zip(self.__slots__, values, strict=True):
            object.__setattr__(self, name, item)

    def set_at(self, at_us: int) -> Limit:
        """Return the limit as set at an instant, unless it has one."""
        return self if self.created_us else self._with(created_us=at_us)

    def set_in(self, source: str, at_us: int = 0) -> Limit:
        """Return the limit as set in "code", "file" or "store", at an instant if that is known."""
        return self._with(source=source, created_us=at_us)

    def named(self, book: PriceBook) -> Limit:
        """Return it with the model called as the book does, which calls are too: see `name_model`."""
        given = dict(self.selector)
        return self._with(selector=tuple(sorted(name_model(book, given).items()))) if "model" in given else self

    def raised(self, by: int) -> Limit:
        """Return it with so much more in its unit, as a pool has it that was adjusted or takes something over."""
        return self._with(quantity=min(self.quantity + by, MAX)) if by else self

    def with_short(self, on_short: str) -> Limit:
        """Return it with what a call may do instead of being refused by it."""
        return self._with(on_short=on_short)

    def _with(self, **changes: Any) -> Limit:
        return _restore(*(changes.get(name, getattr(self, name)) for name in self.__slots__))

    @property
    def amount(self) -> Decimal | int:
        """The amount: Decimal USD, or int for other units."""
        return to_decimal(self.quantity) if self.unit == "usd" else self.quantity

    @property
    def identity(self) -> tuple[Any, ...]:
        """What makes it this limit and no other: selector, per, unit, window, mode."""
        return self.selector, self.per, self.unit, self.window.key, self.mode

    @property
    def until(self) -> datetime | None:
        """When it ends, in its zone, or None."""
        return at_zone(self.until_us, self.tz) if self.until_us else None

    @property
    def rule(self) -> str:
        """The amount and window as text: "$5/day", "8 concurrent"."""
        if self.unit == "concurrent":
            return f"{self.quantity} concurrent"
        what = (
            f"${format_usd(self.quantity)}" if self.unit == "usd" else f"{self.quantity} {self.unit.replace('_', ' ')}"
        )
        return f"{what}/{self.window}"

    @property
    def selector_text(self) -> str:
        """The selector as text: "user=alice", "per=user", "" for everybody."""
        parts = [shlex.quote(f"{name}={value}") for name, value in self.selector]
        return " ".join([*parts, *([f"per={self.per}"] if self.per else [])])

    @property
    def options(self) -> dict[str, Any]:
        """What neither text nor mode says: tz, starts, until, rollover, warn, on_short, where not the usual."""
        found = {
            "tz": self.tz if self.tz != "UTC" else "",
            "starts": self.starts,
            "until": self.until.isoformat() if self.until else "",
            "rollover": f"${format_usd(self.rollover)}" if self.rollover else "",
            "warn": [f"{percent}%" for percent in self.warn],
            "on_short": self.on_short,
        }
        return {name: value for name, value in found.items() if value}

    def __str__(self) -> str:
        return f"{self.selector_text} {self.rule}".lstrip()

    def __repr__(self) -> str:
        options = {**({"mode": self.mode} if self.mode != "enforce" else {}), **self.options}
        return f"Limit({', '.join([repr(str(self)), *(f'{name}={value!r}' for name, value in options.items())])})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, tuple(getattr(self, name) for name in self.__slots__)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form of `budget limits`."""
        return {
            "limit": str(self),
            "selector": self.selector_text,
            "unit": self.unit,
            "window": None if self.unit == "concurrent" else str(self.window),
            "mode": self.mode,
            "amount": format_usd(self.quantity) if self.unit == "usd" else self.quantity,
            "source": self.source,
            "options": self.options,
        }


def _restore(*values: Any) -> Limit:
    made = object.__new__(Limit)
    for name, item in zip(Limit.__slots__, values, strict=True):
        object.__setattr__(made, name, item)
    return made


def _check_mode(mode: object) -> str:
    if mode not in MODES:
        raise ConfigError(f"mode: {str(mode)[:20]!r} is not a mode; use 'enforce' or 'shadow'")
    return str(mode)


def _check_zone(tz: object, unit: str, window: Window) -> str:
    if tz is None:
        return "UTC"
    if not isinstance(tz, str):  # before `zone`, whose cache takes only what can be hashed
        raise ArgumentTypeError(f"tz: {type(tz).__name__} is not the name of a zone such as 'Europe/Berlin'")
    zone(tz)
    if not window.calendar:
        what = "a concurrency limit" if unit == "concurrent" else f"a window of one {window}"
        raise ConfigError(f"tz: {'a rolling window' if window.span else what} has no time zone")
    return tz


def _check_rollover(rollover: object, unit: str, quantity: int, window: Window) -> int:
    if unit != "usd" or not window.calendar:
        raise ConfigError("rollover: only money rolls over, and only from one calendar window to the next")
    most = parse_usd(rollover, "rollover")
    if most > quantity:
        raise ConfigError(f"rollover: ${format_usd(most)} is above the limit's ${format_usd(quantity)}")
    return most


def _check_warn(warn: str | Sequence[str], window: Window) -> tuple[int, ...]:
    if window.kind == "request":
        raise ConfigError("warn: a cap is about one request; there is no pool that fills")
    shares = [warn] if isinstance(warn, str) else warn
    if not isinstance(shares, Sequence) or not all(isinstance(share, str) for share in shares):
        raise ArgumentTypeError("warn: a share such as '80%' is needed, or a list of such")
    found = {share: _PERCENT.fullmatch(share) for share in shares}
    wrong = next((share for share, match in found.items() if match is None), None)
    if wrong is not None:
        raise ConfigError(f"warn: {wrong[:20]!r} is not a share of the limit in whole percent, such as '80%'")
    return tuple(sorted({int(match[1]) for match in found.values() if match is not None}))


def _check_until(until: object, tz: str) -> int:
    if not isinstance(until, datetime):
        raise ArgumentTypeError(f"until: {type(until).__name__} is not a datetime")
    if until.tzinfo is None:
        raise ConfigError("until: a datetime without a time zone is ambiguous; pass an aware one")
    try:
        for shown in ("UTC", tz):  # which are those that it is kept and shown in
            at_zone(instant(until), shown)
    except OverflowError:
        far = f"until: {until.isoformat()} has no date in {shown}"
        raise ConfigError(f"{far}; a limit without it does not end") from None
    return instant(until)


def check_attributes(attributes: Mapping[str, object]) -> dict[str, str]:
    """Check the attributes of a call or a selector, and return them.

    Raises:
        ArgumentTypeError: A value is not a string.
        ConfigError: A name is not an identifier, or a value is not 1 to 256 bytes of UTF-8 without control characters.
    """
    for name, value in attributes.items():
        if name not in _GOOD_NAMES:
            _check_name(name)
        if not isinstance(value, str):
            raise ArgumentTypeError(f"{name}: {type(value).__name__} is not a string of 1 to 256 bytes")
        if value.isascii() and value.isprintable() and 1 <= len(value) <= 256:
            continue  # what most are
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise ConfigError(f"{name}: the value is not valid UTF-8") from None
        if not 1 <= size <= 256:
            raise ConfigError(f"{name}: the value has {size} bytes; 1 to 256 are allowed")
        if _CONTROL.search(value):
            raise ConfigError(f"{name}: the value has a control character (a newline, say)")
    return dict(attributes)  # type: ignore[arg-type]


def name_model(book: PriceBook, attributes: Mapping[str, str]) -> dict[str, str]:
    """Return attributes with the model called as the book does; a name that it does not know stays.

    Calls are named so, whatever their agent sends. What is said of a snapshot or an alias is therefore said of the
    model, or it would be about no call at all. Without `provider` a name is its maker's, as everywhere in the book.
    """
    named = dict(attributes)
    if "model" in named:
        with suppress(UnknownModel, ConfigError):  # nobody sells it, or several do
            named["model"] = book.find(named["model"], named.get("provider")).id
    return named


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise ArgumentTypeError(f"attribute: {type(name).__name__} is not a name such as 'user'")
    if not _NAME.fullmatch(name) or name in _RESERVED_NAMES:
        raise ConfigError(f"attribute: {name[:40]!r} is not a name such as 'user' or 'team'")
    if len(_GOOD_NAMES) < 1000:
        _GOOD_NAMES.add(name)


def _split(text: str) -> tuple[dict[str, str], str | None, str]:
    try:
        words = text.split() if _PLAIN.fullmatch(text) else shlex.split(text)
    except ValueError:
        raise ConfigError(f"limit: {text[:80]!r} has an unbalanced quote") from None
    selector: dict[str, str] = {}
    per = None
    while words and "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        if name in _OPTIONS:  # taken for an attribute it would make a limit that applies to no call
            given = f"{name}= (--{name.replace('_', '-')})"
            raise ConfigError(f"limit: {name} is an option, no attribute of calls: give {given} beside the text")
        if name == "per":
            per = _once(value, per, "per")
        else:
            selector[name] = _once(value, selector.get(name), name)
    return selector, per, " ".join(words)


def _once(value: str, before: str | None, name: str) -> str:
    if before is not None and before != value:
        raise ConfigError(f"limit: {name} is given twice")
    return value


@lru_cache(maxsize=1024)  # many subjects have the same few rules
def _read_rule(rule: str) -> tuple[str, int, Window]:
    slots = _SLOTS.fullmatch(rule)
    if slots is not None:
        return "concurrent", _at_most_max(int(slots[1]), rule), Window("lifetime")
    amount, slash, window = rule.partition("/")
    if "concurrent" in amount:
        raise ConfigError(f"limit: {rule[:80]!r}: calls at once are a whole number without a window: '8 concurrent'")
    if not slash:
        raise ConfigError(f"limit: {rule[:80]!r} is not AMOUNT/WINDOW, such as '$5/day' or '2M tokens/hour'")
    parsed = Window.parse(window.strip())
    amount = amount.strip()
    if amount.startswith("$"):
        return "usd", parse_usd(amount, "limit"), parsed
    match = _COUNT.fullmatch(amount)
    if match is None:
        raise ConfigError(f"limit: {amount[:40]!r} is not an amount, such as '$5', '2M tokens' or '100 requests'")
    number, scale, unit, requests, _ = match.groups()
    count = Decimal(number or requests) * _SCALE[scale or ""]
    if count != int(count):
        raise ConfigError(f"limit: {amount!r} is not a whole number")
    return ("requests" if requests else unit.replace(" ", "_")), _at_most_max(int(count), amount), parsed


def _at_most_max(count: int, text: str) -> int:
    if count > MAX:
        raise ConfigError(f"limit: {text!r} is above {MAX}, the largest amount")
    return count
