"""How far a number may lie from the one computed here: what float32 makes of other machines, batch sizes and libraries, with a margin.

`results/verify.md` has the measured deviations.
"""

from collections.abc import Mapping
from typing import NamedTuple

NEAR_TIE = 1e-5
"""The `rank_gap` below which rounding may swap two pixels (see `protocol.Ranking.gap`), and so change a masked score."""


class Tolerance(NamedTuple):
    """A number differs where it lies further away than `absolute` + `relative` times its scale."""

    absolute: float
    relative: float = 0.0


TOLERANCES: Mapping[str, Tolerance] = {
    "prob_full": Tolerance(1e-6, 1e-3),
    "prob_masked": Tolerance(1e-6, 1e-3),
    "logit_full": Tolerance(0, 1e-4),
    "logit_masked": Tolerance(0, 1e-4),
    "kept_fraction": Tolerance(1e-5),
    "positive_fraction": Tolerance(1e-2),
    "rank_gap": Tolerance(2e-5, 1e-2),
    "minimum": Tolerance(0, 1e-3),
    "maximum": Tolerance(0, 1e-3),
    "map": Tolerance(0, 1e-3),
    "zero_fraction": Tolerance(1e-2),
}
"""By column. The scale of confidences and `rank_gap` is the number itself; that of logits is the larger one of the row's two, or the median
of the images recomputed together if that is more; that of a map is its largest absolute value."""
OF_MEASURES = Tolerance(1e-3, 1e-3)
"""For the columns `evalkit.evaluation.columns.MEASURES`; their scale is the number itself."""
STRICT = 0.1
"""The share of its tolerance by which a score may be off where that turns a comparison with another score, which strict metrics count."""
LEANING = 1e-3
"""The level of the sign test on comparisons of nearly equal scores that come out otherwise (see `evalkit.verify.strict`)."""
COARSER = {"fp32": 1.0, "tf32": 100.0, "bf16": 1000.0}
"""The factor of all tolerances and of `NEAR_TIE` by precision: TF32 has 10 bits and bfloat16 7 where float32 has 23."""


def tolerance(column: str) -> Tolerance:
    """Return the tolerance of a column."""
    return TOLERANCES.get(column, OF_MEASURES)
