"""The import: files into records, priced by the book of their day.

Nothing is taken for free: a call whose model has no price is left out and counted by its model, and comes in when the
file is imported again with a price. Where its source says what it cost, that is taken instead, and the record says that
it is an estimate. A row that cannot be read is reported by its number. The ledger's own records come first, so that a
call that went through this engine is known by its id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

from budget.errors import ConfigError, UnknownModel
from budget.importing import claude_code, codex, litellm, otel, own, tables
from budget.importing.call import FIGURES, Bad, Call, Found, LeftOut, Source
from budget.importing.files import documents, rows_of
from budget.limits import check_attributes
from budget.money import format_usd, show_usd
from budget.prices import PriceBook
from budget.records import CallFile, Record
from budget.records.sums import MOST

__all__ = ["FORMATS", "Imported", "import_files"]

_READERS: dict[str, Callable[[Source], Iterator[Found]]] = {
    "own": own.read, "jsonl": tables.read_lines, "csv": tables.read_csv, "litellm": litellm.read,
    "claude-code": claude_code.read, "codex": codex.read, "otel": otel.read,
}  # fmt: skip
_TOLD: tuple[tuple[str, Callable[[Any], bool]], ...] = (
    ("own", own.is_own), ("otel", otel.is_document), ("codex", codex.is_line), ("claude-code", claude_code.is_line),
    ("litellm", lambda item: isinstance(item, Mapping) and litellm.is_row(item)),
)  # fmt: skip
FORMATS = tuple(name for name in _READERS if name != "own")
"""What can be read. "jsonl" is our own trace too."""
_TABLES = ("csv", "jsonl")
_FILLED = {"codex": ("model",), "otel": ("model",)}  # what of a call may be given there with --set
_LOOKED_AT = 50  # lines from which a format is told: transcripts begin with lines of other kinds
_AT_ONCE = 5000  # records in one transaction


@dataclass(slots=True)
class Imported:
    """What an import found. Money in nano-dollars.

    Attributes:
        files: Files read.
        calls: Calls in them that have a price.
        usd: What those cost.
        added: How many were not there before; None for a dry run.
        told: How many of them have the price that their source states, as their model has none here.
        partly: What of priced calls has no price here, such as a server tool, and how often.
        unpriced: Calls that were left out because they have no price, by model.
        left_out: What else was left out, and why.
        bad: Rows that cannot be read.
    """

    files: int = 0
    calls: int = 0
    usd: int = 0
    added: int | None = 0
    told: int = 0
    partly: Counter[str] = field(default_factory=Counter)
    unpriced: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    bad: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; money is a decimal string. `known` is what was there before."""
        return {
            "files": self.files, "calls": self.calls, "added": self.added,
            "known": None if self.added is None else self.calls - self.added, "usd": format_usd(self.usd),
            "priced_by_source": self.told, "partly_priced": dict(self.partly), "unpriced": dict(self.unpriced),
            "left_out": dict(self.left_out), "bad": self.bad,
        }  # fmt: skip


def import_files(
    calls: CallFile, book: PriceBook, paths: Iterable[str | Path], *, format: str | None = None,
    columns: Mapping[str, str] | None = None, fill: Mapping[str, str] | None = None, dry_run: bool = False,
    on_bad: Callable[[str], None] | None = None,
) -> Imported:  # fmt: skip
    """Import recorded calls into the records.

    Args:
        calls: The records.
        book: The prices.
        paths: Files, or folders, of which every `*.jsonl` is read.
        format: One of `FORMATS`; None: told by each file.
        columns: Column names by field, for CSV and JSON Lines.
        fill: What calls lack: attributes, `model`, `provider`, or another field of a table, by name.
        dry_run: Read and price, and add nothing.
        on_bad: Called with a line of text for each row that cannot be read.

    Raises:
        ConfigError: An argument cannot be used, or the records would be lost with this process.
        BudgetError: A file cannot be read.
        StoreUnavailable: The records cannot be written.
    """
    if format is not None and format not in FORMATS:
        raise ConfigError(f"--format: {format[:40]!r} is none of {', '.join(FORMATS)}")
    if calls.path is None and not dry_run:
        raise ConfigError("import: this store keeps no records beside it; import into a SQLite store or records=")
    fill, columns = dict(fill or {}), dict(columns or {})
    check_attributes({name: value for name, value in fill.items() if name not in FIGURES})
    if unknown := columns.keys() - set(tables.FIELDS):
        raise ConfigError(f"--column: {min(unknown)[:40]!r} is none of {', '.join(tables.FIELDS)}")
    kinds = {path: _kind(path, format) for path in _files(paths, format)}
    for path, kind in kinds.items():
        _check_options(path, kind, columns, fill)
    found = Imported(added=None if dry_run else 0)
    if not dry_run:
        calls.catch_up()
    for path, kind in kinds.items():
        records = _records(path, kind, _READERS[kind](Source(path, fill, columns)), book, found, on_bad)
        found.files += 1
        while page := list(islice(records, _AT_ONCE)):
            if found.added is not None:
                found.added += calls.put(page)
    return found


def _files(paths: Iterable[str | Path], format: str | None) -> Iterator[Path]:
    """Iterate the files, those of a folder by name: a session stands before those that were forked from it."""
    for path in map(Path, paths):
        if not path.is_dir():
            yield path
            continue
        inside = sorted(path.rglob("rollout-*.jsonl" if format == "codex" else "*.jsonl"))
        if not inside:
            raise ConfigError(f"import: there is no file *.jsonl in {path}")
        yield from inside


def _kind(path: Path, format: str | None) -> str:
    """Return the reader of a file: the one that was asked for, where "jsonl" may be our own trace."""
    if format is None:
        return _told(path)
    return "own" if format == "jsonl" and _told(path) == "own" else format


def _check_options(path: Path, kind: str, columns: Mapping[str, str], fill: Mapping[str, str]) -> None:
    """Refuse what the format of a file has no use for."""
    if kind in _TABLES:
        return
    unused = ["--column"] if columns else []
    unused += [f"--set {name}=" for name in fill if name in FIGURES and name not in _FILLED.get(kind, ())]
    if unused:
        raise ConfigError(f"{unused[0]}: means nothing for {path}, which is {kind}")


def _told(path: Path) -> str:
    """Tell the format of a file."""
    if path.name.removesuffix(".gz").endswith(".csv"):
        _, header = next(rows_of(path), (0, []))
        return "litellm" if isinstance(header, list) and litellm.is_row(header) else "csv"
    for _, item in islice(documents(path), _LOOKED_AT):
        for name, tells in _TOLD:
            if tells(item):
                return name
    return "jsonl"


def _records(
    path: Path, kind: str, items: Iterable[Found], book: PriceBook, found: Imported,
    on_bad: Callable[[str], None] | None,
) -> Iterator[Record]:  # fmt: skip
    for item in items:
        made = _priced(kind, item, book, found) if isinstance(item, Call) else item
        if isinstance(made, Bad):
            found.bad += 1
            if on_bad is not None:
                on_bad(f"{path}, line {made.line}: {made.why}; not imported")
        elif isinstance(made, LeftOut):
            found.left_out[made.why] += 1
        elif made is not None:
            found.calls += 1
            found.usd += made.nanos
            yield made


def _priced(kind: str, call: Call, book: PriceBook, found: Imported) -> Record | Bad | None:
    """Return the record of a call at the prices of when it began, None if it has none, `Bad` if it is too much."""
    usage, provider = call.usage, call.provider
    priced: tuple[int, Mapping[str, Any] | None, str | None, bool]
    try:
        model = book.find(call.model, provider if provider in book.providers else None)
    except (UnknownModel, ConfigError):  # the second: several hosts sell it, and the source names none of them
        if not call.told:
            found.unpriced[call.model] += 1
            return None
        found.told += 1
        priced = call.told, None, None, True
    else:
        cost = model.rates(call.at_us - (call.latency_ms or 0) * 1000).cost(usage)
        if cost.nanos > MOST:
            return Bad(call.line, f"costs more than {show_usd(MOST)}, the most that a record can hold")
        found.partly.update(cost.unpriced)
        provider = model.provider or provider
        priced = cost.nanos, cost.rates, book.hash, bool(cost.unpriced)
    nanos, rates, hash, estimated = priced
    id = blake2b(f"{kind}\0{call.key}".encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return Record(
        id, 0, call.at_us, call.scope, call.model, provider, nanos, usage.input_tokens, usage.output, usage.cache_read,
        sum(usage.cache_write.values()), usage.to_dict(), rates, hash, None, None, estimated, call.latency_ms,
        call.first_token_ms, call.outcome, None,
    )  # fmt: skip
