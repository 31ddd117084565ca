"""Price sources: the TOML files of `prices/`, read, checked and compiled to the JSON that is shipped.

    python -m budget.prices.files prices/ budget/prices/prices.json [--check]

People edit the sources, programs read the compiled book. Overlay files are sources too, read at run time: this module,
and the pydantic that its schema needs, are imported only where such a file is used.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from budget.errors import ConfigError
from budget.prices.schema import PriceFile

__all__ = ["PriceFile", "compile_book", "examined", "load_source", "read_toml", "validated"]

S = TypeVar("S", bound=BaseModel)


def load_source(path: str | Path) -> PriceFile:
    """Read and check one file of prices.

    Raises:
        ConfigError: Not TOML, or against the schema: names the file, the model or row, and the field.
    """
    return validated(PriceFile, read_toml(path), str(path))


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: It cannot be read, or is not TOML; names the file.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


def validated(schema: type[S], content: dict[str, Any], where: str) -> S:
    """Check what a file holds against a schema.

    Raises:
        ConfigError: Names `where`, the model or row, and the field.
    """
    found = examined(schema, content)
    if isinstance(found, list):
        raise ConfigError(f"{where}: {'; '.join(found)}")
    return found


def examined(schema: type[S], content: dict[str, Any]) -> S | list[str]:
    """Check what a file holds against a schema; return that, or all faults, each with its model or row and field."""
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        said = ((_place(content, fault["loc"]), fault["msg"].removeprefix("Value error, ")) for fault in error.errors())
        return [f"{place}: {text}" for place, text in said]


def compile_book(paths: Iterable[str | Path]) -> dict[str, Any]:
    """Compile files of prices to the book that `PriceBook.from_dict` takes; the same sources give the same book.

    Raises:
        ConfigError: See `load_source`; or two files have the same provider.
    """
    files: dict[str, PriceFile] = {}
    for path in sorted(map(Path, paths)):
        source = load_source(path)
        if source.provider in files:
            raise ConfigError(f"{path}: provider: {source.provider} has a file already")
        files[source.provider] = source
    content = {
        "schema": 1,
        "retrieved": max((file.newest() for file in files.values()), default=""),
        "usual": {provider: file.usual() for provider, file in files.items()},
        "providers": {provider: file.compiled() for provider, file in files.items()},
    }
    return {**content, "hash": sha256(_canonical(content)).hexdigest()}


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _place(content: dict[str, Any], loc: tuple[int | str, ...]) -> str:
    """Write pydantic's path with the model's id and the row's day in place of their numbers."""
    words: list[str] = []
    here: Any = content
    for i, step in enumerate(loc, 1):
        if (isinstance(here, list) and isinstance(step, int)) or (isinstance(here, dict) and step in here):
            here = here[step]  # type: ignore[index]
        if isinstance(here, dict) and isinstance(step, int):
            name = here.get("id") or here.get("model")
            words.append(str(name or (f"row from {here['from']}" if "from" in here else f"[{step}]")))
        elif step not in ("models", "prices", "rates") or (i == len(loc) and step != "rates"):
            words.append(str(step))
    return ".".join(words) or "file"


def main(arguments: list[str]) -> int:
    """Compile `prices/` to the shipped file, or with `--check` say whether that is up to date.

    Returns:
        0, or 1 if the sources are faulty or the file differs under `--check`; 2 for wrong usage.
    """
    check = "--check" in arguments
    places = [Path(argument) for argument in arguments if argument != "--check"]
    if len(places) != 2:
        sys.stderr.write("usage: python -m budget.prices.files SOURCES BOOK [--check]\n")
        return 2
    sources, book = places
    try:
        compiled = _canonical(compile_book(sources.glob("*.toml"))) + b"\n"
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if not check:
        book.write_bytes(compiled)
    elif not book.is_file() or book.read_bytes() != compiled:
        sys.stderr.write(f"{book} is not what {sources} compiles to; run without --check\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
