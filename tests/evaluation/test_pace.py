"""Batches that take long are divided by the time of one image; others stay whole."""

import pytest
import torch

from evalkit.data.loader import Batch
from evalkit.evaluation.pace import Pace, Trial, images_at_once
from evalkit.evaluation.rows import ShardRows


def batch(positions, broken=(), last=True) -> Batch:
    readable = [position for position in positions if position not in broken]
    images = torch.tensor(readable, dtype=torch.uint8)[:, None, None, None] if readable else None
    return Batch(3, last, {position: (str(position),) for position in positions}, readable, images, dict.fromkeys(broken, "broken"))


@pytest.mark.parametrize(
    ("seconds", "most", "images"), [(0.1, 32, 32), (0.9, 32, 32), (1.0, 32, 16), (4.0, 32, 4), (29.0, 32, 1), (500.0, 32, 1), (4.0, 7, 7)]
)
def test_about_half_a_minute_at_once(seconds, most, images):
    assert images_at_once(seconds, most) == images


def taking(*seconds: float):
    """Trials that take so long, and the images that they were asked for."""
    asked, left = [], iter(seconds)

    def compute(part: Batch) -> Trial:
        asked.append(part.readable)
        return Trial(next(left), ShardRows(), {})

    return compute, asked


def test_a_fast_batch_stays_as_it_is_and_is_timed_once():
    (compute, asked), pace = taking(0.2), Pace(32)
    for whole in (batch(range(3)), batch(range(32, 64))):  # the first is the rest of a shard
        assert list(pace.divided(whole, compute)) == [(whole, None)]
    assert asked == [[0]]


def test_a_slow_first_use_alone_divides_nothing():
    compute, asked = taking(20.0, 0.1)
    assert list(Pace(32).divided(whole := batch(range(32)), compute)) == [(whole, None)]
    assert asked == [[0], [1]]


def test_a_slow_batch_is_divided_in_order():
    (compute, asked), pace = taking(40.0, 14.0), Pace(10)
    parts = list(pace.divided(batch(range(10, 20), broken=(10, 13, 14, 15, 19)), compute))
    assert [None if trial is None else trial.seconds for _, trial in parts] == [40.0, 14.0, None, None, None, None]
    parts = [part for part, _ in parts]
    assert [list(part.keys) for part in parts] == [[10, 11], [12], [13, 14], [15, 16], [17, 18], [19]]
    assert asked == [[11], [12]] and [part.readable for part in parts] == [[11], [12], [], [16], [17, 18], []]
    assert [image.item() for part in parts if part.images is not None for image in part.images] == [11, 12, 16, 17, 18]
    assert [part.images is None for part in parts] == [not part.readable for part in parts]
    assert [sorted(part.errors) for part in parts] == [[10], [], [13, 14], [15], [], [19]]
    assert [part.last for part in parts] == [False] * 5 + [True] and {part.shard for part in parts} == {3}
    assert [(len(part.keys), part.last, trial) for part, trial in pace.divided(batch(range(4), last=False), compute)] == [
        (2, False, None)
    ] * 2


def test_batches_of_one_are_not_timed():
    for alone in (batch([5]), batch([5, 6], broken=(5, 6))):
        assert list(Pace(32).divided(alone, pytest.fail)) == [(alone, None)]


def test_two_slow_images_are_the_whole_batch():
    compute, _ = taking(40.0, 40.0)
    assert [(list(part.keys), part.last) for part, _ in Pace(32).divided(batch([1, 2]), compute)] == [([1], False), ([2], True)]
