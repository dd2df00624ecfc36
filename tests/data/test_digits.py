"""The embedded sets: deterministic, disjoint, balanced, boxed."""

import numpy as np
import pytest

from evalkit.data.digits import EVALUATION_ORIGINALS, Digits, TwoDigits, compose, originals
from evalkit.errors import UserError


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


def test_digits_are_still_what_the_committed_networks_learned():
    """Composed before canvases could hold two."""
    assert Digits().fingerprint == "267ade91f919dee7f50b46402a2c19f582d921e4b1dfd3452af961fa14f3eecd"


def test_two_digits_use_each_original_once_and_never_the_other_split():
    train, val = TwoDigits("train", seed=3), TwoDigits("val", seed=3)
    assert len(train) == 500 and len(val) == EVALUATION_ORIGINALS // 2
    seen = {train.ink[i].tobytes() for i in train.members.ravel()}
    shown = [val.ink[i].tobytes() for i in val.members.ravel()]
    assert len(seen) == 1000 and len(set(shown)) == len(shown) == 796 and not seen & set(shown)
    again = TwoDigits("train", count=1250)
    assert len(again) == 1250 and all(np.unique(part).size == 1000 for part in (again.members[:500], again.members[500:1000]))
    assert np.array_equal(TwoDigits(count=7).members, TwoDigits().members[:7]) and len(TwoDigits(count=0)) == 0


def test_two_digits_differ_and_their_labels_are_those_of_the_originals():
    source, labels = TwoDigits(), originals("val")[1]
    for position, members in enumerate(source.members):
        first, second = source.class_keys(position)
        assert first != second and [int(first), int(second)] == labels[members].tolist()
    pairs = {source.class_keys(i) for i in range(len(source))}
    assert len(pairs) > 80  # of 90: one digit tells nothing of the other


@pytest.mark.parametrize("position", range(12))
def test_each_box_holds_its_digit_and_nothing_of_the_other(position):
    """The same canvas is drawn without a digit: where it differs, the digit was."""
    source = TwoDigits()
    assert [box.key for box in source.boxes(position)] == list(source.class_keys(position))
    inks = source.ink[source.members[position]]
    whole = np.asarray(source.load(position)).astype(int)
    for i, (own, other) in enumerate((source.boxes(position), source.boxes(position)[::-1])):
        without = inks.copy()
        without[i] = 0
        bare, _ = compose(without, np.random.default_rng([0, True, position]))
        digit = np.abs(whole - np.asarray(bare)).sum(2)
        assert digit[own.y1 : own.y2, own.x1 : own.x2].sum() > 0.9 * digit.sum() > 0
        assert digit[other.y1 : other.y2, other.x1 : other.x2].sum() == 0
        assert max(own.x2 - own.x1, own.y2 - own.y1) <= 32 and own.width == own.height == 64


def test_two_digits_have_fingerprints_of_their_own():
    made = [Digits(), TwoDigits(), TwoDigits(seed=1), TwoDigits("train"), TwoDigits(count=5)]
    assert len({source.fingerprint for source in made}) == len(made)
    assert TwoDigits().fingerprint == made[1].fingerprint
    assert np.array_equal(np.asarray(TwoDigits().load(3)), np.asarray(TwoDigits(count=5).load(3)))


@pytest.mark.parametrize("seed", ["x", -1, 1.5, None, [1]])
def test_a_seed_that_is_none(seed):
    with pytest.raises(UserError, match=r"data.seed=.* must be a whole number, 0 or more"):
        Digits(seed=seed)
