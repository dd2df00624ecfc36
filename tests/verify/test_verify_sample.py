"""Which images are drawn, and the probability that altered ones are missed, against counting."""

from itertools import combinations

import numpy as np
import pytest
from builders import fresh

from evalkit.errors import UserError
from evalkit.verify.sample import count_of, drawn, missed, named, shards_of, surely_found


def test_the_probability_is_the_share_of_samples_without_an_altered_image():
    rng = fresh()
    images = int(rng.integers(4, 11))
    recomputed, altered = (int(rng.integers(1, images)) for _ in range(2))
    bad = set(range(altered))
    samples = list(combinations(range(images), recomputed))
    assert missed(images, recomputed, altered) == pytest.approx(sum(bad.isdisjoint(one) for one in samples) / len(samples), abs=1e-12)


def test_the_least_number_that_is_surely_found_is_the_least():
    rng = fresh()
    images = int(rng.integers(2, 400))
    recomputed, level = int(rng.integers(1, images + 1)), float(rng.uniform(0.001, 0.5))
    known = [altered for altered in range(1, images + 1) if missed(images, recomputed, altered) <= level]
    assert surely_found(images, recomputed, level) == min(known)


def test_a_seed_draws_the_same_images_and_none_draws_fresh_ones():
    assert (drawn(10_000, 50, 3).chosen == drawn(10_000, 50, 3).chosen).all()
    first, second = drawn(10_000, 50), drawn(10_000, 50)
    assert first.seed != second.seed and (first.chosen != second.chosen).any()
    assert (drawn(10_000, 50, first.seed).chosen == first.chosen).all()
    assert len(set(first.chosen)) == 50 and (np.diff(first.chosen) > 0).all() and first.chosen[0] >= 0 and first.chosen[-1] < 10_000


def test_images_of_shards():
    sample = drawn(1000, 200)
    parts = [sample.of_shard(shard, 128) for shard in range(8)]
    assert all((part // 128 == shard).all() for shard, part in enumerate(parts)) and (np.concatenate(parts) == sample.chosen).all()
    assert named([2, 0], 10, 4).chosen.tolist() == [0, 1, 2, 3, 8, 9] and named([1], 10, 4).seed is None


@pytest.mark.parametrize(("text", "images"), [("1%", 8), ("0.01 %", 1), ("100%", 797), ("50", 50), ("5000", 797)])
def test_shares_and_numbers(text, images):
    assert count_of(text, 797) == images


@pytest.mark.parametrize("text", ["0", "0%", "101%", "1.5", "half", "-3", ""])
def test_a_sample_that_is_none(text):
    with pytest.raises(UserError, match="--sample"):
        count_of(text, 797)


def test_numbers_of_shards():
    assert shards_of("0,3-5, 4", 6) == [0, 3, 4, 5]
    for text in ("6", "5-3", "a", "", "1-9"):
        with pytest.raises(UserError, match="--shards"):
            shards_of(text, 6)
