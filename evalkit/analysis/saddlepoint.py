"""The sign-flip test of paired differences without drawing signs: p values as small as a correction for thousands of tests needs."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from evalkit.analysis.significance import sign_flip
from evalkit.analysis.stats import Array

EXACT = 12
"""Largest number of differences that are not zero for which all signs are tried."""
DRAWN_P, DRAWN_IMAGES = 0.01, 2000
"""Of p above this, and for at most so many images, `sign_flip` draws: there it is precise, and the approximation is worst."""
CLEAR = 8.0
"""Standard errors from which Hoeffding's bound, at most 3e-14, stands for p."""
STEPS = 60
NEAR_ZERO = 1e-4
"""Root below which a tail is that of the normal distribution: both correction terms are infinite there, and their sum is not."""
CHUNK_ENTRIES = 2**20


def sign_flip_p(differences: Array, images: NDArray[Any] | None = None) -> Array:
    """Return the two-sided p (m,) of the sign-flip permutation test that each of m mean paired differences (m,n) is zero.

    As `significance.sign_flip`, whose 9,999 random draws of the signs cannot give a p below 1e-4: too coarse to be multiplied by
    a family of thousands. Here p is exact where at most `EXACT` differences are not zero, or all have one size (then it is the sign
    test, as for increase and win), or all have one sign. It is that of `sign_flip` where its draws suffice (`DRAWN_P`), else Robinson's
    saddlepoint approximation (J. R. Stat. Soc. B 1982, 44(1), "Saddlepoint approximations for permutation tests and confidence
    intervals") in the form of Barndorff-Nielsen, and beyond `CLEAR` Hoeffding's upper bound 2 exp(-z^2 / 2).

    nan marks undefined entries, which are left out. `images` (n,) gives the image of each entry: the entries of one image flip together.
    p is 1 where all differences are zero, and nan where none is defined.
    """
    values = np.nan_to_num(differences)
    if images is not None:
        values = pd.DataFrame(values.T).groupby(images).sum().to_numpy().T
    rows = max(1, CHUNK_ENTRIES // max(values.shape[1], 1))
    found = [_p(values[start : start + rows]) for start in range(0, len(values), rows)]
    p = np.concatenate(found) if found else np.empty(0)
    drawn = (p > DRAWN_P) & (p < 1) & ~_known(values)
    if values.shape[1] <= DRAWN_IMAGES and drawn.any():
        p[drawn] = sign_flip(values[drawn])
    return np.where(np.isnan(differences).all(1), np.nan, p)


def _scaled(values: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Return sizes over the largest of their row (m,n), and which are not zero: differences of rounding alone are ties."""
    size = np.abs(values)
    largest = size.max(1, initial=0)
    size = size / np.where(largest > 0, largest, 1)[:, None]
    return size, size > 1e-12


def _sign_alone(values: Array, size: Array, some: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return of which rows (m,) the numbers of signs give p: those of one size, and of one sign."""
    positive, number = (some & (values > 0)).sum(1), some.sum(1)
    return np.asarray((np.where(some, size, 1).min(1, initial=1) > 1 - 1e-9) | (positive == 0) | (positive == number))


def _known(values: Array) -> NDArray[np.bool_]:
    size, some = _scaled(values)
    return np.asarray(_sign_alone(values, size, some) | (some.sum(1) <= EXACT))


def _p(values: Array) -> Array:
    size, some = _scaled(values)
    positive, number = (some & (values > 0)).sum(1), some.sum(1)
    totals = np.abs((np.sign(values) * size).sum(1))
    z = totals / np.sqrt(np.maximum((size**2).sum(1), 1e-300))
    p = np.minimum(1, 2 * np.exp(-(z**2) / 2))
    level = _sign_alone(values, size, some)
    p[level] = _sign_test(positive[level], number[level])
    few = ~level & (number <= EXACT)
    for row in np.flatnonzero(few):
        p[row] = _enumerated(size[row, some[row]], totals[row])
    rest = np.flatnonzero(~level & ~few & (z < CLEAR))
    if len(rest):
        p[rest] = np.maximum(_tail(size[rest], totals[rest]), 2.0 ** (1 - number[rest].astype(float)))
    return p


def _sign_test(positive: NDArray[np.int64], number: NDArray[np.int64]) -> Array:
    """Return p of the exact two-sided sign test, for any numbers of signs."""
    fewer = np.minimum(positive, number - positive)
    below = special.bdtr(fewer, np.maximum(number, 1), 0.5)
    return np.where(number > 0, np.minimum(1, 2 * below), 1.0)


def _enumerated(size: Array, total: float) -> float:
    signs = 1 - 2 * ((np.arange(2 ** len(size))[:, None] >> np.arange(len(size))) & 1)
    return float((np.abs(signs @ size) >= total * (1 - 1e-9)).mean())


def _tail(size: Array, total: Array) -> Array:
    """Return P(|sum of randomly signed sizes| >= total) for sizes (m,n) and totals (m,).

    K(t) = sum log cosh(t d) is the cumulant generating function; t solves K'(t) = total. Newton's steps rise to it from below,
    since K' is concave: a step too few makes p larger.
    """
    point = total / (size**2).sum(1)
    for _ in range(STEPS):
        slope = np.tanh(point[:, None] * size)
        missing = total - (size * slope).sum(1)
        if (missing <= 1e-9 * total).all():
            break
        point = point + np.maximum(missing, 0) / (size**2 * (1 - slope**2)).sum(1)
    scaled = point[:, None] * size
    cumulant = (scaled + np.log1p(np.exp(-2 * scaled)) - np.log(2)).sum(1)
    root = np.sqrt(np.maximum(2 * (point * total - cumulant), 0))
    weight = point * np.sqrt((size**2 / np.cosh(np.minimum(scaled, 300)) ** 2).sum(1))
    near = (root < NEAR_ZERO) | (weight <= 0)
    safe, by = np.where(near, 1, root), np.where(near, 1, weight)
    corrected = np.where(near, root, safe + np.log(by / safe) / safe)
    return np.asarray(np.minimum(1, 2 * special.ndtr(-corrected)))
