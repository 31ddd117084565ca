"""Count tokens with tiktoken's vocabularies, without a network.

tiktoken's own loader downloads, without a timeout, and deletes cached files whose hash is wrong. Here the rank files
are package data: one is unpacked, checked against its SHA-256 and given to `tiktoken.Encoding` on first use (about 0.2
s and 44 MB for cl100k), once per process; `warm` does it early. `encode_ordinary` is the only way in, because `encode`
raises on text that contains a special token such as `<|endoftext|>`, so that user text could stop the gate.

A census also says of what kind the tokens are (`families/kinds.toml`), because what another tokenizer makes of a token
depends on what the token is made of: of " the" one, of a run of 64 equals signs perhaps 64.

Agents send the same prefix with every turn, so counts of longer texts are remembered (`budget.estimator.memo`); the
texts are not.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from operator import add
from typing import TYPE_CHECKING, NamedTuple

from budget.errors import ConfigError
from budget.estimator.inline import spend
from budget.estimator.kinds import census as census_of
from budget.estimator.kinds import kinds_of
from budget.estimator.memo import Memo, memo_of

if TYPE_CHECKING:
    from tiktoken import Encoding

__all__ = ["census", "count", "loaded", "warm", "wide_bytes"]


class _Vocabulary(NamedTuple):
    file: str
    sha256: str
    pattern: str


# Hashes and patterns: tiktoken 0.14.0, tiktoken_ext/openai_public.py, read 2026-11-21 (MIT, see vocab/NOTICE).
_VOCABULARIES = {
    "cl100k": _Vocabulary(
        "cl100k_base.tiktoken.gz",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
        r"|\s+(?!\S)|\s",
    ),
    "cl100k-digits": _Vocabulary(  # cl100k, but each digit is a token, as of most makers but OpenAI
        "cl100k_base.tiktoken.gz",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
        r"|\s+(?!\S)|\s",
    ),
    "o200k": _Vocabulary(
        "o200k_base.tiktoken.gz",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
}
_MEMO_FROM = 256  # characters; below, counting is about as fast as looking up
_WHOLE = 10**6  # characters that can be counted in the time of loading a vocabulary, about
_PIECE = 1 << 16  # characters that are counted at once: what comes after tiktoken holds the GIL
_CUT = re.compile("[a-z](?= [a-z])", re.ASCII)  # between two words each vocabulary ends a token

Census = tuple[int, tuple[int, ...]]

_encodings: dict[str, Encoding] = {}
_kinds: dict[str, tuple[str, str] | None] = {}
_loading = threading.Lock()


def count(text: str, vocabulary: str = "cl100k") -> int:
    """Count the tokens of a text; special tokens in it count as the plain text that they are.

    A lone surrogate is counted as its escape (`\\ud800`): more tokens than the three bytes that it could become.

    Args:
        text: Any string.
        vocabulary: "cl100k", "cl100k-digits" or "o200k".

    Raises:
        ConfigError: The vocabulary is unknown, or its file is damaged.
    """
    return census(text, vocabulary)[0]


def census(text: str, vocabulary: str = "cl100k") -> Census:
    """Count the tokens of a text as `count` does, and say how many there are of each kind.

    Returns:
        The number of tokens, and the numbers by kind, in the order of `kinds.toml`; () for a vocabulary that has none.

    Raises:
        ConfigError: The vocabulary is unknown, or its file is damaged.
    """
    encoding = _encodings.get(vocabulary) or _load(vocabulary)
    memo: Memo[Census] | None = memo_of(census, vocabulary) if len(text) >= _MEMO_FROM else None
    key = 0 if memo is None else hash((text, len(text)))
    found = None if memo is None else memo.get(key)
    if found is None:
        spend(len(text))
        found = _counted(encoding, vocabulary, text)
        if memo is not None:
            memo.put(key, found)
    return found


def wide_bytes(text: str) -> int:
    """Return how many UTF-8 bytes of a text stand for characters outside ASCII."""
    if text.isascii():
        return 0
    return len(text.encode("utf-8", "surrogatepass")) - len(text.encode("ascii", "ignore"))


def warm(vocabulary: str = "cl100k") -> None:
    """Load a vocabulary now, so that the first `count` does not wait for it.

    Raises:
        ConfigError: The vocabulary is unknown, or its file is damaged.
    """
    if vocabulary not in _encodings:
        _load(vocabulary)


def loaded(vocabulary: str = "cl100k") -> bool:
    """Say whether a vocabulary is in memory."""
    return vocabulary in _encodings


def _counted(encoding: Encoding, vocabulary: str, text: str) -> Census:
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode()
    kinds, tokens = _kinds.get(vocabulary), 0
    by_kind: tuple[int, ...] = ()
    for piece in _pieces(text):
        ids = encoding.encode_ordinary(piece)
        tokens += len(ids)
        if kinds is not None:
            found = census_of(ids, *kinds)
            by_kind = tuple(map(add, by_kind, found)) if by_kind else found
    return tokens, by_kind


def _pieces(text: str) -> Iterator[str]:
    """Cut a text where every vocabulary ends a token, so that the tokens of the pieces are those of the whole."""
    at = 0
    while len(text) - at > _PIECE and (cut := _CUT.search(text, at + _PIECE)) is not None:
        yield text[at : cut.end()]
        at = cut.end()
    yield text[at:]


def _load(vocabulary: str) -> Encoding:
    if vocabulary not in _VOCABULARIES:
        raise ConfigError(f"vocabulary: {vocabulary[:40]!r} is not one of {', '.join(_VOCABULARIES)}")
    spend(_WHOLE)
    with _loading:
        if vocabulary not in _encodings:
            ranks = _ranks(_VOCABULARIES[vocabulary])
            _kinds[vocabulary] = kinds_of(vocabulary, ranks)
            _encodings[vocabulary] = _build(_VOCABULARIES[vocabulary], ranks)
        return _encodings[vocabulary]


def _ranks(vocabulary: _Vocabulary) -> dict[bytes, int]:
    from base64 import b64decode

    pairs = (line.split() for line in _unpacked(vocabulary).splitlines() if line)
    return {b64decode(token): int(rank) for token, rank in pairs}


def _build(vocabulary: _Vocabulary, ranks: dict[bytes, int]) -> Encoding:
    from tiktoken import Encoding

    name = vocabulary.file.partition(".")[0]
    return Encoding(name, pat_str=vocabulary.pattern, mergeable_ranks=ranks, special_tokens={})


def _unpacked(vocabulary: _Vocabulary) -> bytes:
    import gzip
    import zlib
    from hashlib import sha256

    try:
        raw = gzip.decompress(_packed(vocabulary.file))
    except (OSError, EOFError, zlib.error):
        raw = b""
    if sha256(raw).hexdigest() != vocabulary.sha256:
        raise ConfigError(
            f"budget/estimator/vocab/{vocabulary.file} is missing or damaged (its SHA-256 is not {vocabulary.sha256}); "
            "reinstall the budget package"
        )
    return raw


def _packed(file: str) -> bytes:
    from importlib.resources import files

    return files("budget.estimator").joinpath("vocab", file).read_bytes()
