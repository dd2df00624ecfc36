"""Scripts of experiments/ end as the command does: one sentence and exit code 2."""

import sys

import pytest

from evalkit.cli.script import run_script
from evalkit.errors import UserError


def missing_run(path: str) -> None:
    raise UserError(f"{path} is not a run folder")


def missing_file(path: str) -> None:
    with open(path, encoding="utf-8"):  # noqa: PTH123
        pass


def nameless(path: str) -> None:
    raise OSError(f"no connection to {path}")


@pytest.mark.parametrize(
    ("main", "says"),
    [
        (missing_run, "error: /nope is not a run folder\n"),
        (missing_file, "error: cannot open /nope (No such file or directory); check the paths on the command line\n"),
    ],
)
def test_a_wrong_path_is_one_sentence(main, says, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["script.py", "/nope"])
    with pytest.raises(SystemExit) as ended:
        run_script(main)
    assert ended.value.code == 2 and capsys.readouterr().err == says


def test_another_failure_stays_one(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script.py", "/nope"])
    with pytest.raises(OSError, match="no connection"):
        run_script(nameless)
