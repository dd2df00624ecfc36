"""The page on the documents: every row has a verdict, and a command that is checked as far as it goes here."""

import re
import shlex

import pytest
from builders import ROOT
from shown import PROGRAMS, Reader

from evalkit.analysis import resampling

TEXT = (ROOT / "docs" / "coverage.md").read_text()
ROWS = {cells[0]: cells for line in re.findall(r"^\| ([A-Z]\d.*) \|$", TEXT, re.MULTILINE) if (cells := line.split(" | "))}
VERDICTS = ("Runs", "Holds", "Does not hold", "Cannot be told", "Not measured", "Out of scope")


def test_rows():
    assert len(ROWS) == len(re.findall(r"^\| [A-Z]\d", TEXT, re.MULTILINE)) > 10
    for row, cells in ROWS.items():
        assert len(cells) == 5, row
        verdict = re.match(r"\*\*(.+?)\.?\*\*", cells[4])
        assert verdict and verdict.group(1) in VERDICTS, f"{row}: {cells[4]}"
        commanded = "`" in cells[3]
        assert commanded != (verdict.group(1) == "Out of scope"), row
        measured = verdict.group(1) in ("Holds", "Does not hold", "Cannot be told")
        assert not measured or any(source in cells[4] for source in ("results/", "a test", "by definition")), f"{row} names no source"


def test_rows_are_numbered():
    for letter in {row[0] for row in ROWS}:
        numbers = [int(row[1:]) for row in ROWS if row[0] == letter]
        assert numbers == list(range(1, len(numbers) + 1)), letter


@pytest.mark.parametrize("row", [row for row, cells in ROWS.items() if "`" in cells[3]])
def test_commands(row, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resampling, "RESAMPLES", 50)
    reader = Reader(tmp_path, [])
    for command in re.findall(r"`([^`]+)`", ROWS[row][3]):
        words = shlex.split(command)
        if words[0] in PROGRAMS:
            reader.do(words)
        else:
            assert (ROOT / words[0]).is_file(), command
