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
from evalkit.cli.run import asked_to_stop, run
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
"""What typer exits with after a KeyboardInterrupt."""


def main() -> None:
    """Entry point: a mistake of the user ends in one sentence and exit code 2."""
    signal.signal(signal.SIGTERM, _stop)  # a scheduler's warning: leave as on Ctrl-C, in order
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored, as under nohup
        signal.signal(signal.SIGINT, _stop)
    logging.getLogger("evalkit.launch.slurm").setLevel(logging.INFO)  # which jobs were submitted is no warning
    log_to_stderr(logging.WARNING)
    try:
        app()
    except UserError as mistake:
        _refuse(str(mistake))
    except SystemExit as ended:
        if ended.code == STOPPED:
            Console(stderr=True).print("stopped" + ("; the same command continues where it was" if sys.argv[1:2] == ["run"] else ""))
        raise
    except Exception as reason:
        said = remote_failure(reason)
        if said is None:
            raise
        _refuse(f"{said}; check the address and the credentials, then run the same command again: what is finished is kept")


def _refuse(why: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[red]error:[/red] {escape(printable(why))}")
    sys.exit(2)


def _stop(*_: object) -> None:
    asked_to_stop.set()
    raise KeyboardInterrupt
