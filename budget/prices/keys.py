"""Names for the rates of a row, so that two rows can be compared rate by rate.

A row is cards within tiers, modes and hours. Here it becomes one flat mapping: which rate, in which mode, above how
many input tokens. Two rows need not have the same cards, so `charged` answers for any name what a row charges there: a
tier or mode that it does not have costs what its next wider card says, a part what the bucket costs that it is a part
of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from budget.usage import PARTS

if TYPE_CHECKING:
    from budget.prices import Row

__all__ = ["RateKey", "charged", "lowered", "named_rates"]

_WRITE = "cache_write_"
_PART_OF = {**PARTS, "cache_read": "input"}


class RateKey(NamedTuple):
    """Which rate: its name, the mode (or hours) in which it holds, and above how many input tokens."""

    rate: str
    mode: str = ""
    over: int = 0

    @property
    def per_call(self) -> bool:
        """Whether it is a price per call or request, pico-dollars, and not per token."""
        return self.rate.startswith("per_")

    def __str__(self) -> str:
        return " ".join([self.rate, *([self.mode] if self.mode else []), *([f">{self.over}"] if self.over else [])])


def named_rates(row: Row) -> dict[RateKey, int]:
    """Return every rate of a row by its name, in pico-dollars per token, call or request; factors are left out."""
    found = dict(_named(row.rates.to_dict(), ""))
    for start, end, rates in row.hours:
        found |= _named(rates.to_dict(), f"{_clock(start)}-{_clock(end)}")
    return {key: picos for key, picos in found.items() if not _repeats(found, key)}


def charged(rates: Mapping[RateKey, int], key: RateKey) -> int | None:
    """Return what a row charges under a name, its own or another row's; None if it says nothing that covers it."""
    if key.per_call:
        return rates.get(key, rates.get(key._replace(mode="")))
    mode, over = next(
        ((mode, over) for mode in (key.mode, "") for over in (key.over, 0) if RateKey("input", mode, over) in rates),
        ("", 0),
    )
    card = {found.rate: picos for found, picos in rates.items() if (found.mode, found.over) == (mode, over)}
    rate: str | None = key.rate
    if key.rate.startswith(_WRITE) and key.rate not in card:
        rate = max((name for name in card if name.startswith(_WRITE)), key=lambda name: card[name], default="input")
    while rate is not None and rate not in card:
        rate = _PART_OF.get(rate)
    return None if rate is None else card[rate]


def lowered(rates: Mapping[RateKey, int], below: Mapping[RateKey, int]) -> Iterator[tuple[RateKey, int, int]]:
    """Iterate the rates that stand in both rows and are half or less of what they are below: name, there, here."""
    for key, there in below.items():
        here = rates.get(key)
        if here is not None and there and here * 2 <= there:
            yield key, there, here


def _named(row: Mapping[str, Any], mode: str) -> Iterator[tuple[RateKey, int]]:
    for card in row["cards"]:
        yield from ((RateKey(name, mode, card["over"]), picos) for name, picos in _of_card(card))
    for unit, picos in row.get("per_unit", {}).items():
        yield RateKey(f"per_unit.{unit}", mode), picos
    if "per_request" in row:
        yield RateKey("per_request", mode), row["per_request"]
    for other in row.get("modes", ()):
        for name in _modes(other["when"]):
            yield from _named(other, _joined(mode, name))


def _repeats(rates: Mapping[RateKey, int], key: RateKey) -> bool:
    """Whether a mode or hour only repeats what a call or request costs anyway."""
    return key.per_call and key.mode != "" and rates[key] == rates.get(key._replace(mode=""))


def _of_card(card: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    yield from ((name, picos) for name, picos in card.items() if isinstance(picos, int) and name != "over")
    yield from ((f"{_WRITE}{ttl}", picos) for ttl, picos in card.get("cache_write", {}).items())
    yield from card.get("parts", {}).items()


def _modes(when: Mapping[str, list[str]]) -> list[str]:
    """Return a name for each combination of values, such as "batch" or "high+fast"."""
    names = [""]
    for values in when.values():
        names = [f"{name}+{value}" if name else value for name in names for value in values]
    return names


def _joined(mode: str, name: str) -> str:
    return f"{mode} {name}" if mode else name


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"
