"""The loop: load -> explain -> perturb -> score -> rows, shard by shard."""

import time
from collections.abc import Callable, Iterable

import torch

from evalkit import protocol
from evalkit.claims import Claims
from evalkit.config import Job, RunConfig
from evalkit.data.loader import Batch, batches
from evalkit.measures import Measures
from evalkit.provenance import identify, provenance, shard_metadata
from evalkit.records import ShardRecords
from evalkit.session import Session, apply_method, open_session
from evalkit.shards import world
from evalkit.store import RunFolder
from evalkit.targets import explained

Progress = Callable[[int], None]
"""Called with the number of images that were finished since the last call."""

Announce = Callable[[int, int], None]
"""Called once with the number of images of the run and how many of them this worker need not compute."""


def run(job: Job, progress: Progress | None = None, announce: Announce | None = None) -> RunFolder:
    """Compute the missing shards of one run, beside any other workers that do the same; returns its folder.

    Raises UserError: bad configuration, or the folder belongs to another run.
    """
    session, folder, missing = prepare(job)
    size = folder.provenance["shard_size"]
    if announce is not None:
        todo = sum(len(session.positions[shard * size : (shard + 1) * size]) for shard in missing)
        announce(len(session.positions), len(session.positions) - todo)
    if missing:
        stored = job.config.maps == "store"
        with Claims(folder.path / "claims") as claims:
            order = claims.take(missing, lambda shard: folder.is_done(shard, maps=stored), start=world().start)
            compute(session, folder, order, progress, claims.release)
    return folder


def prepare(job: Job) -> tuple[Session, RunFolder, list[int]]:
    """Everything loaded and checked, the folder made or recognised, and the shards that are missing."""
    config = job.config
    session = open_session(config)
    folder = RunFolder(config.out)
    folder.create_or_resume(identify(session), provenance(session), job.yaml, len(session.positions), config.shard_size)
    return session, folder, folder.missing(maps=config.maps == "store")


def compute(
    session: Session,
    folder: RunFolder,
    shards: Iterable[int],
    progress: Progress | None = None,
    published: Callable[[int], None] | None = None,
) -> None:
    """Compute and publish shards in this order; one that somebody else finishes meanwhile is dropped."""
    config, size = session.config, folder.provenance["shard_size"]
    pin = session.device.type == "cuda"
    positions = ((shard, session.positions[shard * size : (shard + 1) * size]) for shard in shards)
    started, records, at, dropped = time.perf_counter(), _records(config), -1, -1
    for batch in batches(session.source, session.model.preprocess, session.size, positions, config.batch_size, config.workers, pin):
        if batch.shard != at:
            at, records, started = batch.shard, _records(config), time.perf_counter()
        if batch.shard == dropped or folder.is_done(batch.shard, maps=config.maps == "store"):
            dropped = batch.shard
        else:
            evaluate(session, batch, records)
            if progress is not None:
                progress(len(batch.keys))
        if batch.last:
            if batch.shard != dropped:
                rows, maps = records.tables()
                described = {**shard_metadata(session), **records.metadata(), "seconds": time.perf_counter() - started}
                folder.write_shard(batch.shard, rows, maps, described)
            if published is not None:
                published(batch.shard)


def evaluate(session: Session, batch: Batch, records: ShardRecords) -> None:
    """All methods and protocol points on one batch."""
    net = session.model.net
    names = {position: session.source.image_id(position) for position in batch.keys}
    for position, reason in batch.errors.items():
        label = next((output for key in batch.keys[position] for output in session.model.classes.outputs_of(key)), None)
        records.unreadable(position, names[position], label, list(session.methods), session.points, reason)
    if batch.images is None:
        return
    images = batch.images.to(session.device, non_blocking=True).to(net.dtype) / 255
    probe, items = explained(session, images, batch.readable, batch.keys)
    records.skipped += len(batch.readable) - len({item.position for item in items})
    if probe is None:
        return
    records.begin(items, [names[item.position] for item in items], probe)
    measures = Measures(session, probe, items)
    fillers = protocol.fillings(probe.images, session.points, net.mean)
    for name, method in session.methods.items():
        started = time.perf_counter()
        low = apply_method(name, method, probe)
        _synchronise(session.device)
        records.seconds[name] = records.seconds.get(name, 0.0) + time.perf_counter() - started
        maps = protocol.upsample(low, (images.shape[2], images.shape[3]))
        ranking = protocol.Ranking(maps)
        records.map(name, low, maps, measures.of(name, method, ranking))
        for point in session.points:
            mask, gap = protocol.kept(point, ranking)
            masked = net(protocol.perturb(probe.images, mask, fillers[point.fill]))
            records.score(name, point, mask, gap, masked)


def _records(config: RunConfig) -> ShardRecords:
    return ShardRecords(store_maps=config.maps == "store", output=config.model.output)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
