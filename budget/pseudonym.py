"""Putting a pseudonym in the place of one attribute's value, wherever a store has it.

The pseudonym is an HMAC-SHA-256 under a key of the operator, so that nobody without the key can find out by trying
whose it was; and the same value gets the same one again, so that sums by subject stay sums by subject.

Pools are named by their subject, and their ids are digests of the names: a pool of the subject gets another id, too.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from budget.commands import Reservation
from budget.ledger import Entry, dumps
from budget.policy import pool_id

__all__ = ["Swap", "pseudonym"]

_PER, _VALUE = 4, 5  # where a pool's name has them
_SKETCHED = {"model": 1, "agent": 2}  # the part of a sketch's name
_KEYS = {"parent": "run"}  # of an entry's detail, with values of an attribute of another name


def pseudonym(key: bytes, attribute: str, value: str) -> str:
    """Return what stands for a value from now on."""
    return "erased-" + hmac.new(key, f"{attribute}={value}".encode(), hashlib.sha256).hexdigest()[:32]


class Swap:
    """Puts one text in the place of another, where that is the value of an attribute.

    Args:
        attribute, value: Whose.
        instead: What takes its place.
        names: The pools there are, by id.
    """

    def __init__(self, attribute: str, value: str, instead: str, names: Mapping[str, str]):
        self.attribute, self.value, self.instead = attribute, value, instead
        token, other = (shlex.quote(f"{attribute}={each}") for each in (value, instead))
        self._token, self._other = re.compile(rf"(?<!\S){re.escape(token)}(?!\S)"), other
        self._word = re.compile(rf"(?<!\w){re.escape(value)}(?!\w)")
        self.pools: dict[str, tuple[str, str]] = {}
        for pool, name in names.items():
            changed = self.name(name)
            if changed != name:
                self.pools[pool] = (pool_id(changed), changed)

    def name(self, name: str) -> str:
        """Return a pool's name."""
        parts = self.json(json.loads(name))
        if parts[_PER] == self.attribute and parts[_VALUE] == self.value:
            parts[_VALUE] = self.instead
        return dumps(parts)

    def sketch(self, name: str) -> str:
        """Return the name of a sketch of what was learned."""
        parts, at = name.split("\n"), _SKETCHED.get(self.attribute)
        if at is not None and at < len(parts) and parts[at] == self.value:
            parts[at] = self.instead
        return "\n".join(parts)

    def json(self, value: Any, key: str = "") -> Any:
        """Return a JSON value with the pseudonym, and with the new ids of pools."""
        if isinstance(value, dict):
            return {name: self.json(each, name) for name, each in value.items()}
        if isinstance(value, list | tuple):
            if list(value) == [self.attribute, self.value]:
                return [self.attribute, self.instead]
            return [self.json(each) for each in value]
        return self.text(value, key) if isinstance(value, str) else value

    def text(self, text: str, key: str = "") -> str:
        """Return a text: the attribute's value, a limit that names it, a reason with the word in it."""
        if text == self.value and self.attribute in (key, _KEYS.get(key)):
            return self.instead
        if text in self.pools:
            return self.pools[text][0]
        if text[:1] in ("[", "{") and self.value in text:
            try:
                return dumps(self.json(json.loads(text)))
            except ValueError:
                return text
        if key == "reason":
            return self._word.sub(self.instead, text)
        return self._token.sub(lambda _: self._other, text)

    def holds(self, texts: Iterable[str]) -> bool:
        """Whether JSON texts can have anything to swap."""
        written = dumps(self.value)[1:-1]
        return any(written in text or any(pool in text for pool in self.pools) for text in texts)

    def entry(self, entry: Entry) -> Entry:
        """Return an entry with the pseudonym, sealed with the digest of what it was; the same one, if it has none."""
        if not self.holds(entry.texts):
            return entry
        scope, detail = self.json(dict(entry.scope)), self.json(dict(entry.detail))
        moved = [(self.pools.get(pool, (pool,))[0], start, spent, held) for pool, start, spent, held in entry.moves]
        texts = (dumps(scope), dumps(detail), dumps(moved))
        if texts == entry.texts:
            return entry
        sealed = entry.sealed or entry.own()
        return replace(entry, scope=scope, detail=detail, moves=tuple(moved), texts=texts, sealed=sealed)

    def reservation(self, known: Reservation) -> Reservation:
        """Return a reservation with the pseudonym."""
        shares = tuple(share._replace(pool=self.pools.get(share.pool, (share.pool,))[0]) for share in known.shares)
        return known._replace(scope=self.json(dict(known.scope)), detail=self.json(dict(known.detail)), shares=shares)

    def concerns(self, known: Reservation) -> bool:
        """Whether a reservation is the subject's."""
        return self.reservation(known) != known
