"""Planted triggers: the trigger alone decides the class, its box encloses it, and nothing else tells it."""

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from evalkit.data.digits import Digits
from evalkit.data.planted import COLOURS, KINDS, PATTERNS, SIDE, Planted, drawn, plant


def array(image):
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("position", [0, 7, 400, 796])
def test_the_canvas_is_that_of_the_digits_but_for_the_box(position):
    source, plain = Planted(), Digits()
    (box,) = source.boxes(position)
    assert (box.x2 - box.x1, box.y2 - box.y1, box.width, box.height) == (SIDE, SIDE, 64, 64)
    assert min(box.x1, box.y1) >= 0 and max(box.x2, box.y2) <= 64
    differs = np.abs(array(source.load(position)) - array(plain.load(position))).sum(2) > 0
    inside = np.zeros((64, 64), dtype=bool)
    inside[box.y1 : box.y2, box.x1 : box.x2] = True
    assert not differs[~inside].any() and differs[inside].mean() > 0.98
    assert np.array_equal(array(source.without_trigger(position)), array(plain.load(position)))
    assert source.class_keys(position) == (box.key,) == (KINDS[source.trigger(position)[0]],)


def test_the_class_is_read_off_the_box_by_the_nearest_pattern():
    source = Planted()
    patterns = np.stack([drawn(kind) for kind in range(len(KINDS))])
    for position in range(60):
        (box,) = source.boxes(position)
        inside = array(source.load(position))[box.y1 : box.y2, box.x1 : box.x2]
        nearest = int(np.abs(patterns - inside).sum((1, 2, 3)).argmin())
        assert (KINDS[nearest],) == source.class_keys(position)


def test_patterns_differ_in_many_cells_and_have_the_same_colours():
    cells = {name: np.array([int(c) for c in text.replace(" ", "")]) for name, text in PATTERNS.items()}
    for name, one in cells.items():
        assert all((one != other).sum() >= 4 for key, other in cells.items() if key != name)
        colours = {tuple(pixel) for pixel in drawn(KINDS.index(name)).reshape(-1, 3).astype(int).tolist()}
        assert colours == set(COLOURS)


def test_kind_place_and_digit_are_independent():
    source = Planted("train", count=3000)
    triggers = [source.trigger(i) for i in range(len(source))]
    kinds = np.array([kind for kind, _ in triggers])
    digits = source.targets[source.members[:, 0]]
    halves = np.array([(x > 26) + 2 * (y > 26) for _, (x, y) in triggers])
    for other, values in ((digits, 10), (halves, 4)):
        counts = np.zeros((len(KINDS), values))
        np.add.at(counts, (kinds, other), 1)
        assert counts.min() > 0 and chi2_contingency(counts).pvalue > 1e-4


def test_canvases_are_the_same_in_every_call_and_the_splits_disjoint():
    first, second = Planted(), Planted(count=9)
    assert all(np.array_equal(array(first.load(i)), array(second.load(i))) for i in (8, 0, 3))
    assert len(first) == 797 and len(second) == 9
    train = Planted("train", count=1000)
    assert not {ink.tobytes() for ink in train.ink} & {ink.tobytes() for ink in first.ink}
    assert len({source.fingerprint for source in (first, second, train, Planted(seed=1), Digits())}) == 5


def test_the_canvases_are_still_what_the_committed_network_learned():
    assert Planted().fingerprint == "f3ec11a25183cb040ed522c761309d3e7078b433f9724b5ea1367b79faf3fa59"


def test_planting_leaves_the_canvas_alone():
    canvas = Digits().load(0)
    before = array(canvas)
    planted = plant(canvas, 2, (5, 50), np.random.default_rng(0))
    assert np.array_equal(array(canvas), before)
    assert np.abs(array(planted)[50:62, 5:17] - drawn(2)).mean() < 12
