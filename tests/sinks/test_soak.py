"""Everything fails for a while, under load: each record arrives. `python -m tests.sinks.soak` does it for minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from .soak import soak

pytest.importorskip("duckdb")
pytest.importorskip("msgpack")


def test_under_load_while_everything_fails_each_record_arrives(tmp_path: Path) -> None:
    told = soak(tmp_path, 2.5, seed=3)
    assert told["records"] > 20
