"""Which images of a run are recomputed, and how likely altered ones are missed."""

import math
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalkit.errors import UserError

MISSED = 0.05
"""The probability above which altered images count as likely to be missed."""
DEFAULT = "1%"


@dataclass(frozen=True)
class Sample:
    """The images of a run that are recomputed."""

    chosen: NDArray[np.int64]
    """Their numbers in the order of the run, from 0, ascending."""
    images: int
    """Number of images of the run."""
    seed: int | None
    """The seed that they were drawn with; None where the shards were named."""
    shards: tuple[int, ...] = ()
    """The shards that were named."""

    @property
    def percent(self) -> float:
        """The recomputed share of the images in percent."""
        return 100 * len(self.chosen) / self.images

    def of_shard(self, shard: int, shard_size: int) -> NDArray[np.int64]:
        """Return the chosen images of a shard."""
        first, last = np.searchsorted(self.chosen, [shard * shard_size, (shard + 1) * shard_size])
        return self.chosen[first:last]


def drawn(images: int, count: int, seed: int | None = None) -> Sample:
    """Draw images at random; without a seed by a fresh one, so that nobody can know beforehand which images are recomputed."""
    seed = secrets.randbelow(2**32) if seed is None else seed
    return Sample(np.sort(np.random.default_rng(seed).choice(images, count, replace=False)), images, seed)


def named(shards: Sequence[int], images: int, shard_size: int) -> Sample:
    """Return all images of some shards."""
    chosen = [np.arange(shard * shard_size, min(images, (shard + 1) * shard_size)) for shard in sorted(set(shards))]
    return Sample(np.concatenate(chosen), images, None, tuple(sorted(set(shards))))


def count_of(text: str, images: int) -> int:
    """Return how many of a run's images `1%` or `50` stand for, at least one. Raises UserError where it is neither."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", text.strip())
    if found is None or float(found.group(1)) == 0:
        raise UserError(
            f"--sample {text} is no part of a run: give a percentage or a number of images above 0, as in --sample 1% or --sample 50"
        )
    number = float(found.group(1))
    if found.group(2):
        if number > 100:
            raise UserError(f"--sample {text} is more than the whole run; give 100% at most")
        return max(1, math.ceil(images * number / 100 - 1e-9))
    if number != int(number):
        raise UserError(f"--sample {text} is no whole number of images; for a share of the run write --sample {text}%")
    return min(images, int(number))


def shards_of(text: str, shards: int) -> list[int]:
    """Return the shards that `0,3-5` names. Raises UserError where the text names none, or one that the run does not have."""
    found: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if ends is None:
            raise UserError(f"--shards {text} names no shards: give numbers and ranges, as in --shards 0,3-5")
        first, last = int(ends.group(1)), int(ends.group(2) or ends.group(1))
        if last < first or last >= shards:
            raise UserError(f"--shards {text}: the run has the shards 0 to {shards - 1}, and '{part.strip()}' is not among them")
        found += range(first, last + 1)
    return sorted(set(found))


def missed(images: int, recomputed: int, altered: int) -> float:
    """Return the probability that none of so many altered images is among the recomputed ones (hypergeometric distribution)."""
    if recomputed + altered > images:
        return 0.0
    log = math.lgamma
    return math.exp(log(images - altered + 1) - log(images - altered - recomputed + 1) - log(images + 1) + log(images - recomputed + 1))


def surely_found(images: int, recomputed: int, level: float = MISSED) -> int:
    """Return the least number of altered images that are missed with a probability of at most `level`."""
    low, high = 0, images  # all images altered: always found
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if missed(images, recomputed, middle) <= level else (middle, high)
    return high
