"""Where the time went: every stage, nothing twice."""

import time

import pytest
import torch

from evalkit.evaluation.stopwatch import Stopwatch


def test_stages_add_up():
    stages = Stopwatch(torch.device("cpu"))
    with stages("maps.grad_cam"):
        time.sleep(0.02)
    with pytest.raises(ZeroDivisionError), stages("masks"):
        _ = 1 // 0
    assert list(stages.waiting("decode", [1, 2])) == [1, 2]
    taken = stages.take()
    assert set(taken) == {"maps.grad_cam", "masks", "decode"} and taken["maps.grad_cam"] >= 0.02
    with stages("maps.cam"):
        pass
    assert set(stages.take()) == {"maps.cam"} and not stages.take()
    assert set(stages.total) == {"maps", "masks", "decode"} and stages.total["maps"] >= 0.02


def test_what_is_waited_for_may_end_at_once():
    assert list(Stopwatch().waiting("decode", [])) == []
