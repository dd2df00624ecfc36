"""Bootstrap resamples of images, drawn once for each number of images, and sums over them that no rounding depends on.

A resample is represented by how often it contains each image, so all its sums are matrix products. Values are rounded to whole multiples
of a power of two, so small that every sum of them is exact in float64 (float32 for outcomes): the result is the same in any order of
summation, for any number of threads, block size or processor.
"""

from collections.abc import Sequence
from functools import lru_cache
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 2000
BLOCK = 2**22
"""Images that are drawn at once."""
IMAGES = 256
"""Images that are multiplied at once: few, so that their counts stay in the processor's cache."""
BITS = 52
"""Bits of the largest sum of whole numbers: float64 has 53."""
MORE = 20
"""Further bits of the values, which are summed apart."""
FINE = 2.0**-32
"""Rounding to a multiple of so much of the mean size is too small to show; coarser rows, of which one value is huge, need further bits."""
_LOCK = Lock()


def resamples(n: int, number: int) -> NDArray[np.unsignedinteger]:
    """Return how often each of n images is in each of so many resamples (n,number), in bytes. The seed is fixed."""
    with _LOCK:  # else two threads would draw the same
        return _drawn(n, number)


@lru_cache(maxsize=1)
def _drawn(n: int, number: int) -> NDArray[np.unsignedinteger]:
    rng = np.random.default_rng(0)
    together = max(1, BLOCK // n)
    dtype = np.min_scalar_type(n) if n < 256 else np.uint8  # a count above 255 of 256 images or more has odds below 1e-500
    counts = np.empty((n, number), dtype)
    for start in range(0, number, together):
        drawn = rng.integers(0, n, (min(together, number - start), n))
        counts[:, start : start + len(drawn)] = np.stack([np.bincount(one, minlength=n).astype(dtype) for one in drawn]).T
    counts.flags.writeable = False
    return counts


def sums(rows: Sequence[Array]) -> tuple[Array, Array]:
    """Return the sums of m rows of finite values, each (n,): over all n images (m,), and over each resample of them (m,RESAMPLES)."""
    first, place = _distinct(rows)
    kinds = [_whole(rows[i]) for i in first]
    n = len(rows[0])
    resampled = np.zeros((len(kinds), RESAMPLES))
    for dtype in (np.float32, np.float64):
        terms = [(i, term) for i, kind in enumerate(kinds) for term in kind.terms if term.numbers.dtype == dtype]
        if terms:
            products = _product(np.stack([term.numbers for _, term in terms]), resamples(n, RESAMPLES))
            for (i, term), product in zip(terms, products, strict=True):
                resampled[i] += product.astype(np.float64) * term.unit
    for i, kind in enumerate(kinds):
        if not kind.terms:
            resampled[i] = kind.total
    return np.array([kind.total for kind in kinds])[place], resampled[place]


def exact_sum(row: Array) -> float:
    """Return the sum of finite values (n,), the same in any order of summation: exact but for the last of at least 60 bits."""
    return _whole(row).total


class _Term(NamedTuple):
    """Whole numbers (n,), as multiples of a unit."""

    numbers: NDArray[Any]
    unit: float


class _Whole(NamedTuple):
    """A row as a sum of terms, the second much smaller than the first; none where all values are the same."""

    total: float
    terms: list[_Term]


def _whole(row: Array) -> _Whole:
    n = len(row)
    low, high = (float(row.min()), float(row.max())) if n else (0.0, 0.0)
    most = max(high, -low)
    if low == high:
        return _Whole(low * n, [])
    if is_outcome(row, most) and n < 2**24:
        numbers = np.rint(row / most).astype(np.float32)
        return _Whole(float(numbers.sum(dtype=np.float64)) * most, [_Term(numbers, most)])
    unit = float(np.exp2(np.ceil(np.log2(most * n) - BITS)))
    rest = row / unit
    numbers = np.rint(rest)
    rest -= numbers
    rest *= 2.0**MORE
    np.rint(rest, out=rest)
    terms = [_Term(numbers, unit), _Term(rest, unit / 2.0**MORE)]
    total = float(sum(term.numbers.sum() * term.unit for term in terms))
    return _Whole(total, terms if unit > FINE * np.abs(row).mean() else terms[:1])


def is_outcome(row: Array, most: float) -> bool:
    """Return whether all values of a row (n,) are 0 or of the size `most`, as of outcomes 0 and 100 and their differences."""
    return bool(np.count_nonzero(row) == np.count_nonzero(row == most) + np.count_nonzero(row == -most))


def _product(whole: NDArray[Any], counts: NDArray[np.unsignedinteger]) -> NDArray[Any]:
    """Return the matrix product (m,B) of whole numbers (m,n) and counts (n,B), in the type of the former."""
    total = np.zeros((len(whole), counts.shape[1]), whole.dtype)
    for start in range(0, counts.shape[0], IMAGES):
        some = slice(start, start + IMAGES)
        total += np.ascontiguousarray(whole[:, some]) @ counts[some].astype(whole.dtype)
    return total


def _distinct(rows: Sequence[Array]) -> tuple[list[int], NDArray[np.int64]]:
    """Return the first of each of the different rows, and the place (m,) of each row among these: methods share their denominators."""
    seen: dict[tuple[float, ...], list[int]] = {}
    first: list[int] = []
    place = np.empty(len(rows), np.int64)
    for i, row in enumerate(rows):
        alike = seen.setdefault((float(row.sum()), *map(float, row[:1]), *map(float, row[-1:])), [])
        same = next((other for other in alike if np.array_equal(rows[first[other]], row)), None)
        if same is None:
            same = len(first)
            first.append(i)
            alike.append(same)
        place[i] = same
    return first, place
