"""Tests of paired differences, and the correction of their p values for how many were compared."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evalkit.analysis.stats import Array, _by_image

FLIPS = 9999


def sign_flip(differences: Array, images: NDArray[Any] | None = None) -> Array:
    """Return the two-sided p (m,) of the sign-flip permutation test that each of m mean paired differences (m,n) is zero.

    nan marks undefined entries, which are left out. `images` (n,) gives the image of each entry, if an image has several: their
    signs flip together. Under the null, a difference and its negative are equally likely.
    """
    values = np.nan_to_num(differences)
    if images is not None:
        values = _by_image(values, images)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (FLIPS, values.shape[1]))
    sums, size = signs @ values.T, np.abs(values.sum(1))
    return np.asarray((1 + (np.abs(sums) >= size * (1 - 1e-12)).sum(0)) / (FLIPS + 1))


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
    """Return p values adjusted by Benjamini and Hochberg (J. R. Stat. Soc. B 1995), which bounds the false discovery rate; nan stays nan."""
    adjusted = np.full(p.shape, np.nan)
    defined = ~np.isnan(p)
    if defined.any():
        adjusted[defined] = stats.false_discovery_control(p[defined], method="bh")
    return adjusted
