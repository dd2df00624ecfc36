"""Sums over resamples are exact: they depend on no order, block or thread, and are those of a loop over the images drawn."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from builders import fresh
from threadpoolctl import threadpool_limits

from evalkit.analysis import resampling


@pytest.mark.parametrize("n", [1, 2, 37, 700])
def test_counts_are_those_of_the_images_drawn(n):
    drawn = np.random.default_rng(0).integers(0, n, (50, n))
    expected = [[(one == image).sum() for one in drawn] for image in range(n)]
    np.testing.assert_array_equal(resampling.resamples(n, 50), expected)


def test_counts_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch):
    whole = resampling.resamples(101, 40).copy()
    monkeypatch.setattr(resampling, "BLOCK", 101 * 7)
    resampling._drawn.cache_clear()
    np.testing.assert_array_equal(resampling.resamples(101, 40), whole)


def rows_of_all_kinds(n):
    rng = fresh()
    drops = rng.uniform(0, 100, n) * (rng.random(n) < 0.7)
    tiny = rng.normal(0, 1e-9, n)
    outcomes = np.where(rng.random(n) < 0.3, 100.0, 0.0)
    signs = 100.0 * rng.integers(-1, 2, n)
    large = rng.lognormal(0, 12, n)
    uneven = np.where(rng.random(n) < 0.5, 1 / 3, 0.0)
    return [uneven, drops, outcomes, tiny, np.ones(n), drops.copy(), signs, np.zeros(n), large, -drops]


@pytest.mark.parametrize("n", [3, 250, 3001])
def test_sums_are_those_of_fractions(n, monkeypatch):
    monkeypatch.setattr(resampling, "RESAMPLES", 30)
    rows = rows_of_all_kinds(n)
    total, resampled = resampling.sums(rows)
    counts = resampling.resamples(n, 30)
    for row, found, on_resamples in zip(rows, total, resampled, strict=True):
        assert found == pytest.approx(math.fsum(row), rel=1e-15, abs=np.abs(row).max() * 1e-17)
        expected = [math.fsum(row * counts[:, b]) for b in range(30)]
        np.testing.assert_allclose(on_resamples, expected, rtol=1e-12, atol=n**2 * np.abs(row).max() * 2.0**-52)


def test_no_bit_depends_on_threads_blocks_or_company(monkeypatch):
    """One thread or two in the products, other blocks, rows alone or together, in another order of the images of each block."""
    n = 1500
    rows = rows_of_all_kinds(n)
    total, resampled = resampling.sums(rows)
    for threads, images in ((1, 256), (2, 256), (1, 64), (2, 1000)):
        monkeypatch.setattr(resampling, "IMAGES", images)
        with threadpool_limits(threads, "blas"):
            alone = [resampling.sums([row]) for row in rows]
        np.testing.assert_array_equal(np.concatenate([one for one, _ in alone]), total)
        np.testing.assert_array_equal(np.concatenate([one for _, one in alone]), resampled)
    with ThreadPoolExecutor(3) as pool:
        for _, again in pool.map(lambda _: resampling.sums(rows), range(3)):
            np.testing.assert_array_equal(again, resampled)
    product = resampling._product(np.rint(rows[0] * 2**20)[None], resampling.resamples(n, resampling.RESAMPLES))
    order = fresh().permutation(n)
    shuffled = resampling._product(np.rint(rows[0] * 2**20)[None, order], resampling.resamples(n, resampling.RESAMPLES)[order])
    np.testing.assert_array_equal(product, shuffled)
