"""The seeded bugs of `python -m tests.proof mutants` still have a place to be put."""

from __future__ import annotations

import pytest
from proof.mutants import ROOT, Mutant, catch, mutants


@pytest.mark.parametrize("mutant", mutants(), ids=lambda mutant: mutant.name)
def test_its_text_stands_once_in_its_file(mutant: Mutant) -> None:
    assert mutant.found() == 1
    assert mutant.old != mutant.new
    assert all((ROOT / test.split()[0]).exists() for test in mutant.tests)


def test_there_are_enough() -> None:
    assert len({mutant.name for mutant in mutants()}) == len(mutants()) >= 60
    assert len({mutant.file for mutant in mutants()}) >= 20


def test_the_command_can_tell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is caught, one that no test minds, and one whose text is gone."""
    money = "tests/test_money.py::test_an_error_is_short"
    rows = [
        ("bad", "x", "budget/money.py", "text[:37]", "text[:377]", (money,)),
        (
            "harmless",
            "x",
            "budget/money.py",
            '"""Write nano-dollars for a person',
            '"""Write nanos for a person',
            (money,),
        ),
        ("gone", "x", "budget/money.py", "no such text", "", (money,)),
    ]
    monkeypatch.setattr("proof.mutants.TABLE", rows)
    assert not catch("", 2)
    said = capsys.readouterr().out
    words = [line.rpartition(": ")[2].split()[0] for line in said.splitlines()]
    assert words == ["caught", "SURVIVED", "NOT", "1"]
