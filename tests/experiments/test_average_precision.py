"""Average precision against loops and scikit-learn, on random scores with ties and undecided labels."""

import average_precision as ap
import numpy as np
import pytest
from builders import fresh
from sklearn.metrics import average_precision_score


def drawn(n: int, classes: int, levels: int | None) -> tuple[np.ndarray, ap.Truth]:
    rng = fresh()
    scores = rng.normal(size=(n, classes)) if levels is None else rng.integers(levels, size=(n, classes)).astype(float)
    return scores, ap.Truth(rng.random((n, classes)) < 0.3, rng.random((n, classes)) < 0.9)


def eleven_points(scores, present) -> float:
    """AP of VOC 2007 by loops: thresholds are the scores themselves."""
    points = []
    for threshold in scores:
        above = [bool(p) for s, p in zip(scores, present, strict=True) if s >= threshold]
        points.append((sum(above), sum(above) / len(above)))
    best = [max(precision for hits, precision in points if 10 * hits >= tenths * sum(present)) for tenths in range(11)]
    return sum(best) / 11


@pytest.mark.parametrize("levels", [None, 4])
def test_both_against_loops_and_sklearn(levels):
    scores, truth = drawn(60, 5, levels)
    found = ap.of_classes(scores, truth)
    for c in range(5):
        known = truth.known[:, c]
        column, present = scores[known, c], truth.present[known, c]
        assert found["ap"][0, c] == pytest.approx(average_precision_score(present, column))
        assert found["ap_2007"][0, c] == pytest.approx(eleven_points(column.tolist(), present.tolist()))


def test_by_hand():
    # Ranked: hit, miss, hit, miss: precision 1 up to recall 0.5, then 2/3.
    truth = ap.Truth(np.array([[1], [0], [1], [0]], bool), np.ones((4, 1), bool))
    found = ap.of_classes(np.array([[4.0], [3], [2], [1]]), truth)
    assert found["ap_2007"][0, 0] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11) and found["ap"][0, 0] == pytest.approx((1 + 2 / 3) / 2)
    # At ten positives, 3 of them reach the recall 0.3, although 3 * 0.1 in floating point is more than 0.3.
    hits = np.array([True] * 3 + [False] * 5 + [True] * 7)
    found = ap.of_classes(-np.arange(15.0)[:, None], ap.Truth(hits[:, None], np.ones((15, 1), bool)))
    assert found["ap_2007"][0, 0] == pytest.approx((4 * 1 + 7 * 10 / 15) / 11)


def test_undecided_images_do_not_count():
    scores, truth = drawn(40, 1, None)
    kept = truth.known[:, 0]
    without = ap.of_classes(scores[kept], ap.Truth(truth.present[kept], np.ones((kept.sum(), 1), bool)))
    both = ap.of_classes(scores, truth)
    assert all(both[kind][0, 0] == without[kind][0, 0] for kind in ap.KINDS)


def test_a_weight_of_two_is_an_image_that_occurs_twice():
    scores, truth = drawn(30, 3, 6)
    counts = fresh().integers(3, size=30)
    again = np.repeat(np.arange(30), counts)
    weighted = ap.of_classes(scores, truth, counts[None].astype(float))
    repeated = ap.of_classes(scores[again], ap.Truth(truth.present[again], truth.known[again]))
    for kind in ap.KINDS:
        np.testing.assert_allclose(weighted[kind], repeated[kind])


def test_constant_scores_have_the_prevalence_and_random_orders_are_near_it():
    present = np.zeros((400, 1), bool)
    present[:100] = True
    truth = ap.Truth(present, np.ones_like(present))
    assert ap.of_classes(np.zeros((400, 1)), truth)["ap"][0, 0] == pytest.approx(0.25)
    orders = ap.of_random_orders(truth, seed=0)
    assert orders["ap"].shape == (ap.ORDERS, 1) and 0.25 < orders["ap"].mean() < 0.27
    assert orders["ap_2007"].mean() > orders["ap"].mean()  # the highest precisions are chosen


def test_the_table_has_intervals_around_the_value_and_chance_beside_it(monkeypatch):
    rng = fresh()
    present = rng.random((200, 3)) < 0.3
    noise = rng.normal(0, 0.5, (200, 3))
    scores = noise + present * [1, -1, 0]
    present[:, 2] = False
    rows = list(ap.table(scores, ap.Truth(present, np.ones_like(present)), ["seen", "reversed", "absent"], seed=1))
    by = {row["class"]: row for row in rows}
    assert [row["class"] for row in rows] == ["seen", "reversed", "absent", "mean"]
    assert by["seen"]["ap_low"] < by["seen"]["ap"] < by["seen"]["ap_high"] and by["seen"]["ap_low"] > by["seen"]["ap_random"]
    assert by["seen"]["ap_p_random"] == 1 / 1001 and by["reversed"]["ap_p_random"] > 0.5
    assert np.isnan([by["absent"][key] for key in ("ap", "ap_2007", "ap_low", "ap_random", "ap_p_random")]).all()
    for kind in ap.KINDS:
        assert by["mean"][kind] == pytest.approx((by["seen"][kind] + by["reversed"][kind]) / 2)
    assert by["mean"]["present"] == present.sum()
