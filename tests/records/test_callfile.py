"""The file of records: its rows are what the ledger says of calls, its daily sums are those of its rows, always."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budget.books.books import Books
from budget.books.moving import move
from budget.books.pruning import prune
from budget.engine import Budget
from budget.errors import BudgetExceeded, ConfigError
from budget.ledger import Entry
from budget.limits import Limit
from budget.records import CallFile, Record
from budget.records.callfile import day_of, text_id
from budget.records.moving import move_imported
from budget.stores.records import Records, put_entries
from budget.stores.sqlite import SqliteStore
from budget.stores.sqliteadmin import account_id, copy_file, transaction
from budget.testing import Sandbox

MODEL = "claude-sonnet-4-6"
USAGE = {"input_tokens": 20, "output_tokens": 30, "cache_read_input_tokens": 7, "cache_creation_input_tokens": 5}
DIMS = ("user", "session", "agent", "project", "model", "provider")
SHADOW = Limit("$1/day", per="user", mode="shadow")
ACTOR = {"actor": "ops", "reason": "test"}


def told(entries: Iterable[Entry]) -> dict[str, list[Any]]:
    """What a ledger says of its calls, by a second way: id -> nano-dollars, four token counts, attributes, end."""
    calls: dict[str, list[Any]] = {}
    for entry in entries:
        id, usage = entry.reservation, entry.detail.get("usage")
        if entry.kind == "pruned":
            calls = {id: call for id, call in calls.items() if call[7] > entry.detail["upto"]}
        if id is None or "link" in entry.detail:
            continue
        if entry.kind == "refunded" and entry.detail.get("late"):
            calls.pop(id, None)
        if entry.kind not in ("reconciled", "expired", "recorded"):
            continue
        if id not in calls:
            if entry.detail.get("late"):
                continue
            scope = {"provider": entry.detail.get("provider"), **entry.scope, "model": entry.model}
            calls[id] = [0, 0, 0, 0, 0, scope, entry.at_us, entry.seq]
        call = calls[id]
        call[0] += entry.amounts[0]
        if usage is None:
            call[1] += entry.amounts[2]
            call[2] += entry.amounts[3]
        else:
            written = sum(usage.get("cache_write", {}).values())
            read = usage.get("cache_read", 0)
            call[1:5] = [usage.get("input", 0) + read + written, usage.get("output", 0), read, written]
    return calls


def rows(file: CallFile) -> dict[str, list[Any]]:
    """The calls of a file, in the shape of `told`."""
    db = file.open()
    names = dict(db.execute("select id, text from names"))
    found = db.execute(
        f"select id, usd, input, output, cache_read, cache_write, at, seq, {', '.join(DIMS)}, run, tags from calls "
        "where account = ?",
        (file.account,),
    ).fetchall()
    calls = {}
    for id, usd, input, output, read, written, at, seq, *values, run, tags in found:
        pairs = zip((*DIMS, "run"), (*values, run), strict=True)
        scope = {dim: None if value is None else names[value] for dim, value in pairs}
        calls[text_id(id)] = [usd, input, output, read, written, scope, at, seq, tags]
    return calls


def sums(file: CallFile) -> dict[tuple[str, int, str | None], tuple[int, ...]]:
    db = file.open()
    names = dict(db.execute("select id, text from names"))
    query = """select dim, day, value, calls, usd, input, output, cache_read, cache_write, refused from totals
        where account = ?"""
    return {(d, day, names.get(v)): tuple(rest) for d, day, v, *rest in db.execute(query, (file.account,))}


def agree(file: CallFile, entries: Iterable[Entry]) -> None:
    """Rows are what the ledger says, and sums are those of rows and refusals."""
    entries = list(entries)
    expected, found = told(entries), rows(file)
    assert found.keys() == expected.keys()
    daily: dict[tuple[str, int, str | None], list[int]] = {}

    def count(scope: dict[str, Any], at: int, figures: list[int]) -> None:
        for dim in ("", *DIMS):
            day = daily.setdefault((dim, day_of(at), scope.get(dim) if dim else None), [0] * 7)
            day[:] = [a + b for a, b in zip(day, figures, strict=True)]

    for id, (*figures, scope, at, seq) in expected.items():
        row = found[id]
        assert row[:5] == figures
        assert {k: v for k, v in row[5].items() if v} == {k: scope[k] for k in (*DIMS, "run") if scope.get(k)}
        assert row[6:8] == [at, seq]
        count(scope, at, [1, *figures, 0])
    for entry in entries:
        if entry.kind == "refused":
            scope = {"provider": entry.detail.get("provider"), **entry.scope, "model": entry.model}
            count(scope, entry.at_us, [0, 0, 0, 0, 0, 0, 1])
    assert sums(file) == {key: tuple(figures) for key, figures in daily.items()}
    turned = file.db.execute("select shadow, count(*) from turned where part = 0 group by shadow").fetchall()
    refused = sum(entry.kind == "refused" for entry in entries)
    shadowed = sum(entry.kind == "reserved" and "shadow" in entry.detail for entry in entries)
    assert dict(turned) == {key: count for key, count in ((0, refused), (1, shadowed)) if count}


# What the engine writes.

STEP = st.tuples(
    st.sampled_from(["reserve", "reserve", "reserve", "end", "end", "expire", "record", "day", "read", "refused"]),
    st.integers(0, 5), st.integers(0, 4), st.sampled_from(["usage", "usd", "refund", "tokens"]),
)  # fmt: skip


def play(budget: Sandbox, steps: Iterable[tuple[str, int, int, str]], read: Callable[[], None]) -> None:
    held: list[Any] = []
    for verb, which, who, how in steps:
        scope: dict[str, Any] = {"user": f"u{who}"} | ({"team": 'x"é', "agent": "a"} if who % 2 else {"project": "p"})
        if verb == "reserve":
            held.append(budget.reserve("$0.5", tokens=40, lease=60, session=f"s{which}", model=MODEL, **scope))
        elif verb == "refused":
            with pytest.raises(BudgetExceeded):
                budget.reserve("$400", **scope)
        elif verb == "end" and held:
            one = held.pop(which % len(held))
            if how == "refund":
                budget.refund(one)
            elif how == "usage":
                budget.reconcile(one, USAGE, model="claude-haiku-4-5")
            else:
                budget.reconcile(one, **({"usd": "0.25"} if how == "usd" else {"usd": "0.75", "tokens": 9}))
        elif verb == "expire":
            budget.clock.move("90s")
            budget.status()
        elif verb == "record":
            budget.record(USAGE, model=MODEL, **scope) if which % 2 else budget.record(usd="0.01", **scope)
        elif verb == "day":
            budget.clock.move("7h")
            held = held[-2:]
        elif verb == "read":
            read()


@settings(max_examples=40)
@given(st.lists(STEP, max_size=40))
def test_it_is_what_the_ledger_says(steps: list[tuple[str, int, int, str]]) -> None:
    with Sandbox(limits=["$300/day", "per=user $90/day", SHADOW]) as budget:
        books = budget.engine.books
        early, late = CallFile(books), CallFile(books)
        play(budget, steps, lambda: agree(early, budget.entries()))
        entries = list(budget.entries())
        agree(early, entries)
        agree(late, entries)
        assert early.catch_up() == 0
        early.close()
        late.close()


def a_ledger() -> list[Entry]:
    """One with every kind of end, on several days."""
    with Sandbox(limits=["$300/day", SHADOW]) as budget:
        steps = [
            (verb, i * 7 % 5, i % 5, ("usage", "usd", "refund", "tokens")[i % 4])
            for i in range(60) for verb in ("reserve", "reserve", "end", "record", *(["expire"] if i % 5 == 0 else []),
                                            *(["day", "refused"] if i % 20 == 0 else []))
        ]  # fmt: skip
        play(budget, steps, lambda: None)
        entries = list(budget.entries())
    assert any(entry.detail.get("late") for entry in entries)
    return entries


def test_it_reads_a_file_s_ledger_alike(tmp_path: Path) -> None:
    """Which is read past the entries that say nothing of a call."""
    entries = a_ledger()
    store = SqliteStore(tmp_path / "copy.db")
    books = Books(store, "default")
    file = CallFile(books)
    for part in (entries[:50], entries[50:51], entries[51:]):
        with transaction(store.path) as db:
            put_entries(db, account_id(db, "default"), part)
        agree(file, books.entries())
    assert len(rows(file)) > 50
    assert file.path == tmp_path / "copy.db-calls"
    assert file.path.stat().st_mode & 0o777 == 0o600
    file.close()
    store.close()


# What operators do.


@pytest.fixture
def books(budget_factory: Callable[..., Budget], tmp_path: Path) -> Iterator[tuple[Budget, Books]]:
    budget = budget_factory(limits=["$500/day", "per=user $100/hour"])
    books = budget.engine.books
    books.adopt(Records(f"sqlite:///{tmp_path / 'records.db'}"), always=True)
    yield budget, books
    if books.records is not None:
        books.records.close()


def use(budget: Budget, count: int = 8, **scope: str) -> None:
    for i in range(count):
        reservation = budget.reserve("$0.5", tokens=50, user=f"u{i % 3}", model=MODEL, **scope)
        if i % 4:
            budget.reconcile(reservation, USAGE, model=MODEL)
        else:
            budget.refund(reservation)
    with pytest.raises(BudgetExceeded):
        budget.reserve("$499", user="u1")


def test_every_store(books: tuple[Budget, Books]) -> None:
    budget, b = books
    file = CallFile(b)
    agree(file, [])
    use(budget)
    agree(file, b.entries())
    use(budget)
    agree(file, b.entries())
    assert len(rows(file)) == 12
    file.close()


def test_a_server_that_is_not_drained_is_read_whole(make_budget: Callable[..., Budget], redis_url: str) -> None:
    """Its refusals stand beside the sequence: those after the last entry count, too, and all of them once."""
    budget = make_budget(redis_url, limits=["$1/day"])
    for refused in (1, 2):
        with pytest.raises(BudgetExceeded):
            budget.reserve("$2", user="alice")
        assert [(row.calls, row.refused) for row in budget.report()] == [(0, refused)]
    budget.record(usd="0.25", user="alice")
    with pytest.raises(BudgetExceeded):
        budget.reserve("$2", user="alice")
    assert [(row.calls, row.usd, row.refused) for row in budget.report()] == [(1, Decimal("0.25"), 3)]
    with pytest.raises(ConfigError, match="beside a records store"):
        CallFile(budget.engine.books).put([])


def test_two_files_at_once_count_each_entry_once(sqlite_url: str, make_budget: Callable[..., Budget]) -> None:
    budget = make_budget(sqlite_url, limits=["$500/day", "per=user $100/hour"])
    one, other = CallFile(budget.engine.books), CallFile(budget.engine.books)
    for _ in range(3):
        use(budget)
        one.catch_up()
        use(budget)
        agree(other, budget.entries())
        agree(one, budget.entries())
    one.close()
    other.close()


def test_accounts_share_a_file(sqlite_url: str, make_budget: Callable[..., Budget]) -> None:
    one = make_budget(sqlite_url, limits=["$500/day", "per=user $100/hour"])
    other = make_budget(sqlite_url, limits=["$500/day", "per=user $100/hour"], account="other")
    files = [CallFile(budget.engine.books) for budget in (one, other)]
    use(one)
    assert [len(rows(file)) for file in files] == [6, 0]
    use(other, 4)
    assert [len(rows(file)) for file in files] == [6, 3]
    one.engine.books.remove()
    assert [len(rows(file)) for file in files] == [0, 3]
    for file in files:
        file.close()


def test_pruned_entries_have_no_rows_and_their_sums_stay(books: tuple[Budget, Books]) -> None:
    budget, b = books
    file = CallFile(b)
    use(budget)
    before = sums(file)
    now = max(entry.at_us for entry in b.entries()) + 1
    assert prune(b, now, now, ACTOR).entries
    assert (rows(file), sums(file)) == ({}, before)
    use(budget)
    assert len(rows(file)) == 6
    assert sums(file)["", day_of(now), None][0] == 12
    file.close()
    anew = CallFile(b, None if file.path is None else file.path.with_name("anew"))
    agree(anew, [entry for entry in b.entries() if entry.kind != "pruned"])
    anew.close()


def test_a_ledger_that_goes_back_is_read_anew(sqlite_url: str, tmp_path: Path) -> None:
    path = tmp_path / "budget.db"
    with Budget(sqlite_url, limits=["$500/day", "per=user $100/hour"]) as budget:
        use(budget)
        budget.status()
    copy_file(path, tmp_path / "copy.db")
    with Budget(sqlite_url, limits=["$500/day", "per=user $100/hour"]) as budget:
        use(budget)
        file = CallFile(budget.engine.books)
        file.put([imported("i1")])
        agree_but(file, budget.entries())
        file.close()
    for more in (0, 24):  # the restored one is shorter, then longer than what was read, with other entries
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        copy_file(tmp_path / "copy.db", path)
        with Budget(sqlite_url, limits=["$500/day", "per=user $100/hour"]) as budget:
            use(budget, more) if more else None
            file = CallFile(budget.engine.books)
            agree_but(file, budget.entries())
            file.close()


def agree_but(file: CallFile, entries: Iterable[Entry]) -> None:
    """As the ledger says, with one imported call besides."""
    found = rows(file)
    assert found.keys() - told(entries).keys() == {"i1"}
    assert sums(file)["user", day_of(AT), "ivan"][:2] == (1, 7)
    total = Counter[str]()
    for (dim, *_), figures in sums(file).items():
        total[dim] += figures[1]
    assert set(total.values()) == {sum(call[0] for call in found.values())}


AT = 1_700_000_000_000_000


def imported(id: str, user: str = "ivan", **tags: str) -> Record:
    return Record(id, 0, AT, {"user": user, **tags}, MODEL, "anthropic", 7, 10, 5, 2, 1, None, None, None, None, None,
                  False, 1200, None, "ok", None)  # fmt: skip


def test_imported_records_are_put_once_and_stay(books: tuple[Budget, Books]) -> None:
    budget, b = books
    file = CallFile(b)
    use(budget)
    assert file.put([imported("i1"), imported("i1")]) == 1
    assert file.put([imported("i1")]) == 0
    agree_but(file, b.entries())
    b.remove()
    assert rows(file).keys() == {"i1"}
    assert len(sums(file)) == 7
    file.close()


def test_what_failed_leaves_nothing(sqlite_url: str, make_budget: Callable[..., Budget]) -> None:
    file = CallFile(make_budget(sqlite_url).engine.books)

    def some() -> Iterator[Record]:
        yield imported("i1")
        raise OSError("the file that is imported ends")

    with pytest.raises(OSError, match="ends"):
        file.put(some())
    assert rows(file) == {}
    file.put([imported("i1", note="again")])
    assert [row[5]["user"] for row in rows(file).values()] == ["ivan"]
    file.close()


@pytest.mark.parametrize("id", ["", "a", "0123456789abcdef", "x" * 15, "x" * 16, "ab" * 16, "AB" * 16, "é" * 8])
def test_ids_of_others_are_kept_as_they_are(id: str) -> None:
    with Sandbox() as budget:
        file = CallFile(budget.engine.books)
        file.put([imported(id)])
        assert list(rows(file)) == [id]
        file.close()


def test_a_move(books: tuple[Budget, Books], tmp_path: Path) -> None:
    budget, b = books
    use(budget)
    source = CallFile(b)
    agree(source, b.entries())
    target = Books(SqliteStore(tmp_path / "target.db"), "default")
    move(b, target, ACTOR)
    file = CallFile(target)
    agree(file, target.entries())
    assert len(rows(file)) == 6
    agree(source, b.entries())
    source.put([imported("i1", note="x"), imported("x" * 16)])
    assert [move_imported(b, target) for _ in range(2)] == ([0, 0] if source.path is None else [2, 0])
    if source.path is not None:
        assert {id: row[:7] + row[8:] for id, row in rows(file).items()} == {
            id: row[:7] + row[8:] for id, row in rows(source).items()
        }
    source.close()
    file.close()
    target.store.close()


# What happens to files.


@pytest.mark.parametrize("bytes", [b"this is no database" * 300, None])
def test_a_damaged_file_is_put_aside(sqlite_url: str, make_budget: Callable[..., Budget], bytes: bytes | None,
                                     caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    budget = make_budget(sqlite_url, limits=["$500/day", "per=user $100/hour"])
    use(budget)
    file = CallFile(budget.engine.books)
    assert file.path is not None
    agree(file, budget.entries())
    file.close()
    whole = file.path.read_bytes()
    file.path.write_bytes(bytes or whole[:4096] + b"\xff" * (len(whole) - 4096))
    use(budget)
    agree(file, budget.entries())
    assert "was damaged" in caplog.text
    assert file.path.with_name(f"{file.path.name}.aside").exists()
    file.close()


@pytest.mark.parametrize("keeps", [False, True])
def test_a_file_of_another_version_is_made_anew(sqlite_url: str, make_budget: Callable[..., Budget], keeps: bool,
                                                caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    budget = make_budget(sqlite_url, limits=["$500/day", "per=user $100/hour"])
    use(budget)
    file = CallFile(budget.engine.books)
    file.put([imported("i1")] if keeps else [])
    file.open()
    file.close()
    assert file.path is not None
    with sqlite3.connect(file.path) as db:
        db.execute("pragma user_version = 77")
        db.execute("alter table calls add column later text")
    db.close()
    agree(file, budget.entries())
    aside = file.path.with_name(f"{file.path.name}.aside")
    assert aside.exists() == ("another version" in caplog.text) == keeps
    if keeps:
        with sqlite3.connect(aside) as db:
            assert db.execute("select count(*) from calls where seq < 0").fetchone() == (1,)
        db.close()
    file.close()


def test_a_file_that_was_deleted_is_made_anew(sqlite_url: str, make_budget: Callable[..., Budget]) -> None:
    budget = make_budget(sqlite_url, limits=["$500/day", "per=user $100/hour"])
    use(budget)
    file = CallFile(budget.engine.books)
    agree(file, budget.entries())
    assert file.path is not None
    for suffix in ("", "-wal", "-shm"):
        file.path.with_name(file.path.name + suffix).unlink()
    agree(file, budget.entries())
    assert file.path.exists()
    file.close()


def test_a_forked_child_opens_it_anew(sqlite_url: str, make_budget: Callable[..., Budget]) -> None:
    budget = make_budget(sqlite_url, limits=["$500/day", "per=user $100/hour"])
    use(budget)
    file = CallFile(budget.engine.books)
    agree(file, budget.entries())
    parents = file.db
    pid = os.fork()
    if pid == 0:
        try:
            use(budget)
            os._exit(0 if len(rows(file)) == 12 and file.db is not parents else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    agree(file, budget.entries())
    assert len(rows(file)) == 12
    file.close()


def test_who_reads_sees_whole_portions(sqlite_url: str, make_budget: Callable[..., Budget]) -> None:
    """A reader with a transaction is not held up, and what it has begun to read does not change."""
    budget = make_budget(sqlite_url, limits=["$500/day", "per=user $100/hour"])
    use(budget)
    file = CallFile(budget.engine.books)
    db = file.open()
    db.execute("begin")
    assert db.execute("select count(*) from calls").fetchone() == (6,)
    use(budget)
    assert file.catch_up() > 0
    assert db.execute("select count(*) from calls").fetchone() == (6,)
    db.execute("commit")
    assert db.execute("select count(*) from calls").fetchone() == (12,)
    file.close()


# Runs.


def test_a_record_names_the_run_around_its_run() -> None:
    with Sandbox(limits=["$50/day"]) as budget:
        file = CallFile(budget.engine.books)
        with budget.run(agent="outer") as outer, budget.run(agent="inner"):
            budget.reconcile(budget.reserve("$1"), usd="0.5")
            budget.record(usd="0.1")
        with budget.run(agent="alone"):
            budget.record(usd="0.1")
        query = "select names.text from calls left join names on names.id = parent order by seq"
        assert file.open().execute(query).fetchall() == [(outer.id,), (outer.id,), (None,)]
        file.close()


# Entries that an engine writes seldom.


def put_all(tmp_path: Path, entries: Iterable[tuple[str, str, int, dict[str, Any]]]) -> tuple[CallFile, Books]:
    """A ledger with entries: kind, id, nano-dollars, detail."""
    store = SqliteStore(tmp_path / "made.db")
    made = [
        Entry(0, AT + i, kind, id * 32, (nanos, 15, 10, 5, 1), {"user": "u"}, detail, (), ("", "", ""), b"")
        for i, (kind, id, nanos, detail) in enumerate(entries)
    ]
    with transaction(store.path) as db:
        put_entries(db, account_id(db, "default"), made)
    books = Books(store, "default")
    return CallFile(books), books


def test_the_ends_of_links_and_extensions_are_no_calls(tmp_path: Path) -> None:
    link = {"link": {"kind": "batch", "id": "b1"}}
    file, books = put_all(tmp_path, [
        ("reserved", "1", 0, {}), ("reserved", "2", 0, link), ("reserved", "3", 0, {"extends": "1" * 32}),
        ("reconciled", "1", 100, {"usage": {"input": 1, "output": 2}}), ("refunded", "2", 0, link),
        ("refunded", "3", 0, {"extends": "1" * 32}), ("expired", "4", 0, link),
        ("refunded", "4", 0, {"late": True, **link}), ("expired", "5", 0, link),
    ])  # fmt: skip
    agree(file, books.entries())
    assert [(id, row[:3]) for id, row in rows(file).items()] == [("1" * 32, [100, 1, 2])]
    file.close()


def test_what_a_recovery_repeats_is_counted_once(tmp_path: Path) -> None:
    """The first end was lost on the server; the ledger took it back, and has it a second time."""
    end = {"usage": {"input": 1, "output": 2}}
    file, books = put_all(tmp_path, [
        ("reserved", "1", 0, {}), ("reconciled", "1", 100, end), ("lost", "", -100, {"entries": 1}),
        ("reconciled", "1", 100, {**end, "recovered": True}),
    ])  # fmt: skip
    assert [row[:3] for row in rows(file).values()] == [[100, 1, 2]]
    assert sums(file)["", day_of(AT), None][:2] == (1, 100)
    file.close()
    books.store.close()


def test_an_end_whose_reservation_was_forgotten_adds_to_its_call(tmp_path: Path) -> None:
    """It expired more than a week ago; its cost is booked once more, in full."""
    end = {"usage": {"input": 1, "output": 2}, "unknown": True}
    told = [("expired", "1", 500, {}), ("reconciled", "1", 100, end), ("recorded", "2", 7, {})]
    file, books = put_all(tmp_path, told)
    agree(file, books.entries())
    assert [row[:3] for row in rows(file).values()] == [[600, 1, 2], [7, 10, 5]]
    file.close()
    books.store.close()


def test_slices(sqlite_url: str, make_budget: Callable[..., Budget]) -> None:
    """A slice is a reservation that is given back; what is paid out of it are calls."""
    budget = make_budget(sqlite_url, limits=["$500/day"], slices="$1")
    for _ in range(20):
        budget.reconcile(budget.reserve("$0.1", user="u"), usd="0.05")
    budget.close()
    budget = make_budget(sqlite_url, limits=["$500/day"])
    file = CallFile(budget.engine.books)
    agree(file, budget.entries())
    assert len(rows(file)) == 20
    assert sum(row[0] for row in rows(file).values()) == 20 * 50_000_000
    file.close()


def test_the_account_above_has_calls_of_its_own(sqlite_url: str, make_budget: Callable[..., Budget]) -> None:
    budgets = [make_budget(sqlite_url, account=account, above="company") for account in ("one", "two")]
    for budget in budgets:
        with budget.run(user="u"):
            budget.reconcile(budget.reserve("$0.1"), usd="0.05")
            budget.record(usd="0.01")
    company = make_budget(sqlite_url, account="company")
    for budget, count in ((budgets[0], 2), (company, 4)):
        file = CallFile(budget.engine.books)
        agree(file, budget.entries())
        assert len(rows(file)) == count
        file.close()
