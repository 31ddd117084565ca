"""What a vocabulary's tokens are made of: a kind for each, so that the tokens of a text can be counted by kind.

What a tokenizer makes of another one's token depends on what the token is made of: of " the" one, of " Ergonomics" or
"getElementById" several, of a run of 64 equals signs up to 64. Which kinds there are, and which token is of which, is
data: `families/kinds.toml`. A family's file says what each kind costs (`constants.Rates.kinds`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from operator import itemgetter
from string import ascii_letters, digits

__all__ = ["census", "kinds_of"]

_ALPHANUMERIC = (ascii_letters + digits).encode()


def kinds_of(vocabulary: str, ranks: Mapping[bytes, int]) -> tuple[str, str] | None:
    """Return the kind of each token by its rank, and the kinds; None for a vocabulary without kinds.

    A kind is a character, for strings are what Python picks characters from, joins and counts fastest.
    """
    import tomllib
    from importlib.resources import files

    raw = tomllib.loads(files("budget.estimator").joinpath("families", "kinds.toml").read_text("utf-8")).get(vocabulary)
    if raw is None:
        return None
    number = {letter: i for i, letter in enumerate(raw["kinds"])}
    grid = {made: [bytes(map(number.__getitem__, word)) for word in words] for made, words in raw["table"].items()}
    rows, columns = raw["ranks"], raw["lengths"]
    table = bytearray(max(ranks.values()) + 1)
    for token, rank in ranks.items():
        made, length = _made_of(token)
        table[rank] = grid[made][bisect_right(rows, rank)][bisect_right(columns, length)]
    return table.decode("ascii"), bytes(range(len(number))).decode("ascii")


def census(ids: list[int], table: str, kinds: str) -> tuple[int, ...]:
    """Count tokens by kind."""
    found = "".join(itemgetter(*ids)(table)) if ids else ""
    return tuple(map(found.count, kinds))


def _made_of(token: bytes) -> tuple[str, int]:
    """Return the name and length of what a token is made of. (Methods of bytes know ASCII only.)"""
    core = token[1:] if token[:1] == b" " else token
    if not token.isascii():
        return _beyond_ascii(token), len(token)
    if token.isspace():
        return "space", len(token)
    length = len(core)
    if length > 2 and core == core[:1] * length:
        return "run", length
    if core.isalpha():
        made = "lower" if core.islower() else "title" if core.istitle() else "upper" if core.isupper() else "camel"
    elif core.isdigit():
        made = "digits"
    else:
        made = "symbol" if core == core.translate(None, _ALPHANUMERIC) else "mixed"
    return made if core is token else "_" + made, length


def _beyond_ascii(token: bytes) -> str:
    try:
        text = token.decode().removeprefix(" ")
    except UnicodeDecodeError:
        return "bytes"
    if len(text) > 2 and text == text[0] * len(text):
        return "run"
    if not text.isspace() and any(map(str.isascii, text.replace(" ", ""))):
        return "accent"
    return "wide" if max(text) > "\u07ff" else "alpha"
