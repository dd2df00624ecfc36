"""Batches that take long are divided by the time of one image; others stay whole."""

import pytest
import torch

from evalkit.data.loader import Batch
from evalkit.evaluation.pace import Pace, images_at_once


def batch(positions, broken=(), last=True) -> Batch:
    readable = [position for position in positions if position not in broken]
    images = torch.tensor(readable, dtype=torch.uint8)[:, None, None, None] if readable else None
    return Batch(3, last, {position: (str(position),) for position in positions}, readable, images, dict.fromkeys(broken, "broken"))


@pytest.mark.parametrize(
    ("seconds", "most", "images"), [(0.1, 32, 32), (0.9, 32, 32), (1.0, 32, 16), (4.0, 32, 4), (29.0, 32, 1), (500.0, 32, 1), (4.0, 7, 7)]
)
def test_about_half_a_minute_at_once(seconds, most, images):
    assert images_at_once(seconds, most) == images


def test_a_fast_batch_stays_as_it_is_and_is_timed_once():
    asked, pace = [], Pace()
    for whole in (batch(range(32)), batch(range(32, 64))):
        (same,) = pace.divided(whole, lambda part: asked.append(part.readable) or 0.2)
        assert same is whole
    assert asked == [[0]]


def test_a_slow_first_use_alone_divides_nothing():
    seconds = iter([20.0, 0.1])
    (same,) = Pace().divided(whole := batch(range(32)), lambda _: next(seconds))
    assert same is whole


def test_a_slow_batch_is_divided_in_order():
    pace = Pace()
    whole = batch(range(10, 20), broken=(10, 13, 14, 15, 19))
    parts = list(pace.divided(whole, lambda part: 14.0 if part.readable == [11] else pytest.fail("only one image is timed")))
    assert [list(part.keys) for part in parts] == [[10, 11], [12, 13], [14, 15], [16, 17], [18, 19]]
    assert [part.readable for part in parts] == [[11], [12], [], [16, 17], [18]]
    assert [part.images is None for part in parts] == [False, False, True, False, False]
    assert [image.item() for part in parts if part.images is not None for image in part.images] == [11, 12, 16, 17, 18]
    assert [sorted(part.errors) for part in parts] == [[10], [13], [14, 15], [], [19]]
    assert [part.last for part in parts] == [False] * 4 + [True] and {part.shard for part in parts} == {3}
    assert not any(part.last for part in pace.divided(batch(range(4), last=False), pytest.fail))


def test_batches_without_a_choice_are_not_timed():
    for alone in (batch([5]), batch([5, 6], broken=(5, 6))):
        assert next(Pace().divided(alone, pytest.fail)) is alone
