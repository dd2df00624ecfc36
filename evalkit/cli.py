"""evalkit run | tables | report | explain | app | figure | study | list | bench."""

import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console
from rich.markup import escape

from evalkit.cli_app import serve
from evalkit.cli_bench import bench_app
from evalkit.cli_figure import figure_app
from evalkit.cli_options import ConfFolder, Overrides
from evalkit.cli_photos import Photographs, photo_command
from evalkit.cli_progress import meter
from evalkit.cli_study import study_app
from evalkit.errors import UserError, counted, did_you_mean, log_to_stderr, printable, remote_failure, shards_in_words

if TYPE_CHECKING:
    from evalkit.config import Job, RunConfig
    from evalkit.store import Fates

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


STOPPED = 130
"""What typer exits with after a KeyboardInterrupt."""


def main() -> None:
    """Entry point: a mistake of the user ends in one sentence and exit code 2."""
    signal.signal(signal.SIGTERM, _stop)  # a scheduler's warning: leave as on Ctrl-C, in order
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored, as under nohup
        signal.signal(signal.SIGINT, _stop)
    logging.getLogger("evalkit.on_slurm").setLevel(logging.INFO)  # which jobs were submitted is no warning
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


_asked_to_stop = threading.Event()


def _stop(*_: object) -> None:
    _asked_to_stop.set()  # for `advance`: where it strikes inside a finalizer, Python swallows the exception
    raise KeyboardInterrupt


@app.command()
def run(
    overrides: Overrides = None,
    multirun: Annotated[bool, typer.Option("-m", "--multirun", help="One run for each combination of comma-separated values.")] = False,
    conf: ConfFolder = None,
) -> None:
    """Evaluate methods on a model and data set; run the same command again to resume.

    evalkit run model=vgg16 data=imagenet data.root=/data/imagenet 'protocol.top_percent=[20,30,50]' out=results/table1
    """
    from evalkit.config import compose_jobs

    # All jobs are composed before torch is imported, so that a mistake is told at once.
    jobs = compose_jobs(overrides or [], multirun=multirun, conf=conf)
    for job in jobs:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(escape(_run_one(job, console)))


def _run_one(job: "Job", console: Console) -> str:
    """Run one job and show how far it is; returns what was done."""
    from evalkit import launch

    started, done, new = time.perf_counter(), 0, 0
    config = job.config
    with meter(config.model.name, console) as shown:

        def advance(images: int) -> None:
            nonlocal done
            if _asked_to_stop.is_set():
                raise KeyboardInterrupt
            done += images
            shown.advance(images)

        def announce(total: int, before: int) -> None:
            nonlocal new
            new = total - before
            shown.announce(total, before)

        folder = launch.run(job, advance, announce)
    seconds = time.perf_counter() - started
    done = min(done, new)  # idle workers repeat what others have claimed
    fates = folder.fates()
    what = "every shard was done before"
    if done:
        read = f" with {_taken(config)}" if config.maps_from is not None else ""
        what = f"{done} images in {seconds:.1f} s ({done / seconds:.1f} images/s, start included){read}{_left_out(fates)}"
    if fates.missing:
        what = f"{what if done else 'nothing computed here'}; {shards_in_words(len(fates.missing))} with other workers"
    return f"{config.model.name}: {what} -> {folder.path}"


def _taken(config: "RunConfig") -> str:
    """Which maps were read instead of computed."""
    from evalkit.store import RunFolder

    assert config.maps_from is not None
    theirs = RunFolder(config.maps_from).provenance["identity"]["method"]
    return f"the maps of {', '.join(name for name in config.method if name in theirs)} from {config.maps_from}"


def _left_out(fates: "Fates") -> str:
    """What the tables will not count, told while it can still be mended."""
    names = {"error": "unreadable", "nonfinite": f"without finite maps or scores ({printable(counted(fates.nonfinite))})"}
    return "".join(f"; {fates.images[status]} {name}" for status, name in names.items() if fates.images[status])


@app.command()
def tables(
    runs: Annotated[list[str], typer.Argument(help="Run folders, or folders of run folders; also s3://bucket/folder.")],
    out: Annotated[
        Path | None, typer.Option(help="Where tables and figures go; default the folder itself, or results/tables for several.")
    ] = None,
    allow_incomplete: Annotated[bool, typer.Option(help="Render runs that are not finished; the caption says so.")] = False,
    figures: Annotated[bool, typer.Option(help="Draw the figures too.")] = True,
) -> None:
    """Print Tables 1 and 2 from runs; write Markdown, CSV, LaTeX and figures.

    evalkit tables results/table1 results/table2
    """
    from evalkit.render import print_tables, write_all
    from evalkit.runs import load_runs

    if figures:
        from evalkit.plots import write_figures
    loaded = load_runs(runs, allow_incomplete=allow_incomplete)
    folder = out or _own_folder(runs)
    found = write_all(loaded, folder, write_figures if figures else None)
    print_tables(Console(), loaded, *found)
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        escape(f"written: {folder}/tables.md, tables.tex, summary.csv, comparisons.csv, maps.csv" + (", figures/" if figures else ""))
    )


def _own_folder(runs: list[str]) -> Path:
    """Where what is made of runs goes, unless somebody says where."""
    return Path(runs[0]) if len(runs) == 1 and "://" not in runs[0] else Path("results/tables")


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(help="Run folders, or folders of run folders; s3:// and the like too.")],
    out: Annotated[Optional[Path], typer.Option(help="The HTML file; default report.html where `evalkit tables` writes.")] = None,  # noqa: UP045
    gallery: Annotated[int, typer.Option(min=0, help="Images in the gallery for every reason to be shown.")] = 24,
    data_root: Annotated[Optional[str], typer.Option(help="Where the images are now, if they have moved.")] = None,  # noqa: UP045
    allow_incomplete: Annotated[bool, typer.Option(help="Report unfinished runs, and say so.")] = False,
) -> None:
    """One HTML file that opens from disk: tables, tests, figures, excluded images, and a gallery of images with their maps.

    evalkit report results/table1 results/table2 --out report.html
    """
    from evalkit.report.document import write_report
    from evalkit.runs import load_runs
    from evalkit.storage import writable_file

    file = out or _own_folder(runs) / "report.html"
    writable_file(file, "--out")
    notes = write_report(load_runs(runs, allow_incomplete=allow_incomplete), file, each=gallery, root=data_root)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for note in notes:
        console.print(escape(note))
    console.print(escape(f"written: {file} ({file.stat().st_size / 2**20:.1f} MB)"))


@app.command()
def explain(
    arguments: Photographs,
    out: Annotated[Path, typer.Option(help="Folder for the PNGs.")] = Path("explanations"),
    conf: ConfFolder = None,
) -> None:
    """Show what each method highlights on photographs: one PNG an image.

    evalkit explain dog.jpg model=resnet50 'method=[grad_cam,ablation_cam]' target=207
    """
    asked = photo_command("explain", arguments, out, conf, methods="[ablation_cam,grad_cam]")
    from evalkit.explain import explain_images

    for file in explain_images(asked.config, asked.files, asked.out):
        Console(highlight=False, soft_wrap=True).print(escape(str(file)))


app.command("app")(serve)


@app.command("list")
def list_things(
    what: Annotated[str, typer.Argument(help="models, methods, data or layers")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="For layers: the model, then overrides.", metavar="[MODEL] [OVERRIDES]...")
    ] = None,
    conf: ConfFolder = None,
) -> None:
    """List what can be chosen: models, methods, data, or the layers of a model.

    evalkit list layers resnet50
    """
    from evalkit import listing

    kinds = {"models": listing.models, "methods": listing.methods, "data": listing.data}
    if what == "layers":
        if not overrides:
            raise UserError("list layers needs a model: evalkit list layers resnet50")
        table = listing.layers(overrides[0], overrides[1:], conf)
    elif what in kinds:
        table = kinds[what](conf)
    else:
        raise UserError(f"cannot list '{what}'{did_you_mean(what, [*kinds, 'layers'])}")
    Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160).print(table)
