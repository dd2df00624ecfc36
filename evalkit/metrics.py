"""Faithfulness metrics on arrays of scores: Y on the image, O on the perturbed image, one entry an image.

Ablation-CAM paper, section 6.1 (i) to (v). A score is a confidence (softmax) or an activation (logit).
Everything returned per image is averaged, and given its interval, by `evalkit.stats`.
"""

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


def clipped_drop(full: Scores, masked: Scores) -> Scores:
    """max(0, Y - O), undivided: what win compares, defined for every Y."""
    return np.maximum(0, full - masked)


def relative_drop(full: Scores, masked: Scores) -> Scores:
    """max(0, Y - O) / Y * 100 (eq. 5 before averaging); nan where Y <= 0, which the average leaves out and counts."""
    positive = full > 0
    return np.where(positive, clipped_drop(full, masked) / np.where(positive, full, 1) * 100, np.nan)


def increased(full: Scores, masked: Scores) -> Scores:
    """100 where Y < O, strictly, else 0 (eq. 6 before averaging)."""
    return np.where(full < masked, 100.0, 0.0)


def wins(drop: Scores, other: Scores) -> Scores:
    """100 where this clipped drop is strictly smaller than the other's, else 0; ties go to neither.

    Table 1's 47.97 + 34.68 stays below 100 for that reason.
    """
    return np.where(drop < other, 100.0, 0.0)


def best_of_all(drops: Scores) -> Scores:
    """Clipped drops (M,n) of M methods -> (M,n), 100 where one method is strictly below all others."""
    others = np.stack([np.delete(drops, i, axis=0).min(axis=0) for i in range(len(drops))])
    return wins(drops, others)
