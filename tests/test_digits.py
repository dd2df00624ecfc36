"""The embedded set: deterministic, disjoint, balanced, boxed."""

import numpy as np

from evalkit.data.digits import EVALUATION_ORIGINALS, Digits, originals


def test_splits_are_disjoint_and_complete():
    train, val = (originals(split)[0] for split in ("train", "val"))
    assert len(val) == EVALUATION_ORIGINALS and len(train) + len(val) == 1797
    seen = {ink.tobytes() for ink in train}
    assert not any(ink.tobytes() in seen for ink in val)


def test_canvases_are_the_same_on_every_call():
    first, second = Digits(), Digits()
    for i in (0, 5, 796):
        assert np.array_equal(np.asarray(first.load(i)), np.asarray(second.load(i)))
        assert first.load(i).size == (64, 64)
    assert not np.array_equal(np.asarray(first.load(0)), np.asarray(Digits(seed=1).load(0)))
    assert first.fingerprint == second.fingerprint != Digits(seed=1).fingerprint


def test_every_class_is_there_and_boxes_lie_inside():
    source = Digits()
    assert {source.class_keys(i)[0] for i in range(len(source))} == set("0123456789")
    for i in range(50):
        x1, y1, x2, y2 = source.box(i)
        assert 0 <= x1 < x2 <= 64 and 0 <= y1 < y2 <= 64 and (x2 - x1) * (y2 - y1) > 60
