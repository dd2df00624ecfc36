"""evalkit run."""

import threading
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from evalkit.cli.options import ConfFolder, Overrides
from evalkit.cli.progress import meter
from evalkit.errors import counted, printable, shards_in_words

if TYPE_CHECKING:
    from evalkit.config.schema import Job, RunConfig
    from evalkit.runs.folder import ImageCounts

asked_to_stop = threading.Event()
"""Set by whoever stops the command: where the signal arrives inside a finalizer, Python swallows its exception."""


def run(
    overrides: Overrides = None,
    multirun: Annotated[bool, typer.Option("-m", "--multirun", help="One run for each combination of comma-separated values.")] = False,
    conf: ConfFolder = None,
) -> None:
    """Evaluate methods on a model and data set; run the same command again to resume.

    evalkit run model=vgg16 data=imagenet data.root=/data/imagenet 'protocol.top_percent=[20,30,50]' out=results/table1
    """
    from evalkit.config.compose import compose_jobs

    # All jobs are composed before torch is imported, so that a mistake is told at once.
    jobs = compose_jobs(overrides or [], multirun=multirun, conf=conf)
    for job in jobs:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(escape(_run_one(job, console)))


def _run_one(job: "Job", console: Console) -> str:
    """Run one job and show its progress; returns a sentence on what was done."""
    from evalkit.launch.start import start_job

    started, done, new = time.perf_counter(), 0, 0
    config = job.config
    with meter(config.model.name, console) as shown:

        def advance(images: int) -> None:
            nonlocal done
            if asked_to_stop.is_set():
                raise KeyboardInterrupt
            done += images
            shown.advance(images)

        def announce(total: int, before: int) -> None:
            nonlocal new
            new = total - before
            shown.announce(total, before)

        folder = start_job(job, advance, announce)
    seconds = time.perf_counter() - started
    done = min(done, new)  # idle workers repeat what others have claimed
    counts = folder.image_counts()
    what = "every shard was done before"
    if done:
        read = f" with {_taken(config)}" if config.maps_from is not None else ""
        what = f"{done} images in {seconds:.1f} s ({done / seconds:.1f} images/s, start included){read}{_left_out(counts)}"
    if counts.missing:
        what = f"{what if done else 'nothing computed here'}; {shards_in_words(len(counts.missing))} with other workers"
    return f"{config.model.name}: {what} -> {folder.path}"


def _taken(config: "RunConfig") -> str:
    """Which maps were read instead of computed."""
    from evalkit.runs.folder import RunFolder

    assert config.maps_from is not None
    theirs = RunFolder(config.maps_from).provenance["identity"]["method"]
    return f"the maps of {', '.join(name for name in config.method if name in theirs)} from {config.maps_from}"


def _left_out(counts: "ImageCounts") -> str:
    """What the tables will not count, told while it can still be mended."""
    names = {"error": "unreadable", "nonfinite": f"without finite maps or scores ({printable(counted(counts.nonfinite))})"}
    return "".join(f"; {counts.images[status]} {name}" for status, name in names.items() if counts.images[status])
