"""The snippets of docs/records.md run as they stand, from top to bottom, in one folder; its pictures are there."""

from __future__ import annotations

import re
import shlex
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from budget.cli import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "records.md").read_text()
TRACE = (
    "time,user,input_tokens,output_tokens\n2026-01-01T00:00:00Z,carol,1000,200\n2026-01-01T00:00:05Z,carol,1000,200\n"
)
USAGE = """start_time,end_time,num_model_requests,project_id,api_key_id,model,batch,input_tokens,\
output_tokens,input_cached_tokens
{start},{end},3,proj_1,key_1,gpt-4o-2024-08-06,False,1000,50,400
"""


class Shell:
    """Runs lines of the command line in this process, and keeps what they export."""

    def __init__(self) -> None:
        self.environment = {"NO_COLOR": "1"}
        self.ran: list[str] = []

    def __call__(self, line: str) -> None:
        program, *words = shlex.split(line, comments=True)
        if program == "export":
            name, _, value = words[0].partition("=")
            self.environment[name] = value
            return
        assert program == "budget"
        done = CliRunner().invoke(main, words, env=self.environment)
        self.ran.append(done.stdout)
        differs = words[0] == "audit" and "days compared" in done.stderr
        assert done.exit_code == (1 if differs and done.exit_code else 0), (line, done.output, done.exception)


def test_the_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("duckdb")
    monkeypatch.chdir(tmp_path)
    midnight = int(datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0).timestamp())
    (tmp_path / "trace.csv").write_text(TRACE)
    (tmp_path / "usage.csv").write_text(USAGE.format(start=midnight, end=midnight + 60))
    shell, names = Shell(), {}  # type: Shell, dict[str, Any]
    for language, block in re.findall(r"```(python|sh)\n(.*?)```", PAGE, re.S):
        if language == "python":
            exec(compile(block, "records.md", "exec"), names)
        else:
            for line in block.splitlines():
                shell(line)
    assert len(shell.ran) > 20
    said = capsys.readouterr().out
    assert "session s1" in said or "session=s1" in said
    assert names["spent"].usd == 12 * names["budget"].cost(names["usage"], model="claude-sonnet-4-6").usd
    assert len((tmp_path / "calls.jsonl").read_text().splitlines()) == 12
    assert any("carol" in text or "old" in text for text in shell.ran)
    assert (tmp_path / "spent.svg").is_file()


def test_its_pictures_are_there_and_small() -> None:
    pictures = re.findall(r"!\[[^]]+\]\((images/[^)]+)\)", PAGE)
    assert len(pictures) == 3
    for picture in pictures:
        drawn = (ROOT / "docs" / picture).read_text()
        assert drawn.lstrip().startswith("<svg")
        assert len(drawn) < 60_000
        assert "http" not in re.sub(r"http://www\.w3\.org/[^\"]*", "", drawn), "a picture fetches nothing"
