"""The command line, in a process of its own and in this one."""

import os
import subprocess
import sys

from builders import ROOT
from click.testing import Result
from typer.testing import CliRunner

from evalkit.cli import main

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
    "COLUMNS": "200",
    "NO_COLOR": "1",
}


def evalkit(*arguments: str, cwd=None, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "evalkit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**ENVIRONMENT, **environment}, timeout=300, check=False)


def here(*arguments: str) -> Result:
    """The same in this process: nothing is imported anew, and a mistake stays an exception."""
    return CliRunner().invoke(main.app, arguments, env={"COLUMNS": "200", "NO_COLOR": "1"})
