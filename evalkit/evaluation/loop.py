"""The loop: load -> explain -> perturb -> score -> rows, shard by shard."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from evalkit import protocol
from evalkit.data.loader import Batch, batches
from evalkit.errors import UserError
from evalkit.evaluation.apply import Method, apply_method
from evalkit.evaluation.batch_split import BatchSplitter
from evalkit.evaluation.control_versions import ControlVersion
from evalkit.evaluation.measures import Measures
from evalkit.evaluation.open_shard import OpenShard
from evalkit.evaluation.pace import Pace, Trial
from evalkit.evaluation.rows import ShardRows, batch_facts, map_facts, map_rows, score_rows
from evalkit.evaluation.session import Session
from evalkit.evaluation.stopwatch import Stopwatch
from evalkit.evaluation.store import Part, ShardStore
from evalkit.evaluation.targets import Target, explained
from evalkit.probe import Probe

Progress = Callable[[int], None]
"""Called with the number of images that were finished since the last call."""


def compute(
    session: Session,
    store: ShardStore,
    shards: Iterable[int],
    metadata: Mapping[str, Any],
    progress: Progress | None = None,
    published: Callable[[int], None] | None = None,
    pace: Pace | None = None,
    over: Callable[[], bool] | None = None,
) -> Stopwatch:
    """Compute and publish shards in this order; a shard that another worker finishes meanwhile is dropped.

    What is finished of a shard is kept every few seconds, and when a KeyboardInterrupt stops the work; what was kept
    before is not computed again. `metadata` is added to the metadata of each shard's file. `published` is called with each
    finished shard, also with those that another worker finished. `pace` saves its measurement where one process computes
    shards in several calls. `over` is asked after each shard whether the run has ended. Returns the time spent by stage.
    """
    config, size, stopwatch, splitter = session.config, store.shard_size, Stopwatch(session.device), BatchSplitter()
    stored, pace = config.maps == "store", pace or Pace(config.batch_size)
    about = {**metadata, "maps_stored": stored}
    kept: dict[int, list[Part]] = {}

    def positions(shard: int) -> list[int]:
        return session.positions[shard * size : (shard + 1) * size]

    def left() -> Iterator[tuple[int, list[int]]]:
        for shard in shards:
            kept[shard] = store.parts(shard, maps=stored)
            yield shard, positions(shard)[kept[shard][-1].stop if kept[shard] else 0 :]

    def finish(shard: int) -> None:
        kept.pop(shard, None)
        store.discard_parts(shard)
        if published is not None:
            published(shard)

    loaded = batches(
        session.source, session.read, session.size, left(), config.batch_size, config.workers, pin=session.device.type == "cuda"
    )
    open_shard, dropped = None, -1
    try:
        for whole in stopwatch.waiting("decode", loaded):
            if whole.shard == dropped or store.is_done(whole.shard, maps=stored):
                open_shard, dropped = None, whole.shard
            elif open_shard is None:
                open_shard = OpenShard(store, whole.shard, len(positions(whole.shard)), kept[whole.shard], about, stopwatch)
            if open_shard is not None:
                _add(session, whole, open_shard, pace, stopwatch, splitter, progress)
            if whole.last:
                if open_shard is not None:
                    open_shard.close()
                finish(whole.shard)
                open_shard = None
                if over is not None and over():
                    break
    except KeyboardInterrupt:
        if open_shard is not None and open_shard.complete:
            open_shard.close()
            finish(open_shard.shard)
        elif open_shard is not None:
            open_shard.keep()
        raise
    stopwatch.take()
    return stopwatch


def _add(
    session: Session,
    whole: Batch,
    shard: OpenShard,
    pace: Pace,
    stopwatch: Stopwatch,
    splitter: BatchSplitter,
    progress: Progress | None,
) -> None:
    """Compute a batch, in parts where it takes long, and keep what is finished of its shard where that is due."""
    for batch, trial in pace.divided(whole, lambda part: _trial(session, part, splitter)):
        if trial is None:
            rows = ShardRows()
            evaluate(session, batch, rows, stopwatch, splitter)
        else:
            rows = trial.rows
            stopwatch.add(trial.stages)
        shard.add(len(batch.keys), rows)
        if progress is not None:
            progress(len(batch.keys))
        if not batch.last and shard.due:
            shard.keep()


def _trial(session: Session, batch: Batch, splitter: BatchSplitter) -> Trial:
    """Compute a batch that may be dropped again; torch's generators of random numbers are left as they were."""
    started, stopwatch, rows = time.perf_counter(), Stopwatch(session.device), ShardRows()
    with torch.random.fork_rng([session.device] if session.device.type == "cuda" else []):
        try:
            evaluate(session, batch, rows, stopwatch, splitter)
        except UserError:
            return Trial(0.0, rows, {})  # a method that fails on one image may work on several; else the whole batch raises it again
        rows.tables()  # waits for the device
    return Trial(time.perf_counter() - started, rows, stopwatch.take())


def evaluate(session: Session, batch: Batch, rows: ShardRows, stopwatch: Stopwatch, splitter: BatchSplitter) -> None:
    """Add the rows of one batch, all methods and protocol points; a batch that does not fit the memory is split."""
    for position, reason in batch.errors.items():
        label = next((output for key in batch.keys[position] for output in session.model.classes.outputs_of(key)), None)
        rows.add_unreadable(position, session.source.image_id(position), label, list(session.methods), session.points, reason)
    if batch.images is None:
        return
    pixels = batch.images.to(session.device, non_blocking=True)

    def part(images: slice) -> ShardRows:
        with stopwatch("network"):
            probe, targets = explained(session, pixels[images], batch.readable[images], batch.keys, splitter.byte_budget)
        return _explain_and_score(session, probe, targets, len(batch.readable[images]), stopwatch)

    for finished in splitter.parts(len(pixels), part):
        rows.extend(finished)


def _explain_and_score(session: Session, probe: Probe | None, targets: Sequence[Target], images: int, stopwatch: Stopwatch) -> ShardRows:
    rows, low_maps = ShardRows(left_out=images - len({target.position for target in targets})), dict[str, Tensor]()
    if probe is None:
        return rows
    net, config = session.model.net, session.config
    batch = batch_facts(targets, [session.source.image_id(target.position) for target in targets], probe, config.model.output)
    measures = Measures(session, probe, targets)
    fills = protocol.Fills(probe.images, net.mean, net.std, [target.position for target in targets])
    for name, method in session.methods.items():
        controlled = isinstance(method, ControlVersion)
        given = method.of(low_maps) if isinstance(method, ControlVersion) else method
        low = low_maps[name] = _low_maps(session, name, given, probe, targets, stopwatch)
        with stopwatch("masks"):
            maps = protocol.upsample(low, session.size)
            ranking = protocol.Ranking(maps)
        with stopwatch("measures"):
            facts = map_facts(batch, name, maps)
            rows.maps.append(
                map_rows(batch, facts, low, measures.of(name, method, ranking), store=config.maps == "store" and not controlled)
            )
        for point in session.points:
            with stopwatch("masks"):
                mask, gap = protocol.kept(point, ranking)
                perturbed = protocol.perturb(probe.images, mask, fills(point.fill, mask))
            with stopwatch("scoring"):
                logits = net(perturbed)
            rows.scores.append(score_rows(batch, facts, point, mask, gap, logits))
    with stopwatch("measures"):
        for columns, measured in zip(rows.maps, measures.repeated(low_maps), strict=True):
            columns.update(measured)
    return rows


def _low_maps(session: Session, name: str, method: Method, probe: Probe, targets: Sequence[Target], stopwatch: Stopwatch) -> Tensor:
    """Return a method's raw maps (n,h,w): the stored ones if there are any, else newly computed ones."""
    if session.stored is not None and name in session.stored:
        with stopwatch("stored maps"):
            stored = session.stored.of(name, [target.position for target in targets], [target.output for target in targets])
            return stored.to(session.device, torch.float32, non_blocking=True)
    with stopwatch(f"maps.{name}"):
        return apply_method(name, method, probe)
