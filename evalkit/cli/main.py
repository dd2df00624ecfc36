"""evalkit run | tables | report | explain | app | figure | study | list | bench."""

import logging
import signal
import sys

import typer
from rich.console import Console
from rich.markup import escape

from evalkit.cli.app import serve
from evalkit.cli.bench import bench_app
from evalkit.cli.explain import explain
from evalkit.cli.figure import figure_app
from evalkit.cli.listing import list_things
from evalkit.cli.report import report
from evalkit.cli.run import Stopped, asked_to_stop, run
from evalkit.cli.study import study_app
from evalkit.cli.tables import tables
from evalkit.errors import UserError, log_to_stderr, printable, remote_failure

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
for command in (run, tables, report, explain):
    app.command()(command)
app.command("app")(serve)
app.command("list")(list_things)


STOPPED = 130
"""Exit code of typer after a KeyboardInterrupt."""


def main() -> None:
    """Run the command line; an error of the user ends it with one sentence and exit code 2."""
    signal.signal(signal.SIGTERM, _stop)  # sent by schedulers before they kill: stop as on Ctrl-C
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # but not where it is ignored, as under nohup
        signal.signal(signal.SIGINT, _stop)
    logging.getLogger("evalkit.launch.slurm").setLevel(logging.INFO)  # it logs the submitted jobs as information
    log_to_stderr(logging.WARNING)
    try:
        app()
    except UserError as error:
        _exit_with_error(str(error))
    except Stopped as stop:
        _exit_stopped(str(stop))
    except SystemExit as stop:
        if stop.code == STOPPED:
            _exit_stopped("stopped")
        raise
    except Exception as reason:
        message = remote_failure(reason)
        if message is None:
            raise
        _exit_with_error(f"{message}; check the address and the credentials, then run the same command again: what is finished is kept")


def _exit_with_error(message: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[red]error:[/red] {escape(printable(message))}")
    sys.exit(2)


def _exit_stopped(message: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(escape(printable(message)))
    sys.exit(STOPPED)


def _stop(*_: object) -> None:
    asked_to_stop.set()
    raise KeyboardInterrupt
