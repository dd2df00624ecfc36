"""The loop: load -> explain -> perturb -> score -> rows, shard by shard."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from evalkit import protocol
from evalkit.claims import Claims
from evalkit.config import Job, RunConfig
from evalkit.data.loader import Batch, batches
from evalkit.data.sources import ClassKey
from evalkit.fit import Fit
from evalkit.measures import Measures
from evalkit.provenance import identify, provenance, shard_metadata
from evalkit.records import ShardRecords
from evalkit.session import Session, apply_method, open_session
from evalkit.shards import world
from evalkit.stages import Stages
from evalkit.store import RunFolder
from evalkit.stored_maps import reused
from evalkit.targets import explained

Progress = Callable[[int], None]
"""Called with the number of images that were finished since the last call."""

Announce = Callable[[int, int], None]
"""Called once with the number of images of the run and how many of them this worker need not compute."""


@dataclass(frozen=True)
class Prepared:
    """Everything loaded and checked, and the folder made or recognised."""

    session: Session
    folder: RunFolder
    missing: dict[int, int]
    """Shards that still have to be computed, with their images' number."""

    @property
    def counts(self) -> tuple[int, int]:
        """What `Announce` tells: the run's images, and how many of them are done."""
        images = len(self.session.positions)
        return images, images - sum(self.missing.values())


def prepare(job: Job, device: str | None = None) -> Prepared:
    """Load and check a job, on another device than its own where it is computed elsewhere. Raises UserError."""
    config = job.config if device is None else job.config.model_copy(update={"device": device})
    session = open_session(config)
    folder, identity = RunFolder(config.out), identify(session)
    if config.maps_from is not None:
        session = replace(session, stored=reused(RunFolder(config.maps_from), identity.facts))
    folder.create_or_resume(identity, provenance(session), job.yaml, len(session.positions), config.shard_size)
    size = folder.provenance["shard_size"]
    missing = folder.missing(maps=config.maps == "store")
    return Prepared(session, folder, {shard: len(session.positions[shard * size : (shard + 1) * size]) for shard in missing})


def run(job: Job, progress: Progress | None = None, announce: Announce | None = None) -> RunFolder:
    """Compute the missing shards of one run, beside any other workers that do the same; returns its folder.

    Raises UserError: bad configuration, or the folder belongs to another run.
    """
    prepared = prepare(job)
    folder = prepared.folder
    if announce is not None:
        announce(*prepared.counts)
    if prepared.missing:
        stored = job.config.maps == "store"
        with Claims(folder.path / "claims") as claims:
            order = claims.take(list(prepared.missing), lambda shard: folder.is_done(shard, maps=stored), start=world().start)
            compute(prepared.session, folder, order, progress, claims.release)
    return folder


def compute(
    session: Session,
    folder: RunFolder,
    shards: Iterable[int],
    progress: Progress | None = None,
    published: Callable[[int], None] | None = None,
) -> Stages:
    """Compute and publish shards in this order; one that somebody else finishes meanwhile is dropped.

    Returns where the time went.
    """
    config, size, stages, fit = session.config, folder.provenance["shard_size"], Stages(session.device), Fit()
    pin = session.device.type == "cuda"
    positions = ((shard, session.positions[shard * size : (shard + 1) * size]) for shard in shards)
    started, records, at, dropped = time.perf_counter(), _records(config), -1, -1
    loaded = batches(session.source, session.read, session.size, positions, config.batch_size, config.workers, pin)
    for batch in stages.waiting("decode", loaded):
        if batch.shard != at:
            at, records, started = batch.shard, _records(config), time.perf_counter()
        if batch.shard == dropped or folder.is_done(batch.shard, maps=config.maps == "store"):
            dropped = batch.shard
        else:
            evaluate(session, batch, records, stages, fit)
            if progress is not None:
                progress(len(batch.keys))
        if batch.last:
            if batch.shard != dropped:
                with stages("writing"):
                    rows, maps = records.tables()
                    seconds = {"seconds": time.perf_counter() - started, **by_stage(stages.take())}
                    folder.write_shard(batch.shard, rows, maps, {**shard_metadata(session), **records.metadata(), **seconds})
            if published is not None:
                published(batch.shard)
    stages.take()
    return stages


def by_stage(seconds: dict[str, float]) -> dict[str, dict[str, float]]:
    """For a shard's file. Per method, maps only; what methods share (gradients) falls to the first that asks."""
    methods = {name.partition(".")[2]: spent for name, spent in seconds.items() if name.startswith("maps.")}
    others = {name: spent for name, spent in seconds.items() if "." not in name}
    return {"seconds_per_method": methods, "seconds_per_stage": {**others, "maps": sum(methods.values())}}


def evaluate(session: Session, batch: Batch, records: ShardRecords, stages: Stages, fit: Fit) -> None:
    """All methods and protocol points on one batch."""
    for position, reason in batch.errors.items():
        label = next((output for key in batch.keys[position] for output in session.model.classes.outputs_of(key)), None)
        records.unreadable(position, session.source.image_id(position), label, list(session.methods), session.points, reason)
    if batch.images is None:
        return
    pixels = batch.images.to(session.device, non_blocking=True)

    def part(here: slice) -> ShardRecords:
        measured = _records(session.config)
        _explain_and_score(session, pixels[here], batch.readable[here], batch.keys, measured, stages)
        return measured

    for measured in fit.parts(len(pixels), part):
        records.extend(measured)


def _explain_and_score(
    session: Session,
    pixels: Tensor,
    positions: Sequence[int],
    keys: Mapping[int, Sequence[ClassKey]],
    records: ShardRecords,
    stages: Stages,
) -> None:
    net = session.model.net
    with stages("network"):
        probe, items = explained(session, pixels.to(net.dtype) / 255, positions, keys)
    records.skipped += len(positions) - len({item.position for item in items})
    if probe is None:
        return
    records.begin(items, [session.source.image_id(item.position) for item in items], probe)
    measures = Measures(session, probe, items)
    fillers = protocol.fillings(probe.images, session.points, net.mean)
    for name, method in session.methods.items():
        if session.stored is not None and name in session.stored:
            with stages("stored maps"):
                low = session.stored.of(name, [item.position for item in items], [item.target for item in items]).to(session.device)
        else:
            with stages(f"maps.{name}"):
                low = apply_method(name, method, probe)
        with stages("masks"):
            maps = protocol.upsample(low, session.size)
            ranking = protocol.Ranking(maps)
        with stages("measures"):
            records.map(name, low, maps, measures.of(name, method, ranking))
        for point in session.points:
            with stages("masks"):
                mask, gap = protocol.kept(point, ranking)
                perturbed = protocol.perturb(probe.images, mask, fillers[point.fill])
            with stages("scoring"):
                logits = net(perturbed)
            records.score(name, point, mask, gap, logits)


def _records(config: RunConfig) -> ShardRecords:
    return ShardRecords(store_maps=config.maps == "store", output=config.model.output)
