"""Remember what messages add to a walk, so that an agent that sends a conversation again pays for new text only.

Messages are plain dicts that their owner may change in place, so neither an object nor its id says that one is still
the same: its content must. The key of a message is a hash of its structure, in which every string counts by its own
hash, which CPython computes once and keeps in the string. So the key of a message that was seen before costs a few
look-ups, however long it is, and holds no text. A run of messages has a key too, so that most of a long conversation is
a few entries. The types of numbers are part of a key, because True, 1 and 1.0 are equal and not the same JSON.

A key has 64 bits, and the hash of a string is keyed by a secret of the process: two messages share one by a chance of
2^-64, on which nobody outside can improve. Where that secret is switched off (PYTHONHASHSEED=0), nothing is remembered.
What is kept is in two generations: when the younger is full it becomes the older, and what nobody asked for since then
goes. There are no locks: every step is one operation on a dict, and the worst that threads can do is to forget.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

__all__ = ["Added", "Memo", "key_of", "may_keep", "memo_of", "runs"]

Added = tuple[tuple[str, Any], ...]
"""What items added to a walk: names of its attributes, and by how much."""

Found = TypeVar("Found")

_LONGEST = 128  # items of a run
_SIZE = 1 << 14  # entries of a generation, of about 300 bytes each
_PARTS = 1 << 20  # what a key looks at, at most; also what ends where a list holds itself
_DICT, _LIST, _NESTED = object(), object(), object()


class Memo(Generic[Found]):
    """What was found, by keys: the last 16,384 to 32,768 that were asked for."""

    def __init__(self) -> None:
        self._young: dict[int, Found] = {}
        self._old: dict[int, Found] = {}

    def get(self, key: int) -> Found | None:
        """Return what was remembered under a key."""
        found = self._young.get(key)
        if found is None and (found := self._old.get(key)) is not None:
            self.put(key, found)
        return found

    def put(self, key: int, found: Found) -> None:
        """Remember it."""
        if len(self._young) >= _SIZE:
            self._old, self._young = self._young, {}
        self._young[key] = found


_memos: dict[tuple[Callable[..., Any], str], Memo[Any]] = {}


def memo_of(method: Callable[..., Any], vocabulary: str) -> Memo[Any] | None:
    """Return the memo of what one function finds, counted with one vocabulary; None where nothing is remembered."""
    if not sys.flags.hash_randomization:
        return None
    memo = _memos.get((method, vocabulary))
    return memo if memo is not None else _memos.setdefault((method, vocabulary), Memo())


def runs(count: int) -> Iterator[tuple[int, int]]:
    """Split a list of so many items: runs whose lengths are powers of two, longest first, as (start, end).

    So a list that has grown is split where it was, but for its last few runs; and the halves of a run are runs.
    """
    at = 0
    while at < count:
        end = at + min(_LONGEST, 1 << (count - at).bit_length() - 1)
        yield at, end
        at = end


def key_of(run: Sequence[Any]) -> int | None:
    """Return the key of a run of items; None if there is something in it that is not known here."""
    parts: tuple[Sequence[Any], ...] = (run,)
    try:
        roles, contents = [item["role"] for item in run], [item["content"] for item in run]
        if sum(map(len, run)) == 2 * len(run):  # a role and a content each, and no more, as most messages are
            parts = roles, contents
            if {*map(type, contents)} == {str}:  # the hash of bytes is also that of their text
                return hash((*roles, *contents))
    except (TypeError, LookupError):
        pass  # of items that are no such messages
    with suppress(ValueError):  # a number of thousands of digits
        return _hash(parts)
    return None


def may_keep(item: Any) -> bool:
    """Say whether what an item adds may stand under its key, which nothing must share that adds something else.

    A key takes the names in a dict as strings, and a content beside nothing but a role as a text that is not empty (the
    hash of an empty one is also that of 0). Only what is so may be kept; then what is not so is not found either.
    """
    if type(item) is dict and len(item) == 2 and item.keys() == {"role", "content"} and type(item["content"]) is str:
        return type(item["role"]) is str and item["content"] != ""
    waiting = [item]
    while waiting:
        value = waiting.pop()
        if type(value) is dict:
            if any(type(name) is not str for name in value):
                return False
            waiting.extend(value.values())
        elif type(value) is list or type(value) is tuple:
            waiting.extend(value)
    return True


def _hash(parts: Sequence[Any]) -> int | None:
    """Hash everything in lists of plain values: what is no string is noted where it stands, and follows later."""
    found: list[Any] = []
    add, waiting = found.append, [*parts]
    while waiting and len(found) < _PARTS:
        value = waiting.pop()
        kind = type(value)
        if kind is dict:
            found.extend(value)
            add(_DICT)
            value = value.values()
        elif kind is list or kind is tuple:
            add(len(value))
            add(_LIST)
        elif value is None or kind is int or kind is float or kind is bool:
            add(kind)
            add(str(value))  # the hash of a number is also that of others
            continue
        elif hasattr(kind, "model_fields"):
            add(kind)
            value = (value.__dict__, getattr(value, "__pydantic_extra__", None))
        else:
            return None
        for each in value:
            if type(each) is str:
                add(each)
            else:
                add(_NESTED)
                waiting.append(each)
    return None if waiting else hash(tuple(found))
