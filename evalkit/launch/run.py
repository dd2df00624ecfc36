"""One run by one worker: prepare, then compute the missing shards."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from evalkit.config.schema import Job, SlurmLauncher
from evalkit.evaluation.loop import Progress, compute
from evalkit.evaluation.session import Session, open_session
from evalkit.launch.rank import worker_rank
from evalkit.runs.claims import Claims
from evalkit.runs.folder import RunFolder
from evalkit.runs.like import shared_end
from evalkit.runs.provenance import identify, provenance, shard_metadata
from evalkit.runs.stored_maps import reused
from evalkit.runs.watch import Watch

Announce = Callable[[int, int], None]
"""Function called once with the number of images of the run and the number of those that are already done."""


@dataclass(frozen=True)
class Prepared:
    """A loaded and checked job, and its folder, made or resumed."""

    session: Session
    folder: RunFolder
    missing: dict[int, int]
    """Shards that still have to be computed, with the number of their images that do."""
    watch: Watch | None = None
    """What ends a run with `until`."""

    @property
    def counts(self) -> tuple[int, int]:
        """Arguments of `Announce`: the number of images of the run, and how many of them are done."""
        images = self.folder.images
        return images, images - sum(self.missing.values())


def prepare(job: Job, device: str | None = None) -> Prepared:
    """Load and check a job; `device` replaces the configured one where shards are computed elsewhere. Raises UserError."""
    config = job.config if device is None else job.config.model_copy(update={"device": device})
    session = open_session(config, worker_rank().local_rank)
    folder, identity = RunFolder(config.out), identify(session)
    if config.maps_from is not None:
        session = replace(session, stored=reused(RunFolder(config.maps_from), identity))
    end = None if config.until_from is None else shared_end(RunFolder(config.until_from), identity)
    folder.create_or_resume(identity, provenance(session), job.yaml, len(session.positions), config.images_per_shard)
    if end is not None:
        folder.record_end(end)
    question = config.question(session.methods)
    watch = None if question is None else Watch(folder, question, config.seed)
    if watch is not None:
        watch.over()  # a worker may have been killed before it looked
    missing = folder.images_left(maps=config.maps == "store")
    folder.discard_needless_parts(missing)
    return Prepared(session, folder, missing, watch)


def run_job(job: Job, progress: Progress | None = None, announce: Announce | None = None) -> RunFolder:
    """Compute the missing shards of one run, together with any other workers of the same run, and return its folder.

    Raises UserError: bad configuration, or the folder belongs to another run.
    """
    prepared = prepare(job)
    folder, session = prepared.folder, prepared.session
    if announce is not None:
        announce(*prepared.counts)
    if prepared.missing:
        stored = job.config.maps == "store"

        def is_done(shard: int) -> bool:
            return folder.is_done(shard, maps=stored)

        with Claims(folder.path / "claims") as claims:
            if prepared.watch is None:
                order, over = claims.take(list(prepared.missing), is_done, start=worker_rank().start), None
            else:
                order, over = claims.in_order(list(prepared.missing), is_done, ahead=2 * _workers(job)), prepared.watch.over
            compute(session, folder, order, shard_metadata(session), progress, claims.release, over=over)
    return folder


def _workers(job: Job) -> int:
    """Return how many workers share the run as far as this one knows, and at least 4, since others may join."""
    tasks = job.config.launcher.tasks if isinstance(job.config.launcher, SlurmLauncher) else 1
    return max(4, worker_rank().size, tasks)
