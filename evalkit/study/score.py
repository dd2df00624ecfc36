"""The paper's scores from a key and answers, with intervals over images and the agreement between raters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import krippendorff
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalkit.analysis import significance, stats
from evalkit.errors import UserError
from evalkit.study.records import NEITHER, Answers, Design, Key, Question

Array = NDArray[np.float64]

SOURCE = "Desai and Ramaswamy, Ablation-CAM, WACV 2020"
PUBLISHED: dict[Design, tuple[str, Mapping[str, float]]] = {
    "better": ("section 6.3: VGG16, 250 images, 10 raters, scores of 250", {"ablation_cam": 130.8, "grad_cam": 62.8, "same": 56.4}),
    "trust": ("section 6.4: Ablation-CAM of VGG16 over that of AlexNet, 10 raters", {"mean rating": 1.31}),
    "which": ("section 6.5: VGG16, 50 pairs of image and category, 10 raters", {"guided_ablation_cam": 73.6, "guided_grad_cam": 65.4}),
}
"""By design: the published study, and its scores."""
Level = Literal["nominal", "interval"]
LEVELS: dict[Design, Level] = {"better": "nominal", "trust": "interval", "which": "nominal"}
"""Levels of measurement for Krippendorff's alpha."""
DIFFERENCE = "difference"
"""Label of the first contestant's score minus the second's."""


@dataclass(frozen=True)
class Scores:
    """The scores of a study."""

    key: Key
    table: pd.DataFrame
    """Columns quantity, of, value, low, high, p, n (items or, for `mean rating` and `correct %`, answers), published."""
    raters: int
    answers: int
    alpha: float
    """Krippendorff's alpha; nan if undefined."""
    undefined: str
    """Why alpha is undefined; empty if it is defined."""

    @property
    def skipped(self) -> int:
        """Items without an answer, summed over raters."""
        return self.raters * len(self.key.items) - self.answers


def score(key: Key, sheets: Sequence[Answers]) -> Scores:
    """Return all scores of a study. Raises UserError if there are no answers."""
    answers = answers_as_numbers(key, sheets)
    count = int(np.isfinite(answers).sum())
    if not count:
        raise UserError("these files hold no answer to any item of the study")
    rows = {"better": _better, "trust": _trust, "which": _which}[key.design](key, answers)
    alpha, undefined = agreement(answers, LEVELS[key.design])
    return Scores(key, pd.DataFrame(rows), len(sheets), count, alpha, undefined)


def answers_as_numbers(key: Key, sheets: Sequence[Answers]) -> Array:
    """Return the answer of each of R raters to each of I items as numbers (R,I); nan where there is none.

    `better`: 0 or 1, the position of the chosen contestant, or 2 for "same". `trust`: the rating of the first contestant
    against the second, from -2 to 2. `which`: the position of the category among all of the study, or their number for
    "both".
    """
    names = _meanings(key)

    def number(item: Question, shown: tuple[str, str], answer: str | int) -> float:
        if isinstance(answer, int):
            return answer if item.options[shown[0]] == names[0] else -answer
        return len(names) if answer == NEITHER[key.design] else names.index(item.options[answer])

    answers = np.full((len(sheets), len(key.items)), np.nan)
    for row, sheet in zip(answers, sheets, strict=True):
        for column, (name, item) in enumerate(key.items.items()):
            if name in sheet.answers:
                row[column] = number(item, sheet.shown[name], sheet.answers[name])
    return answers


def _meanings(key: Key) -> list[str]:
    """Return all categories for `which`, else the contestants."""
    return sorted({item.target_name for item in key.items.values()}) if key.design == "which" else list(key.contestants)


def agreement(said: Array, level: Level) -> tuple[float, str]:
    """Return Krippendorff's alpha of answers (R,I) at a level of measurement, and why it is undefined, if it is.

    Krippendorff, "Content analysis", 4th edition, 2018, chapter 12. Answers may be missing (nan); 1 is full agreement, 0
    agreement by chance.
    """
    if len(said) < 2:
        return float("nan"), "there is one rater"
    compared = said[:, np.isfinite(said).sum(0) > 1]
    kinds = np.unique(compared[np.isfinite(compared)])
    if len(kinds) < 2:
        return float("nan"), "all answers are the same" if len(kinds) else "no item has answers of two raters"
    return float(krippendorff.alpha(reliability_data=compared, level_of_measurement=level)), ""


Row = dict[str, object]


def _better(key: Key, answers: Array) -> list[Row]:
    """Return shares of the answers to each image, summed over images (section 6.3); the maximum is the number of images."""
    counts = np.stack([(answers == option).sum(0) for option in range(3)]).astype(float)
    answered = counts.sum(0) > 0
    shares = counts[:, answered] / counts[:, answered].sum(0)
    images = np.array([item.index for item in key.items.values()])[answered]
    n = int(answered.sum())
    return _compared(
        "score", (shares, np.ones_like(shares)), images, [*key.contestants, NEITHER["better"]], [n] * 3, n, PUBLISHED["better"][1]
    )


def _trust(key: Key, answers: Array) -> list[Row]:
    """Return the mean of all ratings (section 6.4)."""
    images = np.array([item.index for item in key.items.values()])
    rated = np.isfinite(answers)
    ratings = (np.where(rated, answers, 0).sum(0)[None], rated.sum(0)[None].astype(float))
    estimate = stats.bootstrap({"rating": ratings}, images)["rating"]
    (row,) = _rows("mean rating", estimate, [f"{key.contestants[0]} over {key.contestants[1]}"], [int(rated.sum())], 1, {})
    return [{**row, "p": significance.sign_flip(ratings[0], images)[0], "published": PUBLISHED["trust"][1]["mean rating"]}]


def _which(key: Key, answers: Array) -> list[Row]:
    """Return the percentage of answers that name the explained category (section 6.5), and measures of the boxes, if known.

    Every method's map of every image and category is an item, so the two methods are compared pair by pair.
    """
    items, names = list(key.items.values()), _meanings(key)
    pairs = sorted({(item.index, item.target) for item in items})
    images = np.array([index for index, _ in pairs])
    column = {(item.method, item.index, item.target): i for i, item in enumerate(items)}
    order = np.array([[column[method, *pair] for pair in pairs] for method in key.contestants])  # (2,P)
    truth = np.array([names.index(item.target_name) for item in items])
    right, answered = (answers == truth).sum(0)[order].astype(float), np.isfinite(answers).sum(0)[order].astype(float)
    inside, others = (np.array([_nan_if_none(getattr(item, name)) for item in items])[order] for name in ("energy_inside", "energy_others"))
    boxed = np.isfinite(inside) & np.isfinite(others)
    measured: dict[str, tuple[Array, Array]] = {
        "correct %": (right, answered),
        "more energy in own boxes %": (np.where(boxed, inside > others, 0).astype(float), boxed.astype(float)),
        "energy in own boxes %": (np.where(boxed, inside, 0), boxed.astype(float)),
        "energy in the other's boxes %": (np.where(boxed, others, 0), boxed.astype(float)),
    }
    defined = {name: pair for name, pair in measured.items() if (pair[1].sum(1) > 0).all()}
    rows: list[Row] = []
    for name, (above, counts) in defined.items():
        published = PUBLISHED["which"][1] if name == "correct %" else {}
        rows += _compared(name, (above, counts), images, key.contestants, [int(n) for n in counts.sum(1)], 100, published)
    return rows


def _nan_if_none(value: float | None) -> float:
    return float("nan") if value is None else value


def _rows(
    quantity: str, estimates: stats.Intervals, names: Sequence[str], numbers: Sequence[int], scale: float, published: Mapping[str, float]
) -> list[Row]:
    columns = (estimates.value * scale, estimates.low * scale, estimates.high * scale)
    return [
        {
            "quantity": quantity,
            "of": name,
            "value": value,
            "low": low,
            "high": high,
            "p": np.nan,
            "n": n,
            "published": published.get(name, np.nan),
        }
        for name, n, value, low, high in zip(names, numbers, *columns, strict=True)
    ]


def _compared(
    quantity: str,
    columns: tuple[Array, Array],
    images: NDArray[np.int64],
    names: Sequence[str],
    numbers: Sequence[int],
    scale: float,
    published: Mapping[str, float],
) -> list[Row]:
    """Return each ratio of sums (m,n), and the paired difference of the first two."""
    first, second = names[:2]
    above, below = columns
    estimates = stats.bootstrap({quantity: columns}, images)[quantity]
    difference, p = significance.compare_ratios((above[:1], below[:1]), (above[1:2], below[1:2]), images)
    paper = {DIFFERENCE: published[first] - published[second]} if {first, second} <= published.keys() else {}
    (row,) = _rows(quantity, difference, [DIFFERENCE], [min(numbers[:2])], scale, paper)
    return [*_rows(quantity, estimates, names, numbers, scale, published), {**row, "p": p[0]}]
