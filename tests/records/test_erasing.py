"""Erasing a subject: no byte of it is left in the file of records either, whoever has it open; sums stay."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_callfile import USAGE, agree, imported, rows, sums

from budget.books.books import Books
from budget.books.erasing import erase as erase_ledger
from budget.books.pruning import prune
from budget.engine import Budget
from budget.errors import BudgetExceeded, ReservationConflict
from budget.limits import Limit
from budget.records import CallFile
from budget.records.erasing import erase
from budget.stores.records import Records

NAME = 'alice "w" ünder+1@example.com'
SHADOW = Limit("$1/day", per="user", mode="shadow")
ACTOR = {"actor": "ops", "reason": "request of 3 March"}


@pytest.fixture
def books(
    budget_factory: Callable[..., Budget], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Budget, Books]]:
    monkeypatch.setenv("BUDGET_ERASE_KEY", "a key of sixteen characters")
    budget = budget_factory(limits=["$500/day", "per=user $100/hour", SHADOW])
    books = budget.engine.books
    books.adopt(Records(f"sqlite:///{tmp_path / 'records.db'}"), always=True)
    yield budget, books
    if books.records is not None:
        books.records.close()


def use(budget: Budget, name: str = NAME) -> None:
    budget.limits.set("$20/day", user=name)
    for i in range(6):
        held = budget.reserve("$0.7", user=name if i % 2 else "bob", customer=name, session="alice", agent="x")
        budget.reconcile(held, USAGE, model="claude-sonnet-4-6") if i % 3 else budget.reconcile(held, usd="0.1")
    with pytest.raises(BudgetExceeded):
        budget.reserve("$30", user=name)


def holding(folder: Path, name: str = NAME) -> list[str]:
    """The files of records that have the bytes of a name."""
    needles = [name.encode(), json.dumps(name)[1:-1].encode()]
    files = [file for file in folder.rglob("*-calls*") if file.is_file()]
    return [file.name for file in files if any(needle in file.read_bytes() for needle in needles)]


def test_nothing_is_left(books: tuple[Budget, Books], tmp_path: Path) -> None:
    budget, b = books
    file = CallFile(b)
    use(budget)
    file.put([imported("i1", NAME, note=NAME), imported("i2", "ivan", customer="x")])
    before = {key: value for key, value in sums(file).items() if key[2] != NAME}
    assert holding(tmp_path) or file.path is None
    for attribute in ("user", "customer", "note"):
        done = erase(b, attribute, NAME, ACTOR)
        assert done.clean
        agree_besides(file, b, {"i1", "i2"})
    if file.path is not None:  # another instance's memory keeps what was imported there
        assert holding(tmp_path) == []
        assert NAME not in str([*rows(file).values()])
    after = sums(file)
    assert before.items() <= after.items()
    assert {name for (dim, _, name) in after if dim == "session"} == {"alice", None}
    for name in ("carol", NAME):  # who comes back begins anew
        use(budget, name)
        agree_besides(file, b, {"i1", "i2"})
    file.close()


def agree_besides(file: CallFile, books: Books, imported: set[str]) -> None:
    """Rows are what the erased ledger says, with imported ones besides."""
    other = CallFile(books, Path(f"{file.path}-other") if file.path else None)
    agree(other, books.entries())
    found = rows(file)
    assert {id: row for id, row in found.items() if id not in imported} == rows(other)
    assert found.keys() >= imported
    turned = 'select seq, part, at, shadow, "limit", scope, model from turned order by 1, 2, 4'
    assert file.open().execute(turned).fetchall() == other.open().execute(turned).fetchall()
    other.close()
    if file.path is not None:
        for name in file.path.parent.glob(f"{file.path.name}-other*"):
            name.unlink()


def test_whoever_did_not_take_part_reads_anew(books: tuple[Budget, Books], tmp_path: Path) -> None:
    """Such as a file in another process's memory, or one whose eraser was killed."""
    budget, b = books
    file = CallFile(b)
    use(budget)
    file.put([imported("i1")])
    db = file.open()
    erase_ledger(b, "user", NAME, ACTOR)
    erase_ledger(b, "customer", NAME, ACTOR)
    use(budget, "bob")
    agree_besides(file, b, {"i1"})
    assert holding(tmp_path) == []
    assert NAME not in str(db.execute("select text from names").fetchall())
    assert file.catch_up() == 0
    file.close()


def test_sums_of_pruned_days_have_the_pseudonym(books: tuple[Budget, Books], tmp_path: Path) -> None:
    budget, b = books
    file = CallFile(b)
    if file.path is None:
        pytest.skip("what is in memory is made anew, without the sums of what was pruned")
    use(budget)
    file.catch_up()
    now = max(entry.at_us for entry in b.entries()) + 1
    prune(b, now, now, ACTOR)
    before = sums(file)
    done = erase(b, "user", NAME, ACTOR)
    erase(b, "customer", NAME, ACTOR)
    pseudonymous = {key: value for key, value in sums(file).items() if key[2] == done.pseudonym}
    assert [*pseudonymous.values()] == [value for key, value in before.items() if key[2] == NAME]
    assert rows(file) == {}
    assert holding(tmp_path) == []
    file.close()


def test_who_is_not_erased_stays(books: tuple[Budget, Books]) -> None:
    budget, b = books
    file = CallFile(b)
    use(budget)
    before = rows(file)
    held = budget.reserve("$1", user=NAME)
    with pytest.raises(ReservationConflict, match="is open"):  # the store answers: not StoreUnavailable
        erase(b, "user", NAME, ACTOR)
    assert rows(file) == before
    budget.refund(held)
    file.close()


def test_a_run_is_erased_where_it_is_a_parent(sqlite_url: str, make_budget: Callable[..., Budget],
                                              monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    monkeypatch.setenv("BUDGET_ERASE_KEY", "a key of sixteen characters")
    budget = make_budget(sqlite_url)
    file = CallFile(budget.engine.books)
    with budget.run() as outer, budget.run():
        budget.record(usd="0.1")
    file.open()
    done = erase(budget.engine.books, "run", outer.id, ACTOR)
    [entry] = [entry for entry in budget.entries() if entry.kind == "recorded"]
    assert entry.detail["parent"] == done.pseudonym
    query = "select text from calls join names on names.id = parent"
    assert file.open().execute(query).fetchall() == [(done.pseudonym,)]
    assert holding(tmp_path, outer.id) == []
    file.close()
