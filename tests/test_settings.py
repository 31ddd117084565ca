"""Values of the configuration that cannot be used, and a machine that lacks what others have: a typed error each."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from budget import Budget, Limit
from budget.config import configured_alerts, configured_sinks
from budget.errors import ArgumentTypeError, ConfigError
from budget.outage.outbox import Outbox, folder_of, waiting
from budget.stores.base import open_store


@pytest.fixture
def budget() -> Iterator[Budget]:
    with Budget("memory://") as made:
        yield made


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    def nobody(uid: int) -> Any:
        raise KeyError(uid)

    for name in ("HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)


@pytest.mark.parametrize("name", ["store", "records"])
def test_an_empty_url_hides_no_other(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would hide the store that the file names, and budgets would be counted in a file that nobody looks at."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"^{name}: '' names no store"):
        Budget(**{name: ""})
    Path("budget.toml").write_text(f'{name} = "sqlite:///theirs.db"\n')
    monkeypatch.setenv(f"BUDGET_{name.upper()}", "")
    with pytest.raises(ConfigError, match=f"unset BUDGET_{name.upper()}"):
        Budget()
    monkeypatch.delenv(f"BUDGET_{name.upper()}")
    Path("budget.toml").write_text(f'{name} = ""\n')
    with pytest.raises(ConfigError, match=f"^{name}: ''"):
        Budget()


def test_a_link_to_no_file_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says would not hold, or that of a parent would."""
    (tmp_path / "in").mkdir()
    (tmp_path / "budget.toml").write_text('store = "memory://"\n[[limits]]\nlimit = "$5/day"\n')
    monkeypatch.chdir(tmp_path / "in")
    Path("budget.toml").symlink_to("/nowhere/budget.toml")
    with pytest.raises(ConfigError, match=r"in/budget.toml: is a link that leads nowhere \(/nowhere/budget.toml\)$"):
        Budget("memory://")
    Path("budget.toml").unlink()
    Path("budget.toml").symlink_to("../budget.toml")
    with Budget() as budget:
        assert [str(limit) for limit in budget.limits] == ["$5/day"]


@pytest.mark.parametrize(("option", "error"), [('tz = "x"', ConfigError), ("user = 5", ArgumentTypeError)])
def test_a_limit_of_the_file_is_named(
    option: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = option.partition(" ")[0]
    Path("budget.toml").write_text(f'[[limits]]\nlimit = "$5/day"\n[[limits]]\nlimit = "$6/day"\n{option}\n')
    with pytest.raises(error, match=rf"^budget.toml: \[\[limits\]\] '\$6/day': {name}: "):
        Budget("memory://")


@pytest.mark.parametrize("name", ["store", "records"])
def test_a_url_that_is_no_text(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    url = os.fsdecode(b"sqlite:///\xff.db")  # as a shell hands over what is not UTF-8
    with pytest.raises(ConfigError, match=f"^{name}: it is not valid UTF-8"):
        Budget(**{name: url})
    monkeypatch.setenv(f"BUDGET_{name.upper()}", url)
    with pytest.raises(ConfigError, match=f"^{name}: it is not valid UTF-8"):
        Budget()


def test_nothing_in_the_environment_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For who runs sinks and alerts in a process of its own, as for every other."""
    monkeypatch.chdir(tmp_path)
    said = 'store = "memory://"\nsinks = ["jsonl:calls.jsonl"]\nalerts = ["default"]\nalert_to = ["email:a@b.c"]\n'
    Path("budget.toml").write_text(said)
    assert configured_sinks() == ("jsonl:calls.jsonl",)
    assert configured_alerts() == (("default",), ("email:a@b.c",))
    for name in ("SINKS", "ALERTS", "ALERT_TO"):
        monkeypatch.setenv(f"BUDGET_{name}", "")
    with Budget() as budget:
        settings = budget.settings
        assert configured_sinks() == settings.sinks == ()
        assert configured_alerts() == (settings.alerts, settings.alert_to) == ((), ())


def test_the_argument_s_limit_stands_in_the_place_of_the_file_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = ("$3/day", "$7/week", "$8/week", "$2/request")
    Path("budget.toml").write_text("".join(f'[[limits]]\nlimit = "{row}"\n' for row in rows))
    ends = Limit("$9/week", until=datetime(2099, 1, 1, tzinfo=UTC))
    with Budget("memory://", limits=["$4/day", "$5/day", "$3/request", ends]) as budget:
        assert [str(limit) for limit in budget.limits] == ["$4/day", "$3/request", "$9/week"]
        assert [str(limit) for limit in budget.settings.limits][-2:] == ["$7/week", "$8/week"]  # when that one ends
        assert budget.reserve("$2.50").state == "open"
        first = budget.status()[0]
        assert (str(first.limit), str(first.available)) == ("$4/day", "1.5")


def test_without_a_home_the_usual_store_is_asked_for(no_home: None) -> None:
    with pytest.raises(ConfigError, match=r"no home folder.*XDG_DATA_HOME"):
        Budget()
    with Budget("memory://") as budget:
        assert budget.reserve("$1").state == "open"


def test_without_a_home_what_waits_stays_in_memory(no_home: None, tmp_path: Path) -> None:
    folder = folder_of("redis://cache", "default")
    assert waiting(folder) == (0, 0)
    with pytest.raises(OSError, match="Not a directory"):
        folder.mkdir(parents=True)
    assert len(Outbox(folder)) == 0
    with Budget(f"sqlite:///{tmp_path}/b.db") as budget:
        assert budget.reserve("$1").state == "open"


def test_a_file_that_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "budget.toml"
    path.write_text("")

    def locked(self: Path, *args: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", locked)
        with pytest.raises(ConfigError, match=r"budget\.toml: cannot be read \(Permission denied\)"):
            Budget("memory://")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_file", locked)
        with pytest.raises(ConfigError, match=r"budget\.toml: cannot be looked at \(Permission denied\)"):
            Budget("memory://")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a working folder cannot be removed")
def test_a_working_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    try:
        with pytest.raises(ConfigError, match="working folder is gone"):
            Budget("memory://")
    finally:
        os.chdir(tmp_path)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:///:memory:", "use 'memory://'"),
        ("sqlite:///x.db?mode=ro", "takes no options"),
        ("redis://h/abc", "number of a database"),
        ("redis://user:secret@h:6379/1/2", "number of a database"),
        ("valkeys://h/0x", "number of a database"),
    ],
)
def test_a_url_that_means_something_else_is_refused(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h", "redis://h"),
        ("redis://h/3", "redis://h/3"),
        ("redis://u:secret@h?db=3", "redis://h/3"),
        ("redis://h/1?db=3", "redis://h/3"),
        ("unix:///run/x.sock?db=1", "unix:///run/x.sock?db=1"),
        ("redis+sentinel://h/mymaster/0?db=3", "redis+sentinel://h/mymaster/3"),
    ],
)
def test_a_database_is_shown_for_it_is_a_store_of_its_own(url: str, shown: str) -> None:
    store = open_store(url)
    store.close()
    assert store.url == shown


def test_what_an_outcome_must_be() -> None:
    with pytest.raises(ArgumentTypeError, match="outcome: int cannot be called"):
        Budget("memory://", outcome=5)


@pytest.mark.parametrize("reason", [5, b"why", ["why"]])
def test_what_a_reason_must_be(reason: Any, budget: Budget) -> None:
    changes: list[Callable[[], Any]] = [
        lambda: budget.limits.set("$6/day", reason=reason), lambda: budget.limits.unset("$5/day", reason=reason),
        lambda: budget.adjust("+$1", reason=reason), lambda: budget.freeze(user="a", reason=reason),
        lambda: budget.limits.set("$5/day", on_short="clamp", reason=reason),
    ]  # fmt: skip
    budget.limits.set("$5/day")
    for change in changes:
        with pytest.raises(ArgumentTypeError, match=r"reason: .* is not a text"):
            change()
    assert [str(limit) for limit in budget.limits] == ["$5/day"]
    assert not budget.limits.freezes()


def test_how_long_a_duration_may_be(budget: Budget) -> None:
    for far in ("999999999w", "53000w"):
        with pytest.raises(ConfigError, match=f"since: '{far}' is longer than 1,000 years"):
            budget.entries(since=far)
        with pytest.raises(ConfigError, match=f"until: '{far}' is longer"):
            budget.limits.set("$5/day", until=far)
    assert list(budget.entries(since="52000w")) == []
    assert budget.limits.set("$5/day", until="52000w").until is not None


def test_what_since_must_be(budget: Budget) -> None:
    with pytest.raises(ArgumentTypeError, match="since: int is neither an aware datetime"):
        budget.entries(since=5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="aware"):
        budget.entries(since=datetime(2026, 1, 1))  # noqa: DTZ001
