"""How many images are computed before anything of them can be kept: a batch, or fewer where a batch would take long."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from evalkit.data.loader import Batch
from evalkit.evaluation.rows import ShardRows

LONGEST = 30.0
"""Seconds that a batch may take without being divided."""


@dataclass(frozen=True)
class Trial:
    """A computed image: how long it took, its rows, and its seconds by stage."""

    seconds: float
    rows: ShardRows
    stages: Mapping[str, float]


class Pace:
    """Divides batches that would take longer than `LONGEST`, by the measured time of one image.

    That of the first image, or of the second where the first was slow, as the first use of a device or library is. Batches
    that are fast enough are computed whole, these images included, so that the rows of a usual run do not depend on a clock.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._images: int | None = None

    def divided(self, batch: Batch, compute: Callable[[Batch], Trial]) -> Iterator[tuple[Batch, Trial | None]]:
        """Yield the parts of a batch, in order, each with its trial where `compute` has computed it already."""
        positions = list(batch.keys)
        trials = self._trials(batch, compute) if self._images is None and len(batch.readable) > 1 else []
        count = self._images or self._batch_size
        if count >= len(positions):
            yield batch, None
            return
        yield from trials
        for start in range(sum(len(part.keys) for part, _ in trials), len(positions), count):
            yield _images(batch, positions[start : start + count], last=batch.last and start + count >= len(positions)), None

    def _trials(self, batch: Batch, compute: Callable[[Batch], Trial]) -> list[tuple[Batch, Trial]]:
        """Compute the first image, and where it is slow the second one, set the pace, and return what was computed."""
        trials: list[tuple[Batch, Trial]] = []
        positions, start = list(batch.keys), 0
        for readable in batch.readable[:2]:
            end = positions.index(readable) + 1
            part = _images(batch, positions[start:end], last=batch.last and end == len(positions))
            trials.append((part, compute(part)))
            start, self._images = end, images_at_once(trials[-1][1].seconds, self._batch_size)
            if self._images == self._batch_size:
                break
        return trials


def images_at_once(seconds: float, most: int) -> int:
    """Return how many images of so many seconds each to compute at once: all of `most` if that is quick enough, else a power of two."""
    if seconds * most <= LONGEST:
        return most
    count = 1
    while 2 * count * seconds <= LONGEST:
        count *= 2
    return count


def _images(batch: Batch, positions: list[int], *, last: bool) -> Batch:
    """Return the batch with these of its positions alone, which follow each other."""
    chosen = set(positions)
    rows = [row for row, position in enumerate(batch.readable) if position in chosen]
    return Batch(
        batch.shard,
        last,
        {position: batch.keys[position] for position in positions},
        [batch.readable[row] for row in rows],
        batch.images[rows[0] : rows[-1] + 1] if batch.images is not None and rows else None,
        {position: reason for position, reason in batch.errors.items() if position in chosen},
    )
