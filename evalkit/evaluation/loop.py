"""The loop: load -> explain -> perturb -> score -> rows, shard by shard."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa
import torch
from torch import Tensor

from evalkit import protocol
from evalkit.data.loader import Batch, batches
from evalkit.evaluation.apply import Method, apply_method
from evalkit.evaluation.batch_split import BatchSplitter
from evalkit.evaluation.measures import Measures
from evalkit.evaluation.rows import ShardRows, batch_facts, map_facts, map_rows, score_rows
from evalkit.evaluation.session import Session
from evalkit.evaluation.stopwatch import Stopwatch
from evalkit.evaluation.targets import Target, explained
from evalkit.probe import Probe

Progress = Callable[[int], None]
"""Called with the number of images that were finished since the last call."""


class ShardStore(Protocol):
    """A place for finished shards, such as `evalkit.runs.folder.RunFolder`."""

    @property
    def shard_size(self) -> int:
        """Images per shard."""
        ...

    def is_done(self, shard: int, *, maps: bool = False) -> bool:
        """Return whether a shard is finished, with `maps` also its stored maps."""
        ...

    def write_shard(self, shard: int, rows: pa.Table, maps: pa.Table, metadata: Mapping[str, Any]) -> None:
        """Publish a finished shard."""
        ...


def compute(
    session: Session,
    store: ShardStore,
    shards: Iterable[int],
    metadata: Mapping[str, Any],
    progress: Progress | None = None,
    published: Callable[[int], None] | None = None,
) -> Stopwatch:
    """Compute and publish shards in this order; a shard that another worker finishes meanwhile is dropped.

    `metadata` is added to the metadata of each shard's file. `published` is called with each finished shard, also with
    those that another worker finished. Returns the time spent by stage.
    """
    config, size, stopwatch, splitter = session.config, store.shard_size, Stopwatch(session.device), BatchSplitter()
    stored = config.maps == "store"
    positions = ((shard, session.positions[shard * size : (shard + 1) * size]) for shard in shards)
    started, rows, at, dropped = time.perf_counter(), ShardRows(), -1, -1
    loaded = batches(
        session.source, session.read, session.size, positions, config.batch_size, config.workers, pin=session.device.type == "cuda"
    )
    for batch in stopwatch.waiting("decode", loaded):
        if batch.shard != at:
            at, rows, started = batch.shard, ShardRows(), time.perf_counter()
        if batch.shard == dropped or store.is_done(batch.shard, maps=stored):
            dropped = batch.shard
        else:
            evaluate(session, batch, rows, stopwatch, splitter)
            if progress is not None:
                progress(len(batch.keys))
        if batch.last:
            if batch.shard != dropped:
                with stopwatch("writing"):
                    tables = rows.tables()
                    seconds = {"seconds": time.perf_counter() - started, **seconds_by_stage(stopwatch.take())}
                    about = {**metadata, "maps_stored": stored, "left_out": rows.left_out, **seconds}
                    store.write_shard(batch.shard, *tables, about)
            if published is not None:
                published(batch.shard)
    stopwatch.take()
    return stopwatch


def seconds_by_stage(seconds: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Sort the stopwatch's seconds for a shard's file: per method, of its maps only, and per stage.

    What several methods share (gradients) counts for the first of them that uses it.
    """
    methods = {name.partition(".")[2]: spent for name, spent in seconds.items() if name.startswith("maps.")}
    others = {name: spent for name, spent in seconds.items() if "." not in name}
    return {"seconds_per_method": methods, "seconds_per_stage": {**others, "maps": sum(methods.values())}}


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
    rows = ShardRows(left_out=images - len({target.position for target in targets}))
    if probe is None:
        return rows
    net, config = session.model.net, session.config
    batch = batch_facts(targets, [session.source.image_id(target.position) for target in targets], probe, config.model.output)
    measures = Measures(session, probe, targets)
    fillers = protocol.fillings(probe.images, session.points, net.mean)
    for name, method in session.methods.items():
        low = _low_maps(session, name, method, probe, targets, stopwatch)
        with stopwatch("masks"):
            maps = protocol.upsample(low, session.size)
            ranking = protocol.Ranking(maps)
        with stopwatch("measures"):
            facts = map_facts(batch, name, maps)
            rows.maps.append(map_rows(batch, facts, low, measures.of(name, method, ranking), store=config.maps == "store"))
        for point in session.points:
            with stopwatch("masks"):
                mask, gap = protocol.kept(point, ranking)
                perturbed = protocol.perturb(probe.images, mask, fillers[point.fill])
            with stopwatch("scoring"):
                logits = net(perturbed)
            rows.scores.append(score_rows(batch, facts, point, mask, gap, logits))
    return rows


def _low_maps(session: Session, name: str, method: Method, probe: Probe, targets: Sequence[Target], stopwatch: Stopwatch) -> Tensor:
    """Return a method's raw maps (n,h,w): the stored ones if there are any, else newly computed ones."""
    if session.stored is not None and name in session.stored:
        with stopwatch("stored maps"):
            stored = session.stored.of(name, [target.position for target in targets], [target.output for target in targets])
            return stored.to(session.device, torch.float32, non_blocking=True)
    with stopwatch(f"maps.{name}"):
        return apply_method(name, method, probe)
