"""The sign-flip test without draws, against all signs, the binomial and draws."""

import itertools

import numpy as np
import pytest
import scipy.stats
from builders import fresh

from evalkit.analysis import saddlepoint
from evalkit.analysis.saddlepoint import sign_flip_p
from evalkit.analysis.significance import sign_flip


def every_sign(row):
    sums = [abs(np.dot(signs, row)) for signs in itertools.product([-1, 1], repeat=len(row))]
    return np.mean(np.array(sums) >= abs(row.sum()) * (1 - 1e-9))


def test_few_differences_are_exact():
    values = fresh().normal(0.5, 1, (4, 9))
    assert sign_flip_p(values) == pytest.approx([every_sign(row) for row in values])
    assert sign_flip_p(np.c_[values, np.zeros((4, 30))]) == pytest.approx([every_sign(row) for row in values])


def test_the_approximation_is_near_all_signs(monkeypatch):
    monkeypatch.setattr(saddlepoint, "DRAWN_IMAGES", 0)
    values = fresh().normal(0.5, 1, (3, 15))
    assert sign_flip_p(values) == pytest.approx([every_sign(row) for row in values], rel=0.2, abs=0.01)


def test_one_size_is_the_sign_test():
    values = fresh().choice([-100.0, 0, 100], (5, 300), p=[0.1, 0.6, 0.3])
    expected = [scipy.stats.binomtest(int((row > 0).sum()), int((row != 0).sum())).pvalue for row in values]
    assert sign_flip_p(values) == pytest.approx(expected, rel=1e-9)


def test_many_differences_agree_with_draws(monkeypatch):
    monkeypatch.setattr(saddlepoint, "DRAWN_IMAGES", 0)
    values = fresh().standard_t(4, (6, 150)) + np.array([[0], [0], [0.1], [0.1], [0.2], [0.2]])
    assert sign_flip_p(values) == pytest.approx(sign_flip(values), abs=0.02)


def test_entries_of_an_image_flip_together():
    values, images = fresh().normal(0.4, 1, (2, 20)), np.repeat(np.arange(10), 2)
    assert sign_flip_p(values, images) == pytest.approx([every_sign(row.reshape(10, 2).sum(1)) for row in values])


def test_no_difference_and_none_defined():
    assert sign_flip_p(np.array([[0.0] * 30, [np.nan] * 30]))[0] == 1
    assert np.isnan(sign_flip_p(np.full((1, 30), np.nan))).all()
