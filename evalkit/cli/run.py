"""evalkit run."""

import threading
import time
from typing import TYPE_CHECKING, Annotated

import typer

from evalkit.cli.console import lines, note
from evalkit.cli.options import ConfFolder, Overrides, size_in_data
from evalkit.cli.progress import meter
from evalkit.errors import counted, printable, shards_in_words

if TYPE_CHECKING:
    from evalkit.config.schema import Job, RunConfig
    from evalkit.runs.folder import ImageCounts, RunFolder

asked_to_stop = threading.Event()
"""Set by the signal handler that stops the command, since Python ignores an exception raised inside a finalizer."""


class Stopped(Exception):
    """A run was stopped by Ctrl-C or SIGTERM; the message says what is kept."""


def run(
    overrides: Overrides = None,
    multirun: Annotated[bool, typer.Option("-m", "--multirun", help="One run for each combination of comma-separated values.")] = False,
    conf: ConfFolder = None,
) -> None:
    """Evaluate methods on a model and data set; run the same command again to resume.

    evalkit run model=vgg16 data=imagenet data.root=/data/imagenet 'protocol.top_percent=[20,30,50]' out=results/table1

    evalkit run 'method=[score_cam]' like=results/table1

    The second computes a further method with all other settings of a run, into a folder beside it.
    """
    from evalkit.config.compose import compose_jobs
    from evalkit.runs.like import beside

    jobs = compose_jobs(
        overrides or [], multirun=multirun, conf=conf, size=size_in_data
    )  # all, so that errors come before torch is imported
    for job, remark in [beside(job, multirun=multirun) for job in jobs]:
        if remark:
            note(remark)
        if job.proposal:
            note(f"{job.config.model.name}: {job.proposal}")
        note(_run_one(job))


def _run_one(job: "Job") -> str:
    """Run one job, show its progress, and return a summary in one line."""
    from evalkit.launch.start import start_job
    from evalkit.runs.folder import RunFolder
    from evalkit.runs.like import apart

    started, done, new, images = time.perf_counter(), 0, 0, 0
    config = job.config
    with meter(config.model.name, lines(stderr=True)) as display:

        def advance(images: int) -> None:
            nonlocal done
            if asked_to_stop.is_set():
                raise KeyboardInterrupt
            done += images
            display.advance(images)

        def announce(total: int, before: int) -> None:
            nonlocal new, images
            new, images = total - before, total
            display.announce(total, before)
            if job.like is not None and (why := apart(RunFolder(config.out), job.like)):
                note(why)

        try:
            folder = start_job(job, advance, announce)
        except KeyboardInterrupt as stop:
            raise Stopped(_kept(config, images)) from stop
    seconds = time.perf_counter() - started
    done = min(done, new)  # idle workers repeat shards that others have claimed
    counts = folder.image_counts()
    summary = "every shard was done before"
    if done:
        read = f" with {_reused_maps(config)}" if config.maps_from is not None else ""
        summary = f"{done} images in {seconds:.1f} s ({done / seconds:.1f} images/s, start included){read}{_excluded(counts)}"
    if counts.missing:
        summary = f"{summary if done else 'nothing computed here'}; {shards_in_words(len(counts.missing))} left to other workers"
    together = "" if job.like is None or apart(folder, job.like) else f"; one table of both: evalkit tables {job.like.path} {folder.path}"
    return f"{config.model.name}: {summary}{_ending(folder)} -> {folder.path}{together}"


def _ending(folder: "RunFolder") -> str:
    """Return how a run with `until` ended, as text; empty for other runs."""
    from evalkit.output.stopping import ending
    from evalkit.output.tables import describe_point

    ended = ending(folder.provenance, describe_point)
    return f"; {ended.removesuffix('.')}" if ended else ""


def _kept(config: "RunConfig", images: int) -> str:
    """Return what is kept of a stopped run of so many images, as text; 0 images where it was stopped before it could look."""
    from evalkit.runs.folder import RunFolder

    if not images:
        return "stopped before it began to compute; the same command continues where the run was"
    kept = images - sum(RunFolder(config.out).images_left(maps=config.maps == "store").values())
    if not kept:
        return f"stopped: none of {images:,} images was finished, so nothing is kept in {config.out}; the same command starts again"
    return f"stopped: {kept:,} of {images:,} images are kept in {config.out}; the same command continues with the rest"


def _reused_maps(config: "RunConfig") -> str:
    """Return which maps were read instead of computed, as text."""
    from evalkit.layer_names import method_of
    from evalkit.runs.folder import RunFolder

    assert config.maps_from is not None
    theirs = set(map(method_of, RunFolder(config.maps_from).provenance["identity"]["method"]))
    return f"the maps of {', '.join(name for name in config.method if name in theirs)} from {config.maps_from}"


def _excluded(counts: "ImageCounts") -> str:
    """Return how many images the tables will exclude, and why, as text, so that the user can fix the causes early."""
    names = {"error": "unreadable", "nonfinite": f"without finite maps or scores ({printable(counted(counts.nonfinite))})"}
    causes = [f"{counts.images[status]} {name}" for status, name in names.items() if counts.images[status]]
    scored = counts.total - sum(counts.images[status] for status in names)
    return f"; {scored} of {counts.total} images scored ({', '.join(causes)})" if causes else ""
