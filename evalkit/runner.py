"""The loop: load -> explain -> perturb -> score -> rows, shard by shard."""

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from evalkit import protocol
from evalkit.config import Job, RunConfig
from evalkit.data.loader import Batch, batches
from evalkit.errors import UserError
from evalkit.probe import Probe
from evalkit.provenance import identify, provenance, shard_metadata
from evalkit.records import ShardRecords
from evalkit.session import Session, apply_method, open_session
from evalkit.shards import mine, world
from evalkit.store import RunFolder

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
    records = ShardRecords(store_maps=config.maps == "store")
    pin = session.device.type == "cuda"
    for batch in batches(session.source, session.model.preprocess, session.size, shards, config.batch_size, config.workers, pin):
        evaluate(session, batch, records)
        if progress is not None:
            progress(len(batch.keys))
        if batch.last:
            rows, maps = records.tables()
            described = {**shard_metadata(session), **records.metadata(), "seconds": time.perf_counter() - started}
            folder.write_shard(batch.shard, rows, maps, described)
            records, started = ShardRecords(store_maps=config.maps == "store"), time.perf_counter()
    return folder


def evaluate(session: Session, batch: Batch, records: ShardRecords) -> None:
    """All methods and protocol points on one batch."""
    net = session.model.net
    labels = {position: session.model.classes.index(key) for position, key in batch.keys.items()}
    names = {position: session.source.image_id(position) for position in batch.keys}
    for position, reason in batch.errors.items():
        records.unreadable(position, names[position], labels[position], list(session.methods), session.points, reason)
    if batch.images is None:
        return
    images = batch.images.to(session.device, non_blocking=True).to(net.dtype) / 255
    probe, kept = _probe(session, images, batch.readable, labels)
    if probe is None:
        records.skipped += len(batch.readable)
        return
    records.skipped += len(batch.readable) - len(kept)
    records.begin(kept, [names[p] for p in kept], [labels[p] for p in kept], probe)
    fillers = protocol.fillings(probe.images, session.points, net.mean)
    for name, method in session.methods.items():
        started = time.perf_counter()
        low = apply_method(name, method, probe)
        _synchronise(session.device)
        records.seconds[name] = records.seconds.get(name, 0.0) + time.perf_counter() - started
        maps = protocol.upsample(low, (images.shape[2], images.shape[3]))
        records.map(name, low, maps)
        ranking = protocol.Ranking(maps)
        for point in session.points:
            mask, gap = protocol.kept(point, ranking)
            masked = net(protocol.perturb(probe.images, mask, fillers[point.fill]))
            records.score(name, point, mask, gap, masked)


def _probe(session: Session, images: Tensor, positions: list[int], labels: Mapping[int, int | None]) -> tuple[Probe | None, list[int]]:
    """The batch behind its probe; under images=correct without the images that the model gets wrong."""
    config, net = session.config, session.model.net
    probe = Probe(net, images, _targets(config, positions, labels, session), torch.tensor(positions))
    if config.images == "all":
        return probe, positions
    correct = [i for i, (p, guess) in enumerate(zip(positions, probe.logits.argmax(1).tolist(), strict=True)) if labels[p] == guess]
    if len(correct) == len(positions) or not correct:
        return (probe if correct else None), (positions if correct else [])
    kept = [positions[i] for i in correct]
    return Probe(net, images[correct], _targets(config, kept, labels, session), torch.tensor(kept)), kept


def _targets(config: RunConfig, positions: list[int], labels: Mapping[int, int | None], session: Session) -> Tensor | None:
    if config.target == "predicted":
        return None
    if isinstance(config.target, int):
        return torch.full((len(positions),), config.target)
    unknown = next((p for p in positions if labels[p] is None), None)
    if unknown is not None:
        raise UserError(
            f"target=label, but {session.source.image_id(unknown)} has no label among the model's classes "
            f"(it is called '{session.source.class_key(unknown)}')"
        )
    return torch.tensor([labels[p] for p in positions])


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
