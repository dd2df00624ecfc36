"""evalkit run | tables | verdict | audit | plan | report | export | verify | leaderboard | explain | app | figure | study | list."""

import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from evalkit.cli.app import serve
from evalkit.cli.audit import audit
from evalkit.cli.bench import bench_app
from evalkit.cli.console import note
from evalkit.cli.explain import explain
from evalkit.cli.export import export
from evalkit.cli.figure import figure_app
from evalkit.cli.leaderboard import leaderboard
from evalkit.cli.listing import list_things
from evalkit.cli.plan import plan
from evalkit.cli.report import report
from evalkit.cli.run import Stopped, asked_to_stop, run
from evalkit.cli.study import study_app
from evalkit.cli.tables import tables
from evalkit.cli.verdict import verdict
from evalkit.cli.verify import verify
from evalkit.errors import UserError, first_line, log_to_stderr, printable, remote_failure
from evalkit.imports import exit_of_users_code

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(bench_app, name="bench")
app.add_typer(study_app, name="study")
app.add_typer(figure_app, name="figure")
for command in (run, tables, verdict, audit, plan, report, export, verify, leaderboard, explain):
    app.command()(command)
app.command("app")(serve)
app.command("list")(list_things)


STOPPED = 130
"""Exit code of typer after a KeyboardInterrupt."""
BROKEN_PIPE = 1
"""Exit code of typer and rich where the reader of the output has ended, as `head` does."""


def main() -> None:
    """Run the command line; an error of the user ends it with one sentence and exit code 2."""
    signal.signal(signal.SIGTERM, _stop)  # sent by schedulers before they kill: stop as on Ctrl-C
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # but not where it is ignored, as under nohup
        signal.signal(signal.SIGINT, _stop)
    _make_streams_usable()
    log_to_stderr(logging.WARNING)
    try:
        with _output_errors_as_user_errors():
            app()
    except UserError as error:
        exit_with_error(str(error))
    except Stopped as stop:
        _exit_stopped(str(stop))
    except SystemExit as stop:
        if stop.code == STOPPED:
            _exit_stopped("stopped")
        message = exit_of_users_code(stop)
        if message is None:
            raise
        exit_with_error(message)
    except Exception as reason:
        if isinstance(reason, FileNotFoundError) and _no_current_folder():
            exit_with_error("the current folder was deleted; change to another one (cd) and run the same command again")
        message = remote_failure(reason)
        if message is None:
            raise
        exit_with_error(f"{message}; check the address and the credentials, then run the same command again: what is finished is kept")


def _no_current_folder() -> bool:
    try:
        os.getcwd()  # noqa: PTH109 - Path.cwd is the same
    except FileNotFoundError:
        return True
    return False


def _make_streams_usable() -> None:
    """Replace what a terminal's encoding lacks by `?`, and let output go nowhere where its stream was closed before the start."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - open until Python ends
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextmanager
def _output_errors_as_user_errors() -> Iterator[None]:
    """End without a traceback where standard output cannot be written: silently with `BROKEN_PIPE` where nobody reads it any more."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # else Python does so after main, where an error is a traceback
    except BrokenPipeError:
        _discard_output()
        sys.exit(BROKEN_PIPE)
    except OSError as reason:
        if not _is_of_output(reason):
            raise
        _discard_output()
        raise UserError(f"cannot write to standard output ({reason.strerror or first_line(reason)})") from reason


def _is_of_output(reason: OSError) -> bool:
    """Return whether an error came from printing: here, or in one of the two libraries that print."""
    file = Path(traceback.extract_tb(reason.__traceback__)[-1].filename)
    return file == Path(__file__) or not {"rich", "typer"}.isdisjoint(file.parts)


def _discard_output() -> None:
    """Let Python's last flush of standard output go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exit_with_error(message: str) -> None:
    """Print a message to stderr and exit with 2."""
    note(printable(message), "[red]error:[/red] ")
    sys.exit(2)


def _exit_stopped(message: str) -> None:
    note(printable(message))
    sys.exit(STOPPED)


def _stop(*_: object) -> None:
    asked_to_stop.set()
    raise KeyboardInterrupt
