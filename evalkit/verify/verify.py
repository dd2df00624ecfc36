"""Verification of a finished run: its record and all of its tables are checked, and a part of its images is computed again."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from evalkit.config.schema import RunConfig
from evalkit.data.loader import batches
from evalkit.errors import UserError
from evalkit.evaluation.batch_split import BatchSplitter
from evalkit.evaluation.loop import evaluate
from evalkit.evaluation.rows import ShardRows
from evalkit.evaluation.session import Session, open_session
from evalkit.evaluation.stopwatch import Stopwatch
from evalkit.runs.folder import RunFolder, Shard
from evalkit.runs.identity import Identity
from evalkit.runs.provenance import identify, provenance
from evalkit.verify.compare import Comparison
from evalkit.verify.ending import Ending
from evalkit.verify.expected import Expected, ImageFacts
from evalkit.verify.foreign import foreign_files
from evalkit.verify.outcome import Outcome
from evalkit.verify.record import circumstances, record_differences
from evalkit.verify.sample import Sample
from evalkit.verify.structure import check_shard
from evalkit.verify.ties import swapped_range


@dataclass(frozen=True)
class Opened:
    """A run's model and data, opened on this machine."""

    session: Session
    identity: Identity
    known: Mapping[str, Any]
    """What the record of a run made here would say besides its identity."""


def open_run(config: RunConfig) -> Opened:
    """Load model, data and methods of a run's configuration. Raises UserError as `open_session` does, and says what to give."""
    try:
        session = open_session(config.model_copy(update={"maps": "store"}))  # so that stored maps can be compared
    except UserError as reason:
        raise UserError(f"the run cannot be computed here: {reason} (data.root=... and model.weights=... say where things are)") from reason
    return Opened(session, identify(session), provenance(session))


def verify(folder: RunFolder, opened: Opened, sample: Sample, progress: Callable[[int], None] | None = None) -> Outcome:
    """Compare a run with what is computed here. `progress` is called with each number of images that were computed again.

    One shard and the chosen images of a few are in memory at a time. Raises UserError where this is not a run folder.
    """
    record, session = folder.provenance, opened.session
    outcome = Outcome(
        sample,
        Comparison(session.config.precision),
        record_differences(record, opened.identity, opened.known, len(session.positions)),
        circumstances(record, opened.known),
        shards=len(folder.shards),
        identity_hash=Identity(record["identity"]).hash,
    )
    expected, recorded = _expected(session, folder.shard_size), dict[int, tuple[pa.Table, pa.Table]]()
    if getattr(session.source, "streamed", False):
        outcome.unstructured.append("labels of images that were not recomputed, since the data are streamed")

    question = session.config.question(session.methods)
    ending = None if question is None else Ending(question, session.config.seed)

    def chosen() -> Iterator[tuple[int, list[int]]]:
        outcome.missing = list(folder.shards)
        for shard in folder.finished():
            outcome.missing.remove(shard.number)
            outcome.problems += check_shard(shard, expected)
            if ending is not None and not outcome.problems:
                ending.add(shard.rows)
            numbers = [number for number in sample.of_shard(shard.number, folder.shard_size) if number < len(session.positions)]
            positions = [session.positions[number] for number in numbers]
            if positions:
                recorded[shard.number] = _of_images(shard, positions)
                yield shard.number, positions

    for number, images, computed in _computed(session, chosen()):
        outcome.comparison.add(recorded.pop(number), computed)
        for suspect in outcome.comparison.suspects:
            outcome.comparison.settle(suspect, *swapped_range(session, suspect))
        outcome.comparison.suspects.clear()
        outcome.recomputed += images
        if progress is not None:
            progress(images)
    if ending is not None and not (outcome.problems or outcome.missing):
        outcome.record += ending.differences(record.get("end"))
    outcome.foreign = foreign_files(folder)
    outcome.rows_digest = folder.digest()
    return outcome


def _computed(session: Session, shards: Iterator[tuple[int, list[int]]]) -> Iterator[tuple[int, int, tuple[pa.Table, pa.Table]]]:
    """Yield each shard's number, number of chosen images and tables of them, as the loop computes them."""
    config, splitter, stopwatch = session.config, BatchSplitter(), Stopwatch(session.device)
    on_gpu = session.device.type == "cuda"
    rows, images = ShardRows(), 0
    for batch in batches(session.source, session.read, session.size, shards, config.batch_size, config.workers, pin=on_gpu):
        evaluate(session, batch, rows, stopwatch, splitter)
        images += len(batch.keys)
        if batch.last:
            yield batch.shard, images, rows.tables()
            rows, images = ShardRows(), 0


def _of_images(shard: Shard, positions: list[int]) -> tuple[pa.Table, pa.Table]:
    values = pa.array(positions, pa.int64())
    rows, maps = (table.filter(pc.is_in(table["index"], values)) for table in (shard.rows, shard.maps))
    return rows, maps


def _expected(session: Session, shard_size: int) -> Expected:
    source, classes = session.source, session.model.classes
    streamed = bool(getattr(source, "streamed", False))

    def facts(position: int) -> ImageFacts:
        labels = None if streamed else tuple(chain.from_iterable(classes.outputs_of(key) for key in source.class_keys(position)))
        return ImageFacts(source.image_id(position), labels)

    return Expected(
        session.positions,
        shard_size,
        list(session.methods),
        session.points,
        session.size[0] * session.size[1],
        session.targets,
        session.config.images == "correct",
        session.config.model.output,
        facts,
    )
