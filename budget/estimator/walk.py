"""What every walk over a request body shares: counting strings, measuring media, naming what has no upper bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from operator import add
from typing import Any

from budget.errors import ArgumentTypeError, ConfigError
from budget.estimator import media
from budget.estimator.bounds import Measure
from budget.estimator.media import Media
from budget.estimator.memo import Added, Memo, key_of, may_keep, memo_of, runs
from budget.estimator.plain import as_fields, as_items, compact, decoded, shown
from budget.estimator.tokens import census, wide_bytes
from budget.reported import traits_of

__all__ = ["Walk", "read_count", "read_traits"]

_REASONS_SHOWN = 20


class Walk:
    """What was found so far. Tokens are those of `vocabulary`."""

    def __init__(self, vocabulary: str) -> None:
        self.vocabulary = vocabulary
        self.base_tokens = self.tool_tokens = self.schema_tokens = self.wide_bytes = 0
        self.messages = self.parts = self.blocks = self.tools = 0
        self.kinds: tuple[int, ...] = ()
        self.media: list[Media] = []
        self.makes: set[str] = set()
        self.thinking = False
        self.ttls: set[str] = set()
        self.reasons: list[str] = []
        self._open = 0

    def result(self, output_max: int | None, traits: Mapping[str, str], **more: Any) -> Measure:
        """Return the measure; `more` are the fields that only one walk knows."""
        reasons = self.reasons[:_REASONS_SHOWN]
        unsaid = self._open - len(reasons)
        return Measure(
            vocabulary=self.vocabulary,
            base_tokens=self.base_tokens,
            tool_tokens=self.tool_tokens,
            schema_tokens=self.schema_tokens,
            kinds=self.kinds,
            wide_bytes=self.wide_bytes,
            messages=self.messages,
            parts=self.parts,
            blocks=self.blocks,
            tools=self.tools,
            output_max=output_max,
            cache_ttls=frozenset(self.ttls),
            traits=traits,
            thinking=self.thinking,
            media=tuple(self.media),
            makes=frozenset(self.makes),
            reasons=(*reasons, *([f"and {unsaid} more"] if unsaid else [])),
            **more,
        )

    def each(self, items: object, place: str, walk: Callable[[Any, str], None]) -> None:
        """Walk every item of a list, but for those that were walked before: what they add is remembered.

        Args:
            items: The list.
            place: Where it stands.
            walk: A method of this object. What it adds must follow from the item alone.
        """
        given, method = as_items(items, place), walk.__func__  # type: ignore[attr-defined]
        memo = memo_of(method, self.vocabulary)
        for at, end in runs(len(given)):
            if memo is not None:
                self._add(self._recalled(memo, given[at:end], at, place, method)[0])
            else:
                for i in range(at, end):
                    walk(given[i], f"{place}[{i}]")

    def _recalled(
        self, memo: Memo[Added], run: Sequence[Any], at: int, place: str, method: Callable[..., None]
    ) -> tuple[Added, bool]:
        """Return what a run of items adds, and whether that is remembered: else each half is asked for, then walked."""
        key = key_of(run)
        added = None if key is None else memo.get(key)
        if added is not None:
            return added, True
        apart, middle = type(self)(self.vocabulary), len(run) // 2
        if middle:
            halves = (run[:middle], at), (run[middle:], at + middle)
            known = True
            for half, start in halves:
                added, kept = self._recalled(memo, half, start, place, method)
                apart._add(added)
                known = known and kept
        else:
            method(apart, run[0], f"{place}[{at}]")
            known = not apart.reasons and may_keep(run[0])
        added = apart._added()
        if known and key is not None:
            memo.put(key, added)
        return added, known and key is not None

    def _added(self) -> Added:
        """Return what was found, for another walk to add."""
        frozen: dict[type, Callable[[Any], Any]] = {list: tuple, set: frozenset}
        found = ((name, value) for name, value in vars(self).items() if value and name != "vocabulary")
        return tuple((name, frozen.get(type(value), _same)(value)) for name, value in found)

    def _add(self, added: Added) -> None:
        """Add what another walk found."""
        for name, value in added:
            mine = getattr(self, name)
            if type(mine) is list:
                mine.extend(value)
            elif type(mine) is set:
                mine.update(value)
            elif type(value) is tuple:
                setattr(self, name, tuple(map(add, mine, value)) if mine else value)
            else:
                setattr(self, name, mine or value if type(value) is bool else mine + value)

    def count(self, text: str) -> int:
        """Count a text, its tokens by kind, and its bytes outside ASCII."""
        self.wide_bytes += wide_bytes(text)
        tokens, kinds = census(text, self.vocabulary)
        self.kinds = tuple(map(add, self.kinds, kinds)) if self.kinds else kinds
        return tokens

    def value(self, value: object, place: str) -> None:
        """Count a field: a string as it is, an object or list as JSON; flags, numbers and null cost nothing."""
        if isinstance(value, str):
            self.base_tokens += self.count(value)
        elif value is not None and not isinstance(value, (int, float)):
            self.base_tokens += self.count(compact(value, place))

    def tool(self, tool: object, place: str) -> None:
        """Count a tool whose whole description is in the request."""
        self.tools += 1
        self.tool_tokens += self.count(compact(tool, place))

    def schema(self, schema: object, place: str) -> None:
        """Count an output schema."""
        if schema is not None:
            self.schema_tokens += self.count(compact(as_fields(schema, place), place))

    def text_file(self, data: object, place: str) -> None:
        """Count a text that is sent as a file: bytes or base64. What else an SDK may read itself is not known here."""
        text = decoded(data)
        if text is None:
            self.reason(place, "a text that cannot be read here")
        else:
            self.base_tokens += self.count(text)

    def image(self, data: object, detail: object = "") -> None:
        """Measure an image: base64, a data URL or bytes; else, as by URL, only a model's cap bounds it."""
        self._found(media.image_of(data, detail if isinstance(detail, str) else ""))

    def pdf(self, data: object, place: str, detail: object = "") -> None:
        """Measure a PDF: base64, a data URL or bytes."""
        found = media.pdf_of(data, detail if isinstance(detail, str) else "")
        self._found(found, place, "a PDF whose pages cannot be counted")

    def audio(self, data: object, place: str) -> None:
        """Measure a sound: base64, a data URL or bytes."""
        self._found(media.audio_of(data), place, "audio whose length cannot be read")

    def video(self, data: object, place: str) -> None:
        """Measure a film: base64, a data URL or bytes."""
        self._found(media.video_of(data), place, "video whose length cannot be read")

    def _found(self, found: Media | None, place: str = "", otherwise: str = "") -> None:
        if found is None:
            self.reason(place, otherwise)
        else:
            self.parts += 1
            self.media.append(found)

    def unknown_fields(self, fields: Mapping[str, Any], known: Set[str], place: str) -> None:
        """Give a reason for every field that is not known, unless it is null."""
        for name, value in fields.items():
            if name not in known and value is not None:
                self.reason(f"{place}.{shown(name)}".lstrip("."), "unknown field")

    def open_fields(self, fields: Mapping[str, Any], known: Mapping[str, str]) -> None:
        """Give the known reason for every field of these that is there and not empty."""
        if known.keys().isdisjoint(fields):
            return
        for name, why in known.items():
            if fields.get(name) not in (None, [], ()):
                self.reason(name, why)

    def reason(self, place: str, what: str) -> None:
        """Note why there is no upper bound."""
        self._open += 1
        if len(self.reasons) < _REASONS_SHOWN:
            self.reasons.append(f"{place}: {what}")


def _same(value: Any) -> Any:
    return value


def read_count(value: object, place: str, least: int = 0) -> int | None:
    """Read a number of tokens or of answers.

    Raises:
        ArgumentTypeError: It is not an int.
        ConfigError: It is below `least` or above 2^53 - 1.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ArgumentTypeError(f"{place}: must be an int, not {type(value).__name__}")
    if not least <= value < 2**53:
        raise ConfigError(f"{place}: must be {f'at least {least}' if value < least else 'below 2^53'}")
    return value


def read_traits(body: Mapping[str, Any], *names: str) -> Mapping[str, str]:
    """Return the fields that decide the price, named and with defaults left out as in `Usage.traits`."""
    return traits_of({name: body[name] for name in names if name in body})
