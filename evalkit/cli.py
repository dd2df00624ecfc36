"""evalkit run | tables | explain | app | list | bench."""

import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from evalkit.cli_app import serve
from evalkit.cli_photos import ConfFolder, Photographs, photo_command
from evalkit.errors import UserError, did_you_mean, log_to_stderr, printable, remote_failure, shards_in_words

if TYPE_CHECKING:
    from evalkit.config import Job

app = typer.Typer(
    no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)
bench_app = typer.Typer(no_args_is_help=True, help="Time evalkit against others, side by side in one process.")
app.add_typer(bench_app, name="bench")

Overrides = Annotated[Optional[list[str]], typer.Argument(help="Hydra overrides, such as model=vgg16 'method=[grad_cam,ablation_cam]'.")]  # noqa: UP045
JsonFile = Annotated[Optional[Path], typer.Option("--json", help="Write the figures there, as flat keys.")]  # noqa: UP045
Threads = Annotated[Optional[int], typer.Option(min=1, help="Threads of all contestants.")]  # noqa: UP045


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
            Console(stderr=True).print("stopped; the same command continues where it was")
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
    """Run one job under a progress bar, which stays away where nobody watches; returns what was done."""
    from evalkit import launch

    started, done, new = time.perf_counter(), 0, 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _ImagesPerSecond(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(job.config.model.name, total=None)

        def advance(images: int) -> None:
            nonlocal done
            if _asked_to_stop.is_set():
                raise KeyboardInterrupt
            done += images
            bar.advance(task, images)

        def announce(total: int, before: int) -> None:
            nonlocal new
            new = total - before
            bar.update(task, total=total, completed=before)

        folder = launch.run(job, advance, announce)
    seconds = time.perf_counter() - started
    done = min(done, new)  # idle workers repeat what others have claimed
    missing, fates = folder.fates()
    what = "every shard was done before"
    if done:
        what = f"{done} images in {seconds:.1f} s ({done / seconds:.1f} images/s){_left_out(fates)}"
    if missing:
        what = f"{what if done else 'nothing computed here'}; {shards_in_words(len(missing))} with other workers"
    return f"{job.config.model.name}: {what} -> {folder.path}"


def _left_out(fates: Counter[str]) -> str:
    """What the tables will not count, told while it can still be mended."""
    names = {"error": "unreadable", "nonfinite": "without finite maps or scores"}
    return "".join(f"; {fates[status]} {name}" for status, name in names.items() if fates[status])


class _ImagesPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} images/s" if task.speed else "")


@app.command()
def tables(
    runs: Annotated[list[str], typer.Argument(help="Run folders, or folders of run folders; also s3://bucket/folder.")],
    out: Annotated[
        Path | None, typer.Option(help="Where tables and figures go; default the folder itself, or results/tables for several.")
    ] = None,
    allow_incomplete: Annotated[bool, typer.Option(help="Render runs that are not finished; the caption says so.")] = False,
    figures: Annotated[bool, typer.Option(help="Draw the figures too.")] = True,
) -> None:
    """Print Tables 1 and 2 from runs; write markdown, CSV, LaTeX and figures."""
    from evalkit.render import print_tables, write_all
    from evalkit.runs import load_runs

    if figures:
        from evalkit.plots import write_figures
    loaded = load_runs(runs, allow_incomplete=allow_incomplete)
    folder = out or (Path(runs[0]) if len(runs) == 1 and "://" not in runs[0] else Path("results/tables"))
    summary, comparisons = write_all(loaded, folder, write_figures if figures else None)
    print_tables(Console(), loaded, summary, comparisons)
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        escape(f"written: {folder}/tables.md, tables.tex, summary.csv, comparisons.csv, maps.csv" + (", figures/" if figures else ""))
    )


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
    """List what can be chosen: models, methods, data, or the layers of a model."""
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


@bench_app.command()
def ablation(
    model: Annotated[str, typer.Option(help="A name from `evalkit list models`.")] = "vgg16",
    json_file: JsonFile = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved repeats; medians are reported.")] = 9,
    threads: Threads = None,
    peer: Annotated[bool, typer.Option(help="Time pytorch-grad-cam too (optional package grad-cam).")] = True,
    overrides: Overrides = None,
) -> None:
    """Exact Ablation-CAM, images to maps, against a plain forward pass and against pytorch-grad-cam."""
    from evalkit.bench import bench_ablation

    figures = bench_ablation(
        model, overrides or [], batch_size=batch_size, repeats=repeats, threads=threads, peer=peer, json_file=json_file
    )
    _print_figures(figures)


@bench_app.command()
def spatial(
    model: Annotated[str, typer.Option(help="A name from `evalkit list models`.")] = "densenet169",
    window: Annotated[int, typer.Option(min=1, help="Side of the ablated square, in cells of the activation map.")] = 1,
    stride: Annotated[int, typer.Option(min=1, help="By how many cells it moves.")] = 1,
    json_file: JsonFile = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved repeats; medians are reported.")] = 5,
    sampled: Annotated[int, typer.Option(min=1, help="Passes of the whole network that are timed and scaled to all.")] = 16,
    threads: Threads = None,
    overrides: Overrides = None,
) -> None:
    """Ablating positions (FastAblationCAM) against ablating channels: both naively, both exactly, and a plain forward pass."""
    from evalkit.bench_spatial import bench_spatial

    figures = bench_spatial(
        model,
        overrides or [],
        window=window,
        stride=stride,
        batch_size=batch_size,
        repeats=repeats,
        sampled=sampled,
        threads=threads,
        json_file=json_file,
    )
    _print_figures(figures)


@bench_app.command()
def floor(
    images: Annotated[Path, typer.Option(help="A folder of images.")],
    model: Annotated[str, typer.Option(help="A name from `evalkit list models`.")] = "resnet50",
    json_file: JsonFile = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    limit: Annotated[Optional[int], typer.Option(min=1, help="The first so many images.")] = None,  # noqa: UP045
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved repeats; medians are reported.")] = 3,
    threads: Annotated[Optional[int], typer.Option(min=1, help="Threads of the network's passes.")] = None,  # noqa: UP045
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode.")] = 2,
    overrides: Overrides = None,
) -> None:
    """A whole evaluation, decode to parquet, against the plain forward passes that it cannot do without."""
    from evalkit.bench_floor import bench_floor

    figures = bench_floor(
        model,
        images,
        overrides or [],
        batch_size=batch_size,
        limit=limit,
        repeats=repeats,
        threads=threads,
        workers=workers,
        json_file=json_file,
    )
    _print_figures(figures)


@bench_app.command()
def peers(
    model: Annotated[Optional[list[str]], typer.Option(help="Names from `evalkit list models`; may be given several times.")] = None,  # noqa: UP045
    csv_file: Annotated[Optional[Path], typer.Option("--csv", help="Write the table there, and a figure beside it.")] = None,  # noqa: UP045
    batch_size: Annotated[int, typer.Option(min=1)] = 4,
    repeats: Annotated[int, typer.Option(min=2, help="Interleaved repeats; medians are reported.")] = 3,
    threads: Threads = None,
    overrides: Overrides = None,
) -> None:
    """An evaluation, and each method alone, against pytorch-grad-cam, torch-cam and captum."""
    from evalkit.bench_peers import bench_peers

    found = bench_peers(model or ["resnet50"], overrides or [], batch_size=batch_size, repeats=repeats, threads=threads, csv_file=csv_file)
    shown = ["model", "task", "library", "images", "repeats", "seconds_per_image", "times_ours"]
    table = Table(*shown)
    for row in found[shown].itertuples(index=False):
        table.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row))
    Console().print(table)


def _print_figures(figures: dict[str, Any]) -> None:
    table = Table("figure", "value")
    for key, value in figures.items():
        table.add_row(key, f"{value:.4g}" if isinstance(value, float) else str(value))
    Console().print(table)
