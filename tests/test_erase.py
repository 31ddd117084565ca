"""Erasing a subject: no byte of it is left, and sums, chain and audit are as they were, on every store."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from budget.books.backup import back_up
from budget.books.books import Books
from budget.books.erasing import erase, erase_key
from budget.books.pruning import prune
from budget.engine import Budget
from budget.errors import BudgetExceeded, ConfigError, ReservationConflict, StoreUnavailable
from budget.stores.records import Records
from budget.stores.redis import RedisStore
from budget.stores.sqlite import SqliteStore
from budget.stores.sqliteerase import scrub

NAME = "alice.wonder+1@example.com"
LIMITS = ["$500/day", "per=user $50/hour", "$900/lifetime", "8 concurrent", "per=user $70/1h rolling"]
ACTOR = {"actor": "ops", "reason": "request of 3 March"}


@pytest.fixture
def books(
    budget_factory: Callable[..., Budget], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Budget, Books]]:
    monkeypatch.setenv("BUDGET_ERASE_KEY", "a key of sixteen characters")
    budget = budget_factory(limits=LIMITS)
    books = budget.engine.books
    books.adopt(Records(f"sqlite:///{tmp_path / 'records.db'}"), always=True)
    yield budget, books
    if books.records is not None:
        books.records.close()


def use(budget: Budget, books: Books, name: str = NAME) -> None:
    budget.limits.set("$20/day", user=name, reason=f"for {name}, as asked")
    budget.freeze(user=name, reason="x")
    budget.unfreeze(user=name)
    for i in range(12):
        user = name if i % 3 else "bob"
        reservation = budget.reserve("$0.5", user=user, session="s1")
        if i % 4:
            budget.reconcile(reservation, usd=f"0.{i:02d}1")
        else:
            budget.refund(reservation)
    with pytest.raises(BudgetExceeded):
        budget.reserve("$30", user=name)
    budget.record(usd="0.01", user=name, agent="helper")
    while books.drain_step():
        pass


def found_in(books: Books, name: str, folder: Path) -> list[str]:
    """Where the bytes of a name are: files beside the store, a server's keys and values."""
    needle, places = name.encode(), []
    for file in folder.rglob("*"):
        if file.is_file() and "outbox" not in str(file) and needle in file.read_bytes():
            places.append(file.name)
    if isinstance(books.store, RedisStore):
        with redis.Redis.from_url(books.store.url) as client:
            for key in client.scan_iter():
                kind = client.type(key)
                if needle in key + (client.dump(key) or b""):
                    places.append(f"{kind!r} {key!r}")
                if kind == b"hash" and needle in repr(client.hgetall(key)).encode():
                    places.append(f"{key!r}")
                if kind == b"stream" and needle in repr(client.xrange(key)).encode():
                    places.append(f"{key!r}")
        store = books.store  # what was asked is written in fewer bytes there
        read = [*store.entries("default", 0), *store.reservations("default"), *store.ended("default")]
        places += [repr(each) for each in read if needle in repr(each).encode()]
    return places


def test_nothing_is_left_and_everything_proves(books: tuple[Budget, Books], tmp_path: Path) -> None:
    budget, b = books
    use(budget, b)
    before = [(e.kind, e.amounts, e.at_us) for e in b.entries()]
    sums = sorted((k[1], v) for k, v in b.store.snapshot("default").buckets.items())
    spent = sorted((str(pool.limit), pool.spent) for pool in budget.status())
    done = erase(b, "user", NAME, {**ACTOR, "reason": f"asked by {NAME}"})
    assert done.clean
    assert done.entries > 10
    assert found_in(b, NAME, tmp_path) == []
    found = b.verify()
    assert found.faults == []
    entries = list(b.entries())
    assert [(e.kind, e.amounts, e.at_us) for e in entries][: len(before)] == before
    assert entries[-1].kind == "erased"
    assert sorted((k[1], v) for k, v in b.store.snapshot("default").buckets.items()) == sums
    theirs = [e for e in entries if e.scope.get("user") == done.pseudonym]
    assert theirs
    assert all(e.sealed for e in theirs)
    assert sorted((str(p.limit).replace(done.pseudonym, NAME), p.spent) for p in budget.status()) == spent
    assert NAME not in str([e.to_dict() for e in entries])
    reservation = budget.reserve("$1", user=NAME)  # who comes back begins anew
    budget.refund(reservation)
    assert b.verify().faults == []


def test_who_has_something_open_is_not_erased(books: tuple[Budget, Books]) -> None:
    budget, b = books
    use(budget, b)
    held = budget.reserve("$1", user=NAME)
    before = list(b.entries())
    with pytest.raises(ReservationConflict, match="is open"):
        erase(b, "user", NAME, ACTOR)
    assert list(b.entries()) == before
    budget.refund(held)
    erase(b, "user", NAME, ACTOR)
    assert b.verify().faults == []


def test_others_are_not_touched(books: tuple[Budget, Books]) -> None:
    budget, b = books
    for user in ("al", "alice", "alice2", "malice"):
        budget.record(usd="0.5", user=user, session="alice")
    budget.limits.set("$20/day", user="alice2", reason="not for alice, malice or alice2")
    erase(b, "user", "alice", ACTOR)
    entries = list(b.entries())
    users = [e.scope["user"] for e in entries if e.kind == "recorded"]
    assert [users[0], *users[2:]] == ["al", "alice2", "malice"]
    assert {e.scope["session"] for e in entries if e.kind == "recorded"} == {"alice"}
    change = next(e for e in entries if e.kind == "limit_set")
    assert change.detail["limit"] == "user=alice2 $20/day"
    assert change.detail["reason"].endswith(", malice or alice2")
    assert b.verify().faults == []


def test_twice_and_then_pruned(books: tuple[Budget, Books], tmp_path: Path) -> None:
    budget, b = books
    use(budget, b)
    first = erase(b, "user", NAME, ACTOR)
    use(budget, b, "bob@example.com")
    second = erase(b, "user", "bob@example.com", ACTOR)
    assert first.pseudonym != second.pseudonym
    assert b.verify().faults == []
    now = max(e.at_us for e in b.entries()) + 1
    prune(b, now, now, ACTOR)
    assert b.verify().faults == []
    use(budget, b, "carol@example.com")
    erase(b, "user", "carol@example.com", ACTOR)
    assert b.verify().faults == []
    for name in (NAME, "bob@example.com", "carol@example.com"):
        assert found_in(b, name, tmp_path) == []


def test_who_came_back_is_erased_again(books: tuple[Budget, Books], tmp_path: Path) -> None:
    budget, b = books
    use(budget, b)
    first = erase(b, "user", NAME, ACTOR)
    use(budget, b)
    if isinstance(b.store, RedisStore):  # its pools of then are in use
        with pytest.raises(ReservationConflict, match="erased before"):
            erase(b, "user", NAME, ACTOR)
    else:
        assert erase(b, "user", NAME, ACTOR).pseudonym == first.pseudonym
        assert found_in(b, NAME, tmp_path) == []
    assert b.verify().faults == []


@pytest.mark.parametrize(
    "damage",
    [
        "update entries set scope = replace(scope, 'erased-', 'erased_') where seq = $last",
        "update entries set usd = usd + 1 where seq = $last",
        "update entries set sealed = digest where seq = (select max(seq) from entries where sealed is null)",
        "update entries set sealed = zeroblob(32) where seq = $first",
        "update entries set sealed = null where seq = $first",
        "update entries set detail = replace(detail, '\"sealed\":\"', '\"sealed\":\"0') where kind = 'erased'",
        "delete from entries where kind = 'erased'",
    ],
)
def test_what_is_changed_in_an_erased_entry_is_found(books: tuple[Budget, Books], damage: str) -> None:
    budget, b = books
    use(budget, b)
    erase(b, "user", NAME, ACTOR)
    ledger = b.ledger()
    if not isinstance(ledger, SqliteStore):
        return
    db = sqlite3.connect(ledger.path)
    for word, which in (("$last", "max"), ("$first", "min")):
        damage = damage.replace(word, f"(select {which}(seq) from entries where sealed not null)")
    changed = db.execute(damage).rowcount
    db.commit()
    db.close()
    assert changed == 1
    assert not b.verify().ok


def test_free_pages_have_it_no_more(sqlite_url: str, make_budget: Callable[..., Budget], tmp_path: Path) -> None:
    budget = make_budget(sqlite_url)
    budget.record(usd="1", user=NAME)
    assert isinstance(budget.engine.store, SqliteStore)
    db = sqlite3.connect(budget.engine.store.path, isolation_level=None)
    db.execute("pragma secure_delete = off")
    db.execute("create table t (x)")
    db.execute("insert into t values (?)", (NAME * 500,))
    db.execute("drop table t")
    db.execute("pragma wal_checkpoint(truncate)")
    db.close()
    assert found_in(budget.engine.books, NAME * 3, tmp_path)
    erase(budget.engine.books, "user", NAME, ACTOR)
    assert found_in(budget.engine.books, NAME, tmp_path) == []


def test_a_backup_has_it_no_more(sqlite_url: str, make_budget: Callable[..., Budget], tmp_path: Path) -> None:
    budget = make_budget(sqlite_url, limits=LIMITS)
    use(budget, budget.engine.books)
    erase(budget.engine.books, "user", NAME, ACTOR)
    assert isinstance(budget.engine.store, SqliteStore)
    back_up(budget.engine.store, tmp_path / "copy.db")
    assert NAME.encode() not in (tmp_path / "copy.db").read_bytes()


def test_a_file_that_cannot_be_rewritten_is_said(sqlite_url: str, make_budget: Callable[..., Budget]) -> None:
    """Somebody else is at it, or the disk has no room for a second copy of it."""
    store = make_budget(sqlite_url).engine.store
    assert isinstance(store, SqliteStore)
    store.snapshot("default")
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("begin immediate")
        with pytest.raises(StoreUnavailable, match="erase it again"):
            scrub(store.path)
    assert scrub(store.path) is True



def test_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = erase_key(tmp_path / "budget.db")
    assert erase_key(tmp_path / "budget.db") == made
    file = tmp_path / "budget.db.erase-key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text().encode() == made
    monkeypatch.setenv("BUDGET_ERASE_KEY", "short")
    with pytest.raises(ConfigError, match="at least 16"):
        erase_key(tmp_path / "budget.db")
