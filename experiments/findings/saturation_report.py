"""Report what saturation.py measured in Markdown: levels with intervals, paired differences, and both by confidence."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from evalkit.analysis import significance, stats

GRAD, GRAD_SIGMOID, GRAD_DOUBLE = "Grad-CAM, score", "Grad-CAM, sigmoid", "Grad-CAM, sigmoid, all in float64"
ABLATION, ABLATION_SIGMOID, ABLATION_FLOAT = "Ablation-CAM, score", "Ablation-CAM, sigmoid", "Ablation-CAM, sigmoid, float32 differences"
PAIRS = ((GRAD_SIGMOID, GRAD), (ABLATION_SIGMOID, ABLATION), (ABLATION_FLOAT, ABLATION), (ABLATION, GRAD), (ABLATION_SIGMOID, GRAD_SIGMOID))
BINS = (0, 4, 8, 12, 16.6, np.inf)
"""Limits of the class score z; the sigmoid is 1 in float32 from 24 ln 2 = 16.6 on."""
LEVELS = ("right", "share")
HEADER = """# Figure 4 of the Ablation-CAM paper, measured

`experiments/findings/saturation.py`, `model=two_digits`: {canvases} canvases of two digits that were not used in training, {items} digits
explained, those with a confidence above 0.5 (the other {left} are left out). "right": share of digits whose
map has more energy in their own box than in the other digit's (50 is chance; an empty map counts as half). "own share": of
the energy in both boxes, over maps that are not empty. "r": median correlation with the same method's map from the score.
"Gradient": the largest of the sigmoid's over the largest of the score's; median, as is the confidence.
"Times" multiplies the last layer: decisions and maps from the score stay, the confidence rises. "float32 differences"
rounds y and y^k to float32 before it subtracts them; evalkit's own drops use the complements in float64. Brackets hold 95 %
bootstrap intervals over canvases.
"""


def plain_of(variant: str) -> str:
    """Return the variant of the same method that explains the score."""
    return GRAD if variant.startswith("Grad") else ABLATION


def report(measured: pd.DataFrame) -> str:
    """Return the report of a table with one row for each digit, factor and variant."""
    kept = measured[measured.score > 0]
    one = measured[(measured.times == 1) & (measured.variant == GRAD)]
    counts = {"canvases": one.canvas.nunique(), "items": int((one.score > 0).sum()), "left": int((one.score <= 0).sum())}
    return "\n".join([HEADER.format(**counts), *_by_factor(kept), *_differences(kept), *_by_confidence(kept)])


def _by_factor(kept: pd.DataFrame) -> Iterable[str]:
    yield "## By variant\n"
    yield "| times | variant | confidence | gradient | empty maps, % | right, % | own share, % | r |"
    yield "|---|---|---|---|---|---|---|---|"
    for (times, variant), part in kept.groupby(["times", "variant"], sort=False):
        level = {name: _interval(part, name) for name in LEVELS}
        yield (
            f"| {times} | {variant} | {_confidence(part.score.median())} | {part.factor.median():.1e} | {100 * part['empty'].mean():.1f} "
            f"| {level['right']} | {level['share']} | {part.likeness.median():.3f} |"
        )
    yield ""


def _differences(kept: pd.DataFrame) -> Iterable[str]:
    yield "## Paired differences in right, percentage points\n"
    yield "| times | variant | against | difference | p |"
    yield "|---|---|---|---|---|"
    for times, part in kept.groupby("times"):
        wide = part.pivot(index=["canvas", "target"], columns="variant", values="right")
        canvases = wide.index.get_level_values("canvas").to_numpy()
        for variant, other in PAIRS:
            gained = (wide[variant] - wide[other]).to_numpy()
            gain = stats.bootstrap({"gain": gained[None]}, canvases)["gain"]
            p = significance.sign_flip(gained[None], canvases)[0]
            yield f"| {times} | {variant} | {other} | {gain.value[0]:+.1f} [{gain.low[0]:+.1f}, {gain.high[0]:+.1f}] | {p:.2g} |"
    yield ""


def _by_confidence(kept: pd.DataFrame) -> Iterable[str]:
    variants = (GRAD, GRAD_SIGMOID, ABLATION, ABLATION_SIGMOID, ABLATION_FLOAT)
    yield "## By confidence, as trained: right, % (empty maps, %)\n"
    yield f"| score z | digits | gradient | {' | '.join(variants)} |"
    yield "|---|---|---|" + "---|" * len(variants)
    for interval, part in kept[kept.times == 1].groupby(pd.cut(kept.score, BINS), observed=True):
        by_variant = {variant: part[part.variant == variant] for variant in variants}
        cells = [f"{_interval(rows, 'right')} ({100 * rows['empty'].mean():.0f})" for rows in by_variant.values()]
        grad = by_variant[GRAD]
        yield f"| {interval.left:g} to {interval.right:g} | {len(grad)} | {grad.factor.median():.1e} | {' | '.join(cells)} |"
    yield ""


def _interval(part: pd.DataFrame, name: str) -> str:
    interval = stats.bootstrap({name: part[name].to_numpy(float)[None]}, part.canvas.to_numpy())[name]
    return f"{interval.value[0]:.1f} [{interval.low[0]:.1f}, {interval.high[0]:.1f}]"


def _confidence(score: float) -> str:
    return f"1 - {1 / (1 + np.exp(score)):.1e}"
