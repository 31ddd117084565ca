"""Which POST paths of an API cost money: one dated file per SDK, `anthropic.toml` and `openai.toml` beside this one.

A path is metered (it is estimated and reserved), late (reserved when it is submitted, and its usage comes with another
answer), free, or refused with a reason. What stands in no file is refused too: it may be a new way to spend.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib.resources import files

__all__ = ["Paths", "paths_of"]

_ID = re.compile(r"\\\{\\\}")
_DOTS = re.compile(r"(^|/)(\.|%2e){1,2}(/|$)", re.IGNORECASE)
"""Segments that a path loses on its way: it is sent as another."""


class Paths:
    """The POST paths of one API.

    Attributes:
        kinds: By path, as it stands in the file: the endpoint of what is metered or late, "" of what is free, None of
            what is refused.
    """

    def __init__(self, name: str):
        """Read the file of an SDK's name."""
        table = tomllib.loads(files(__name__).joinpath(f"{name}.toml").read_text("utf-8"))
        self.kinds: dict[str, str | None] = {**table["metered"], **table["late"]}
        self._reasons: dict[str, str] = {}
        for reason, paths in table["refused"].items():
            self.kinds |= dict.fromkeys(paths, None)
            self._reasons |= dict.fromkeys(paths, reason)
        for paths in table["free"].values():
            self.kinds |= dict.fromkeys(paths, "")
        with_ids = [path for path in self.kinds if "{}" in path]
        self._shapes = [(re.compile(_ID.sub("[^/]+", re.escape(path))), path) for path in with_ids]

    def endpoint(self, path: str) -> str | None:
        """Return the endpoint of a path that is metered or late, "" if it is free, None if it is refused or unknown."""
        return self.kinds.get(self._line(path))

    def reason(self, path: str) -> str:
        """Return why a path is refused."""
        return self._reasons.get(self._line(path), "what it costs is not known")

    def _line(self, path: str) -> str:
        """Return the line of the file that a path stands in; "" if it stands in none."""
        if path in self.kinds:
            return path
        if _DOTS.search(path):
            return ""
        return next((line for shape, line in self._shapes if shape.fullmatch(path)), "")


@cache
def paths_of(name: str) -> Paths:
    """Return the paths of an SDK, read once."""
    return Paths(name)
