"""The command line: in a process of its own, in a fork of a process that has imported everything, and in this process."""

import contextlib
import io
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace

import pytest
from builders import ROOT
from click.testing import Result
from typer.testing import CliRunner

from evalkit.cli import main

PLAIN = {"COLUMNS": "200", "NO_COLOR": "1"}
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT / "tests"), os.environ.get("PYTHONPATH")])), **PLAIN}


def evalkit(*arguments: str) -> subprocess.CompletedProcess:
    """Run the command as a shell does: Python starts and imports everything, for several seconds."""
    command = [sys.executable, "-m", "evalkit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False)


def through_main(*arguments: str) -> subprocess.CompletedProcess:
    """Run the command in this process, with its exit code and what it prints; a traceback stays an exception."""
    out, err = io.StringIO(), io.StringIO()
    root, handlers = logging.getLogger(), {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = root.handlers, root.level
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(sys, "argv", ["evalkit", *arguments])
        for name, value in PLAIN.items():
            patch.setenv(name, value)
        root.handlers = []
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
                main.main()
        finally:
            root.handlers, root.level = before
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return subprocess.CompletedProcess(arguments, ended.value.code or 0, out.getvalue(), err.getvalue())


def here(*arguments: str) -> Result:
    """Run the command in this process; a mistake stays an exception."""
    return CliRunner().invoke(main.app, arguments, env=PLAIN)


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["evalkit.cli.main", "evalkit.launch.start", "evalkit.launch.local", "evalkit.photos.app.server", "uvicorn"])


def fork(target: Callable[..., None], args: Sequence[object], environment: dict[str, str] | None = None) -> multiprocessing.Process:
    """Make a process that has imported everything already: a fork of one that did, and that runs nothing else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
    return FORKS.Process(target=_in_environment, args=(dict(os.environ) | (environment or {}), target, args))


def _in_environment(environment: dict[str, str], target: Callable[..., None], args: Sequence[object]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    target(*args)


class ForkedWorkers:
    """Stands for `multiprocessing` in `evalkit.launch.local`: workers that need not import torch anew."""

    @staticmethod
    def get_context(_method: str) -> SimpleNamespace:
        return SimpleNamespace(Pipe=FORKS.Pipe, Process=fork)


class Command:
    """A command in a forked process, with a session of its own; its output goes to files in `folder`."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        folder.mkdir(exist_ok=True)
        self.out, self.err = folder / "stdout", folder / "stderr"
        self.process = fork(_main, (arguments, self.out, self.err), ENVIRONMENT)
        self.process.start()
        self.pid = self.process.pid

    def line(self) -> str:
        """Wait for the first line that the command prints."""
        while self.poll() is None and "\n" not in (self.out.read_text() if self.out.exists() else ""):
            time.sleep(0.01)
        return self.out.read_text().partition("\n")[0]

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"still runs after {timeout} s"
        return self.process.exitcode


def _main(arguments: Sequence[str], out: Path, err: Path) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as when Python starts
    for number, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), number)
    from evalkit.launch import local

    local.mp = SimpleNamespace(get_context=lambda _method: multiprocessing.get_context("fork"))
    sys.argv = ["evalkit", *arguments]
    main.main()
