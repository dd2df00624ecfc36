"""Tests of paired differences, and the correction of their p values for how many were compared."""

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evalkit.analysis.stats import ENOUGH, LEVEL, Array, Intervals, bootstrap, by_image

Sums = tuple[Array, Array]
Correction = Literal["holm", "bh", "none"]
"""How p values are corrected for how many were compared: `holm`, `benjamini_hochberg`, or not."""

EXACT = 30
"""Largest number of non-zero differences whose signs are all enumerated."""
FEW = 2000
"""Number of non-zero differences up to which the largest are enumerated, since a few of them may dominate the sum."""
NODES = 100
"""Number of saddlepoints between which the tail of the other differences is interpolated."""
BATCH_BYTES = 2**21
"""So little that a batch stays in the processor's cache."""
SMALLEST = float(np.finfo(float).tiny)


def sign_flip(differences: Array, images: NDArray[Any] | None = None) -> Array:
    """Return the two-sided p (m,) of the sign-flip permutation test that each of m mean paired differences (m,n) is zero.

    nan marks undefined entries, which are left out; p is nan where none is defined. `images` (n,) gives the image of each entry, if an
    image has several: their signs flip together. Under the null, a difference and its negative are equally likely, so p is the share of
    all 2^k choices of the k non-zero differences' signs whose sum is at least as far from zero as the observed one.

    No signs are drawn at random, so p has no floor: it is exact for up to EXACT non-zero differences and where all have one size, as
    differences of outcomes 0 and 100 (this is McNemar's exact test, and the sign test). Else it is the saddlepoint approximation of
    Robinson (J. R. Stat. Soc. B 1982) with Lugannani and Rice's tail (Adv. Appl. Probab. 1980) in the form of Barndorff-Nielsen's r*;
    up to FEW non-zero differences, all signs of the 12 or 16 largest are enumerated and the sum of the others approximated. p is 1
    where all differences are 0.
    """
    p = np.full(len(differences), np.nan)
    for rows in _batches(*differences.shape):
        values = np.nan_to_num(differences[rows])
        defined = ~np.isnan(differences[rows]).all(axis=1)
        p[rows] = np.where(defined, _p_of_sums(values if images is None else by_image(values, images)), np.nan)
    return p


def fewest_images(tests: int, level: float, sides: int) -> int:
    """Return the smallest number n of images that differ with which one of so many `sign_flip` tests can be significant at a level.

    The smallest p is 2^-n for each of the `sides` of the test, times the number of tests by Holm's or Bonferroni's correction.
    """
    return math.ceil(math.log2(sides * max(tests, 1) / level))


def compare_ratios(first: Sums, second: Sums, images: NDArray[Any]) -> tuple[Intervals, Array]:
    """Return the difference of two ratios of sums, each of numerators and denominators (1,n), with its interval and p, all (1,).

    p is of the sign-flip test of what each image contributes to the difference: of a - r b over the sum of b, r being the ratio of both
    together, which is theirs under the null. For fewer than `stats.ENOUGH` images the interval is that of the mean of such contributions
    about the ratios themselves.
    """
    (a, b), (c, d) = ((by_image(above, images), by_image(below, images)) for above, below in (first, second))
    common = (a.sum() + c.sum()) / (b.sum() + d.sum())
    p = sign_flip((a - common * b) / b.sum() - (c - common * d) / d.sum())
    estimates = bootstrap({"first": first, "second": second}, images)
    value = estimates["first"].value - estimates["second"].value
    if a.shape[1] >= ENOUGH:
        tails = np.nanquantile(estimates["first"].resampled - estimates["second"].resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
        return Intervals(value, tails[0], tails[1]), p
    gained = (a - estimates["first"].value * b) / b.sum() - (c - estimates["second"].value * d) / d.sum()
    linear = bootstrap({"gained": value + a.shape[1] * gained})["gained"]
    return Intervals(value, linear.low, linear.high), p


def _batches(m: int, n: int) -> Iterator[slice]:
    size = max(1, BATCH_BYTES // (8 * max(n, 1)))
    return (slice(start, start + size) for start in range(0, m, size))


def _p_of_sums(values: Array) -> Array:
    """Return p of finite differences (m,n), each of which flips by itself."""
    sizes, observed = np.abs(values), np.abs(values.sum(axis=1))
    count, most, total = (sizes > 0).sum(axis=1), sizes.max(axis=1, initial=0), sizes.sum(axis=1)
    observed = np.where(observed <= 1e-12 * total, 0, observed)
    one_sided = (observed > 0) & (observed >= total * (1 - 1e-12))
    p = np.where(one_sided, 0.0, 1.0)
    asked = (observed > 0) & ~one_sided
    alike = asked & (np.where(sizes > 0, sizes, np.inf).min(axis=1, initial=np.inf) >= most * (1 - 1e-12))
    larger = np.round((count + observed / np.where(most > 0, most, 1)) / 2)
    p[alike] = 2 * stats.binom.sf(larger[alike] - 1, count[alike], 0.5)
    few = asked & ~alike & (count <= EXACT)
    some = asked & ~alike & ~few & (count <= FEW)
    for row in np.flatnonzero(few | some):
        nonzero = np.sort(sizes[row][sizes[row] > 0])[::-1]
        p[row] = 2 * (_enumerated(nonzero, observed[row]) if few[row] else _largest_enumerated(nonzero, observed[row]))
    many = np.flatnonzero(asked & ~alike & ~few & ~some)
    if len(many):
        p[many] = 2 * _saddlepoint(sizes[many], observed[many], _spans(sizes[many]))
    almost = np.flatnonzero(asked & ~alike & ~few & (observed > total * (1 - 1e-9)))  # beyond the saddlepoint's last t
    fixed = (sizes[almost] > ((total - observed) / 2)[almost, None]).sum(axis=1)  # signs that all such sums share
    p[almost] = np.exp2(1.0 - np.minimum(fixed, 1000))
    least = np.exp2(1.0 - np.minimum(count, 1000))  # the observed signs and their opposites always count
    return np.clip(p, np.maximum(SMALLEST, least), 1)


def _sums(sizes: Array) -> Array:
    """Return the sums (2^k,) of sizes (k,) under all signs."""
    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate([sums - size, sums + size])
    return sums


def _enumerated(sizes: Array, observed: float) -> float:
    """Return the share of all signs whose sum is at least `observed`: sums of one half of the sizes, looked up among those of the other."""
    first, second = _sums(sizes[::2]), np.sort(_sums(sizes[1::2]))
    reached = len(second) - np.searchsorted(second, np.sort(observed - first) - 1e-11 * sizes.sum())
    return float(reached.sum() / len(first) / len(second))


def _largest_enumerated(sizes: Array, observed: float) -> float:
    """Return the probability of a sum of at least `observed`: all signs of the largest sizes, the saddlepoint for the sum of the others."""
    largest, rest = np.split(sizes, [16 if len(sizes) <= 200 else 12])
    span = _spans(rest[None])[0]
    steps = np.sinh(np.linspace(0, np.arcsinh(60), NODES))[1:] / np.sqrt((rest**2).sum())
    reached, log_tail = _tail(rest[None], steps[:, None], np.full(1, span))
    asked = observed - _sums(largest)
    negative = asked < span / 2
    upper = np.where(negative, span - asked, asked)
    reached, log_tail = np.append(span / 2, reached), np.append(np.log(0.5), log_tail)
    inside = np.interp(upper, reached, log_tail, right=-np.inf)
    inside[upper > rest.sum() * (1 + 1e-12)] = -np.inf
    tails = np.exp(inside)
    p = float(np.where(negative, 1 - tails, tails).mean())
    return p if p > 1e-12 else float(_saddlepoint(sizes[None], np.array([observed]), _spans(sizes[None]))[0])


def _spans(sizes: Array) -> Array:
    """Return the distance (m,) of neighbouring sums under all signs of sizes (m,n), 0 where these are no multiples of one step.

    The step is of whole numbers, or the smallest size: shares of a few raters are multiples of it.
    """
    unit = np.where((sizes == np.round(sizes)).all(axis=1), 1, np.where(sizes > 0, sizes, np.inf).min(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        steps = sizes / unit[:, None]
    rounded = np.round(steps)
    whole = (np.abs(steps - rounded) <= 1e-9 * np.maximum(steps, 1)).all(axis=1) & (steps.max(axis=1) < 1e6)
    spans = np.zeros(len(sizes))
    if whole.any():
        spans[whole] = 2 * unit[whole] * np.gcd.reduce(rounded[whole].astype(np.int64), axis=1)
    return spans


def _saddlepoint(sizes: Array, observed: Array, spans: Array) -> Array:
    """Return the probability (m,) of a sum of at least `observed` (m,) under random signs of sizes (m,n).

    Newton's steps towards K'(t) = observed never pass the solution: K' is concave for t > 0, and the first t is below it.
    """
    asked = observed - spans / 2
    below = asked > 0
    t = np.where(below, asked / (sizes**2).sum(axis=1), 0)
    active = np.flatnonzero(below & (asked < sizes.sum(axis=1) * (1 - 1e-9)))
    for _ in range(100):
        chosen = sizes if len(active) == len(sizes) else sizes[active]
        small = np.exp(-2 * t[active, None] * chosen)
        tangents = (1 - small) / (1 + small)
        gap = asked[active] - np.einsum("ij,ij->i", tangents, chosen)
        t[active] += gap / np.einsum("ij,ij,ij->i", chosen, chosen, 1 - tangents**2)
        active = active[gap > 1e-5 * asked[active]]
        if not len(active):
            break
    _, log_tail = _tail(sizes, t[:, None], spans)
    return np.where(below, np.exp(log_tail), 0.5)


def _tail(sizes: Array, t: Array, spans: Array) -> tuple[Array, Array]:
    """Return the sums (r,) that belong to saddlepoints t (r,1) of sizes (1 or r,n), and the logarithms of their upper tails.

    K(t), the sum of log cosh(t sizes), is the cumulant function. Sums on a lattice of `spans` get Daniels' second continuity
    correction (Int. Stat. Rev. 1987).
    """
    x = t * sizes
    small = np.exp(-2 * x)
    tangents = (1 - small) / (1 + small)
    first = np.einsum("ij,ij->i", tangents, np.broadcast_to(sizes, x.shape))
    second = ((1 - tangents**2) * sizes**2).sum(axis=1)
    cumulant = (x + np.log1p(small)).sum(axis=1) - np.log(2) * x.shape[1]
    t = t[:, 0]
    w = np.sqrt(np.maximum(2 * (t * first - cumulant), 0))
    half = t * spans / 2
    u = t * np.sqrt(second) * np.where(half > 0, np.sinh(np.minimum(half, 300)) / np.where(half > 0, half, 1), 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        moved = np.where((w > 1e-3) & (u > 0), w + np.log(u / w) / w, u)  # near 0, w is a difference of nearly equal numbers
    return first + spans / 2, stats.norm.logsf(moved)


def holm(p: Array) -> Array:
    """Return p values adjusted by Holm (Scand. J. Statist. 1979) for the family of all defined entries; nan stays nan."""
    adjusted = np.full(p.shape, np.nan)
    defined = ~np.isnan(p)
    values = p[defined]
    order = np.argsort(values)
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    ordered = np.empty(len(values))
    ordered[order] = np.minimum(1, steps)
    adjusted[defined] = ordered
    return adjusted


def benjamini_hochberg(p: Array) -> Array:
    """Return p values adjusted by Benjamini and Hochberg (J. R. Stat. Soc. B 1995), for the false discovery rate; nan stays nan."""
    adjusted = np.full(p.shape, np.nan)
    defined = ~np.isnan(p)
    if defined.any():
        adjusted[defined] = stats.false_discovery_control(p[defined], method="bh")
    return adjusted
