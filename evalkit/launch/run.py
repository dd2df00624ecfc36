"""One run by one worker: prepare, then compute the missing shards."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from evalkit.config.schema import Job
from evalkit.evaluation.loop import Progress, compute
from evalkit.evaluation.session import Session, open_session
from evalkit.launch.rank import worker_rank
from evalkit.runs.claims import Claims
from evalkit.runs.folder import RunFolder
from evalkit.runs.provenance import identify, provenance, shard_metadata
from evalkit.runs.stored_maps import reused

Announce = Callable[[int, int], None]
"""Function called once with the number of images of the run and the number of those that are already done."""


@dataclass(frozen=True)
class Prepared:
    """A loaded and checked job, and its folder, made or resumed."""

    session: Session
    folder: RunFolder
    missing: dict[int, int]
    """Shards that still have to be computed, with the number of their images that do."""

    @property
    def counts(self) -> tuple[int, int]:
        """Arguments of `Announce`: the number of images of the run, and how many of them are done."""
        images = len(self.session.positions)
        return images, images - sum(self.missing.values())


def prepare(job: Job, device: str | None = None) -> Prepared:
    """Load and check a job; `device` replaces the configured one where shards are computed elsewhere. Raises UserError."""
    config = job.config if device is None else job.config.model_copy(update={"device": device})
    session = open_session(config, worker_rank().local_rank)
    folder, identity = RunFolder(config.out), identify(session)
    if config.maps_from is not None:
        session = replace(session, stored=reused(RunFolder(config.maps_from), identity))
    folder.create_or_resume(identity, provenance(session), job.yaml, len(session.positions), config.shard_size)
    missing = folder.images_left(maps=config.maps == "store")
    folder.discard_needless_parts(missing)
    return Prepared(session, folder, missing)


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
        with Claims(folder.path / "claims") as claims:
            order = claims.take(list(prepared.missing), lambda shard: folder.is_done(shard, maps=stored), start=worker_rank().start)
            compute(session, folder, order, shard_metadata(session), progress, claims.release)
    return folder
