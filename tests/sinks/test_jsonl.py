"""JSON Lines: append-only, greppable, rotated, and each entry exactly once whatever is killed when."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from budget.cli import main
from budget.errors import StoreUnavailable
from budget.sinks import make_sink
from budget.sinks.base import SinkFailed
from budget.sinks.jsonl import JsonLines
from budget.sinks.places import Places
from budget.testing import Sandbox

from .helpers import call, drain, feed_of, killed, mixed_budget


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "calls.jsonl"


def test_a_line_per_change(path: Path) -> None:
    with mixed_budget() as budget:
        drain(feed_of(budget, JsonLines(str(path))))
        ended = {entry.seq: entry for entry in budget.entries()}
    lines = lines_of(path)
    assert [(line["seq"], line["kind"]) for line in lines] == [
        (1, "shadow"), (2, "call"), (3, "shadow"), (4, "shadow"), (5, "call"), (6, "call"), (7, "shadow"),
        (8, "correction"), (9, "withdrawn"), (10, "refused"),
    ]  # fmt: skip
    whole = lines[1]
    assert whole["usd"] == "0.011475"
    assert whole["scope"] == {"user": "alice", "session": "s1", "agent": "support", "project": "p", "feature": "x"}
    assert whole["usage"] == {"input": 1000, "output": 500, "cache_read": 2000, "cache_write": {"5m": 100}} | {
        name: value for name, value in ended[2].detail["usage"].items() if name not in ("input", "output", "cache_read")
    }
    assert whole["input_tokens"] == 3100
    assert {line["id"] for line in lines if line["seq"] in (3, 5, 8)} == {ended[3].reservation}
    assert lines[8]["usd"] == "-0.1"
    assert lines[9]["limits"] == ["per=user $1/day"]
    assert all(line["account"] == "default" for line in lines)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_crash_between_writing_and_moving_the_place_repeats_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = Places(None)
    with mixed_budget() as budget:
        feed = feed_of(budget, JsonLines(str(path)), places)
        with monkeypatch.context() as patch:
            patch.setattr(places, "move", killed)
            with pytest.raises(StoreUnavailable):
                feed.turn(flush=True)
        assert places.get("jsonl", "default").seq == 0
        call(budget, user="dora")
        drain(feed_of(budget, JsonLines(str(path)), places))
    assert [line["seq"] for line in lines_of(path)] == list(range(1, 12))
    assert places.get("jsonl", "default").seq == 11


@pytest.mark.parametrize("cut", [1, 50, 400])
def test_a_torn_line_is_cut_off_and_written_again(path: Path, cut: int) -> None:
    with mixed_budget() as budget:
        drain(feed_of(budget, JsonLines(str(path))))
        whole = path.read_bytes()
        path.write_bytes(whole[:-cut])
        drain(feed_of(budget, JsonLines(str(path))))
    assert path.read_bytes() == whole


def test_the_first_line_may_be_torn(path: Path) -> None:
    path.write_bytes(b'{"seq":1,"ki')
    with mixed_budget() as budget:
        drain(feed_of(budget, JsonLines(str(path))))
    assert len(lines_of(path)) == 10


def test_a_reset_by_hand_writes_again(path: Path) -> None:
    places = Places(None)
    with mixed_budget() as budget:
        drain(feed_of(budget, JsonLines(str(path)), places))
        places.reset("jsonl", "default", 8)
        drain(feed_of(budget, JsonLines(str(path)), places))
    assert [line["seq"] for line in lines_of(path)] == [*range(1, 11), 9, 10]


def test_a_file_is_rotated_and_a_line_is_in_one_file(path: Path) -> None:
    sink = make_sink(f"jsonl:{path}?rotate=2KB&keep=2")
    with Sandbox() as budget:
        places = Places(None)
        for _ in range(12):
            for _ in range(3):
                call(budget)
            drain(feed_of(budget, sink, places))
        files = sorted(path.parent.glob("calls.jsonl*"), key=lambda file: file.name)
    assert [file.name for file in files] == ["calls.jsonl", "calls.jsonl.1", "calls.jsonl.2"]
    assert all(0 < file.stat().st_size <= 2000 for file in files)
    seqs = [line["seq"] for file in reversed(files) for line in lines_of(file)]
    assert seqs == list(range(36 - len(seqs) + 1, 37))


def test_after_a_rotation_that_was_cut_short_the_older_file_says_where_to_go_on(path: Path) -> None:
    with mixed_budget() as budget:
        drain(feed_of(budget, JsonLines(str(path))))
        path.rename(path.with_name("calls.jsonl.1"))
        call(budget, user="dora")
        drain(feed_of(budget, JsonLines(str(path))))
    assert [line["seq"] for line in lines_of(path)] == [11]


def test_a_full_disk_keeps_the_place(tmp_path: Path) -> None:
    full = tmp_path / "full.jsonl"
    full.symlink_to("/dev/full")
    with mixed_budget() as budget:
        feed = feed_of(budget, JsonLines(str(full)))
        with pytest.raises(SinkFailed, match="No space left on device") as caught:
            feed.turn()
        assert not caught.value.permanent
        full.unlink()
        feed.failed(caught.value)
        drain(feed)
    assert len(lines_of(full)) == 10


def test_a_short_write_is_a_failure_and_repeats_no_whole_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mixed_budget() as budget:
        sink = JsonLines(str(path))
        feed = feed_of(budget, sink)
        write = os.write
        file = sink._open()

        class Short:
            def write(self, lines: bytes) -> int:
                return write(file.fileno(), lines[:1500])

            def __getattr__(self, name: str) -> object:
                return getattr(file, name)

        def short() -> object:
            return Short()

        sink.resume("default", 0)
        file = sink._open()
        with monkeypatch.context() as patch:
            patch.setattr(sink, "_open", short)
            patch.setattr(sink, "resume", lambda *_: 0)
            with pytest.raises(SinkFailed, match="No space left"):
                feed.turn(flush=True)
        assert path.stat().st_size == 1500
        feed.failed(SinkFailed("full"))
        drain(feed)
    assert [line["seq"] for line in lines_of(path)] == list(range(1, 11))


@pytest.mark.parametrize(("line", "match"), [("hello\n", "none of this package's"), ("[1]\n", "none of this"),
                                             ('{"seq":1,"account":"other"}\n', "another account")])  # fmt: skip
def test_what_is_not_ours_is_left_alone(path: Path, line: str, match: str) -> None:
    path.write_text(line)
    with mixed_budget() as budget:
        feed = feed_of(budget, JsonLines(str(path)))
        with pytest.raises(SinkFailed, match=match) as caught:
            feed.turn(flush=True)
    assert caught.value.permanent
    assert path.read_text() == line


SPENDS = """
import sys
from budget.engine import Budget
from budget.sinks import runner
runner.EVERY = 0.005
budget = Budget(sys.argv[1], sinks=["jsonl:" + sys.argv[2] + "?rotate=40KB&keep=999"])
print("ready", flush=True)
while True:
    budget.record(usd="0.01", tokens=1, user="u")
"""


def test_killed_at_any_moment_each_entry_is_there_once(
    sqlite_url: str, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(0)
    for _ in range(2):
        child = subprocess.Popen([sys.executable, "-c", SPENDS, sqlite_url, str(path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(chance.uniform(0.05, 0.4))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    sink = f"jsonl:{path}?rotate=40KB&keep=999"
    main.main(["sinks", "run", "--once", "--json", "--store", sqlite_url, "--sink", sink], standalone_mode=False)
    last = json.loads(capsys.readouterr().out)["jsonl"]
    files = sorted(path.parent.glob("calls.jsonl*"), key=lambda file: -int(file.suffix[1:].replace("jsonl", "0")))
    assert [line["seq"] for file in files for line in lines_of(file)] == list(range(1, last + 1))
    assert last > 0
