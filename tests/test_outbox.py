"""The outbox: what was left and flushed is on the disk, whole, once, and for whoever comes next."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from conftest import python
from hypothesis import given
from hypothesis import strategies as st

from budget.commands import Draw, Reconcile, Record, Refund, Reservation, Share
from budget.outage import outbox as module
from budget.outage.outbox import Item, Outbox, decode, encode, folder_of, waiting

KNOWN = Reservation(
    "1" * 32, "digest", "open", (5, 1, 1, 0, 1), (Share("pool", 0, 7, 5), Share("other", 4, 7, 1)), 60_000_000, 9, 8,
    scope={"user": "älice"}, detail={"model": "m", "estimate": {"usd": "0.1", "closed": True}},
)  # fmt: skip
DRAW = Draw("pool", '["name"]', 0, 100, 5, 0, 2**53, 3, "$5/day")


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox")


def refund(n: int) -> Item:
    return Item(1000 + n, Refund(f"{n:032x}", {"outcome": "no answer"}))


def done(outbox: Outbox) -> None:
    item = outbox.first()
    assert item is not None
    outbox.done(item)


def left(outbox: Outbox) -> list[int]:
    """What somebody else finds, taken over in full."""
    found: list[int] = []
    for orphan in Outbox(outbox.folder).orphans():
        found += [int(item.command.id, 16) for item in orphan.items]
        orphan.remove()
    return found


# The codec.

ids, texts, figures = st.text("0123456789abcdef", min_size=32, max_size=32), st.text(max_size=9), st.integers(0, 2**63)
amounts = st.tuples(*[st.none() | figures] * 5)
details = st.dictionaries(texts, st.recursive(st.none() | st.booleans() | figures | texts, st.lists, max_leaves=4))
draws = st.lists(st.builds(Draw, st.none() | texts, texts, st.integers(0, 5), *[figures] * 5, texts), max_size=3)
known = st.none() | st.just(KNOWN) | st.just(KNOWN.ended_as("reconciled", 5, (1, 2, 3, 4, 5)))
scopes = st.dictionaries(texts, texts, max_size=2)
commands = st.one_of(
    st.builds(Reconcile, ids, amounts, details, st.none() | draws, scopes, figures, known),
    st.builds(Refund, ids, details, known),
    st.builds(Record, ids, texts, amounts, draws, figures, scopes, details, of=st.none() | ids),
)


@given(st.builds(Item, figures, commands))
def test_what_is_written_is_read(item: Item) -> None:
    line = encode(item)
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert decode(line) == item
    assert decode(line.encode()) == item


@given(st.builds(Item, figures, commands), st.integers(1, 400))
def test_a_part_of_a_line_is_none(item: Item, length: int) -> None:
    line = encode(item)
    with pytest.raises((ValueError, TypeError, KeyError)):
        decode(line[: min(length, len(line) - 2)])


# The file.


def test_nothing_is_made_before_something_is_left(outbox: Outbox) -> None:
    outbox.flush()
    assert not outbox.orphaned()
    assert waiting(outbox.folder) == (0, 0)
    outbox.close()
    assert not outbox.folder.exists()


def test_what_was_flushed_is_there_for_the_next(outbox: Outbox) -> None:
    for n in range(3):
        outbox.leave(refund(n))
    assert not outbox.folder.exists()
    outbox.flush()
    outbox.leave(refund(3))
    outbox.flush()
    (path,) = outbox.folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(outbox.folder.stat().st_mode) == 0o700
    assert waiting(outbox.folder) == (4, 1000)
    assert left(outbox) == [], "its owner lives"
    outbox.close()
    assert len(outbox) == 0
    assert left(outbox) == [0, 1, 2, 3]
    assert list(outbox.folder.iterdir()) == []


def test_what_was_left_last_is_written_at_the_end(outbox: Outbox) -> None:
    outbox.leave(refund(1))
    outbox.close()
    assert left(outbox) == [1]


def test_the_file_goes_when_all_is_carried_out(outbox: Outbox) -> None:
    for n in range(2):
        outbox.leave(refund(n))
    outbox.flush()
    assert outbox.first() == refund(0)
    done(outbox)
    assert waiting(outbox.folder)[0] == 2, "what is sent twice counts once; what is removed early is lost"
    done(outbox)
    assert outbox.first() is None
    assert list(outbox.folder.iterdir()) == []
    outbox.leave(refund(5))
    outbox.flush()
    assert waiting(outbox.folder) == (1, 1005)


def test_what_was_carried_out_before_it_was_written(outbox: Outbox) -> None:
    outbox.leave(refund(0))
    done(outbox)
    outbox.flush()
    assert not outbox.folder.exists() or list(outbox.folder.iterdir()) == []


def test_it_is_closed_while_something_is_carried_out(outbox: Outbox) -> None:
    """It is carried out once more by whoever comes next; twice counts once."""
    for n in range(2):
        outbox.leave(refund(n))
    item = outbox.first()
    assert item is not None
    outbox.close()
    outbox.done(item)
    outbox.leave(refund(2))
    outbox.done(item)
    assert len(outbox) == 1
    assert left(outbox) == [0, 1]


def test_a_torn_last_line_was_promised_to_nobody(outbox: Outbox) -> None:
    outbox.leave(refund(1))
    outbox.close()
    (path,) = outbox.folder.iterdir()
    with path.open("ab") as file:
        file.write(encode(refund(2)).encode()[:-20])
    assert left(outbox) == [1]
    assert list(outbox.folder.iterdir()) == []


def test_a_line_of_another_version_is_kept(outbox: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    for n in range(3):
        outbox.leave(refund(n))
    outbox.close()
    (path,) = outbox.folder.iterdir()
    path.write_text(path.read_text().replace('"known":null', '"known":null,"new":1', 1))
    assert left(outbox) == [1, 2]
    assert [path.suffix for path in outbox.folder.iterdir()] == [".unread"]
    assert "1 lines of an outbox" in caplog.text


@pytest.mark.parametrize("fault", ["fsync", "write", "short", "open"])
def test_a_full_disk(
    outbox: Outbox, fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It stays in memory, which is said once, and is written when there is room: once, and whole."""
    outbox.leave(refund(0))
    outbox.flush()
    if fault == "open":
        outbox.close()
        outbox = Outbox(outbox.folder / "none")

    def full(*args: Any, **options: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    write = os.write
    with monkeypatch.context() as patch:
        if fault == "short":
            patch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
        else:
            patch.setattr(os, fault, full)
        for n in (1, 2):
            outbox.leave(refund(n))
            outbox.flush()
    assert len(outbox) == (2 if fault == "open" else 3)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "memory" in caplog.text
    outbox.flush()
    assert waiting(outbox.folder)[0] == len(outbox)
    outbox.close()
    assert left(outbox) == ([1, 2] if fault == "open" else [0, 1, 2])


def test_what_can_be_written_nowhere_is_not_forgotten(outbox: Outbox) -> None:
    outbox.folder.parent.joinpath("outbox").write_text("a file where the folder should be")
    outbox.leave(refund(1))
    outbox.close()
    assert len(outbox) == 1
    outbox.folder.unlink()
    outbox.close()
    assert left(outbox) == [1]


def test_threads_share_a_file(outbox: Outbox) -> None:
    def work(first: int) -> None:
        for n in range(first, first + 50):
            outbox.leave(refund(n))
            outbox.flush()

    threads = [Thread(target=work, args=(first,)) for first in range(0, 400, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(outbox.folder.iterdir())) == 1
    outbox.close()
    assert sorted(left(outbox)) == list(range(400))


def test_it_can_be_full(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    outbox.leave(refund(0))
    assert not outbox.full
    outbox.leave(refund(1))
    assert outbox.full
    outbox.leave(refund(2))
    assert len(outbox) == 3, "an end is taken all the same"


def test_folders() -> None:
    one = folder_of("redis://cache:6379/0", "default")
    assert one.parts[-4:-1] == ("state", "budget", "outbox")
    assert len({one, folder_of("redis://cache:6379/1", "default"), folder_of("redis://cache:6379/0", "other")}) == 3


# Processes.

KILLED = """
import os, signal, sys
from pathlib import Path
from budget.commands import Refund
from budget.outage.outbox import Item, Outbox
outbox = Outbox(Path(sys.argv[1]))
for n in range(3):
    outbox.leave(Item(5, Refund(f"{n:032x}")))
    outbox.flush()
print("ready", flush=True)
if sys.argv[2] == "fork" and os.fork() == 0:
    assert len(outbox) == 0, "what waits is the parent's"
    outbox.leave(Item(6, Refund(f"{9:032x}")))
    outbox.flush()
    print("forked", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_a_killed_process_leaves_its_outbox(outbox: Outbox, how: str) -> None:
    """Its lock goes with it, also while a child that it forked lives on, which has an outbox of its own."""
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(outbox.folder), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin
    assert child.stdout
    with child:
        for _ in range(2 if how == "fork" else 1):
            assert child.stdout.readline() in (b"ready\n", b"forked\n")
        assert left(outbox) == []
        child.send_signal(signal.SIGKILL)
        child.wait(10)
        assert left(outbox) == [0, 1, 2]
        assert len(list(outbox.folder.iterdir())) == (how == "fork")
        child.stdin.close()
        child.stdout.read()  # until the forked one has ended, too
    assert left(outbox) == ([9] if how == "fork" else [])


def test_an_outbox_is_written_when_the_process_ends(outbox: Outbox) -> None:
    python(
        "import sys; from pathlib import Path; from budget.commands import Refund; from budget.outage.outbox import *\n"
        "box = Outbox(Path(sys.argv[1])); box.leave(Item(5, Refund('7' * 32)))",
        str(outbox.folder),
    )
    assert left(outbox) == [int("7" * 32, 16)]
