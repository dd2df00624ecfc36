"""The loop: load -> explain -> perturb -> score -> rows, shard by shard."""

import time
from collections.abc import Callable

import torch

from evalkit import protocol
from evalkit.config import Job, RunConfig
from evalkit.data.loader import Batch, batches
from evalkit.measures import Measures
from evalkit.provenance import identify, provenance, shard_metadata
from evalkit.records import ShardRecords
from evalkit.session import Session, apply_method, open_session
from evalkit.shards import mine, world
from evalkit.store import RunFolder
from evalkit.targets import explained

Progress = Callable[[int], None]
"""Called with the number of images that were finished since the last call."""

Announce = Callable[[int, int], None]
"""Called once with the number of images of the run and how many of them this worker need not compute."""


def run(job: Job, progress: Progress | None = None, announce: Announce | None = None) -> RunFolder:
    """Compute the missing shards of one run that are this worker's; returns its folder.

    Raises UserError: bad configuration, or the folder belongs to another run.
    """
    config = job.config
    session = open_session(config)
    identity = identify(session)
    folder = RunFolder(config.out)
    folder.create_or_resume(identity, provenance(session), job.yaml, len(session.positions), config.shard_size)
    size = folder.provenance["shard_size"]
    missing = mine(folder.missing(maps=config.maps == "store"), world())
    shards = {shard: session.positions[shard * size : (shard + 1) * size] for shard in missing}
    todo = sum(len(positions) for positions in shards.values())
    if announce is not None:
        announce(len(session.positions), len(session.positions) - todo)
    if not shards:
        return folder
    started = time.perf_counter()
    records = _records(config)
    pin = session.device.type == "cuda"
    for batch in batches(session.source, session.model.preprocess, session.size, shards, config.batch_size, config.workers, pin):
        evaluate(session, batch, records)
        if progress is not None:
            progress(len(batch.keys))
        if batch.last:
            rows, maps = records.tables()
            described = {**shard_metadata(session), **records.metadata(), "seconds": time.perf_counter() - started}
            folder.write_shard(batch.shard, rows, maps, described)
            records, started = _records(config), time.perf_counter()
    return folder


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
