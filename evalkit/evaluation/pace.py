"""How many images are computed before anything of them can be kept: a batch, or fewer where a batch would take long."""

from collections.abc import Callable, Iterator

from evalkit.data.loader import Batch
from evalkit.evaluation import open_shard


class Pace:
    """Divides batches that would take longer than about half a minute, by the measured time of one image.

    The first image is computed once more than needed, and a second time where it was slow, since the first use of a device
    or library is. Batches that are fast enough are left whole, so that the rows of a usual run do not depend on a clock.
    """

    def __init__(self) -> None:
        self._images: int | None = None

    def divided(self, batch: Batch, seconds: Callable[[Batch], float]) -> Iterator[Batch]:
        """Yield the parts of a batch, in order. `seconds` computes a batch, drops what it found, and returns the time it took."""
        if self._images is None and len(batch.readable) > 1:
            alone = _images(batch, [batch.readable[0]], last=False)
            self._images = images_at_once(seconds(alone), len(batch.keys))
            if self._images < len(batch.keys):
                self._images = images_at_once(seconds(alone), len(batch.keys))
        count = self._images or len(batch.keys)
        positions = list(batch.keys)
        if count >= len(positions):
            yield batch
            return
        for start in range(0, len(positions), count):
            yield _images(batch, positions[start : start + count], last=batch.last and start + count >= len(positions))


def images_at_once(seconds: float, most: int) -> int:
    """Return how many images of so many seconds each to compute at once: all of `most` if that is quick enough, else a power of two."""
    if seconds * most <= open_shard.KEEP_EVERY:
        return most
    count = 1
    while 2 * count * seconds <= open_shard.KEEP_EVERY:
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
