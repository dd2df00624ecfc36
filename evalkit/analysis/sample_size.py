"""How many images a sign-flip test needs, from the differences of a pilot."""

import numpy as np
from scipy import stats as scipy_stats

from evalkit.analysis.stats import Array

_STEPS = 50
"""Bisections."""
_BATCH = 2**20
"""Differences that are held in memory at once, about."""


def images_needed(differences: Array, means: Array, level: float, power: float, step: Array | float = 0) -> Array:
    """Return the images (m,) at which a two-sided test at `level` of m differences (m,n) of images rejects with probability `power`.

    `means` (m,) are the true mean differences; the images are weighed by exp(c x), with the c that gives them this mean (exponential
    tilting). At a small level the normal approximation asks for too many images, since the tails of a sum under random signs are lighter.
    So p is the saddlepoint approximation of `significance.sign_flip`, whose exponent per image is I = max_t mean(t x - log cosh(t x)):
    its root r* = w + log(u / w) / w, w = sqrt(2 n I), u = t sqrt(n mean(x^2 / cosh^2(t x))), exceeds the normal quantile of the level
    with probability `power`, where w varies between samples with the standard deviation of t x - log cosh(t x) over sqrt(2 I). For
    small differences this is (z_level sqrt(mean x^2) + z_power sd)^2 / mean^2 (Connor, Biometrics 1987, for McNemar's test). Exact tests
    of outcomes, which differ by `step`, need step / |mean| more, the correction for continuity. inf where the mean is zero.
    """
    size = np.abs(means)
    x = differences * np.where(means < 0, -1.0, 1.0)[:, None]
    most = x.max(axis=1)
    asked = (size > 0) & (most > 0)
    needed = np.full(len(x), np.inf)
    steps = np.broadcast_to(step, size.shape)
    for rows in np.array_split(np.flatnonzero(asked), max(1, x.size // _BATCH)):
        if len(rows):
            scale = np.abs(x[rows]).max(axis=1)
            scaled = x[rows] / scale[:, None]
            weights = _tilted(scaled, np.minimum(size[rows] / scale, scaled.max(axis=1)))
            images = _of_weighted(scaled, weights, level, power) + steps[rows] / size[rows]
            needed[rows] = np.ceil(np.maximum(images, _one_sided(scaled, weights, level, power)))
    return needed


def _tilted(x: Array, means: Array) -> Array:
    """Return weights (m,n) proportional to exp(c x), under which x (m,n) has these means; the closest that exist."""
    low, high = np.full(len(x), -500.0), np.full(len(x), 500.0)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        over = (_weights(x, middle) * x).sum(axis=1) > means
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    return _weights(x, (low + high) / 2)


def _weights(x: Array, c: Array) -> Array:
    raised = c[:, None] * x
    weights = np.exp(raised - raised.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _of_weighted(x: Array, weights: Array, level: float, power: float) -> Array:
    """Return the images (m,) by the saddlepoint; x (m,n) is at most 1 in size."""
    means = (weights * x).sum(axis=1)
    low, high = np.full(len(x), -20.0), np.full(len(x), 20.0)  # of log t
    for _ in range(_STEPS):
        middle = (low + high) / 2
        over = (weights * x * np.tanh(np.exp(middle)[:, None] * x)).sum(axis=1) > means
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    t = np.exp((low + high) / 2)[:, None]
    sizes = np.abs(t * x)
    gains = t * x - (sizes + np.log1p(np.exp(-2 * sizes)) - np.log(2))
    exponent = (weights * gains).sum(axis=1)
    varies = np.sqrt(np.maximum((weights * (gains - exponent[:, None]) ** 2).sum(axis=1), 0))
    w = np.sqrt(2 * np.maximum(exponent, np.finfo(float).tiny))
    u = np.sqrt((weights * (t * x) ** 2 * (1 - np.tanh(sizes) ** 2)).sum(axis=1))
    bound = scipy_stats.norm.isf(level / 2) + scipy_stats.norm.isf(1 - power) * varies / w
    correction = np.log(np.clip(u / w, 1e-3, 1))
    images = ((bound + np.sqrt(np.maximum(bound, 0) ** 2 - 4 * correction)) / 2 / w) ** 2
    return np.where(high == 20.0, 0, images)  # no difference is negative: `_one_sided` is exact


def _one_sided(x: Array, weights: Array, level: float, power: float) -> Array:
    """Return the images (m,) among which there are enough with a difference that p could be so small: at least 2 to the power of 1 - k."""
    share = np.minimum((weights * (x != 0)).sum(axis=1), 1)
    z, least = scipy_stats.norm.isf(1 - power), np.ceil(1 - np.log2(level))
    root = (z * np.sqrt(share * (1 - share)) + np.sqrt(z**2 * share * (1 - share) + 4 * share * least)) / (2 * share)
    return np.asarray(root**2 - 1e-9)
