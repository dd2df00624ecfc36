"""Every command explains itself with an example, and shows nothing half."""

from collections.abc import Iterator

import click
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from evalkit.cli.main import app


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The names of all commands below one."""
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))
    if path and not getattr(command, "commands", {}):
        yield path


@pytest.mark.parametrize("path", list(commands(get_command(app))), ids=" ".join)
def test_help(path):
    printed = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).output
    assert f"evalkit {' '.join(path)}" in printed.partition("Usage:")[2].partition("\n")[2]  # an example, beside the usage
    assert "\x1b[" not in printed and "method='" not in printed
    assert "overrides" not in printed or "'method=[grad_cam,ablation_cam]'" in printed or path[0] in ("figure", "explain", "list")


def test_there_are_all_commands():
    assert {path[0] for path in commands(get_command(app))} == {
        "run",
        "tables",
        "verdict",
        "audit",
        "plan",
        "report",
        "export",
        "leaderboard",
        "explain",
        "verify",
        "app",
        "list",
        "bench",
        "study",
        "figure",
    }
