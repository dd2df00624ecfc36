"""Two variants of Ablation-CAM's weights, the drop in confidence and the ablated input, against the weights of the paper."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
from claim_rows import Claim, Row
from claim_runs import KEEP, SETTINGS, shared_run

from evalkit.analysis.load import Run
from evalkit.analysis.summary import compare

HOW = (
    "Protocol of the Ablation-CAM paper (top 20 % kept, black): drop, increase and win, paired by image; p of the sign-flip test for "
    "drops, of McNemar's test for increase, of the sign test for win."
)
SOFTMAX = Claim(
    "Visualizations with weights from the drop in confidence are less trustworthy than with the drop in class score.",
    *("Desai and Ramaswamy 2020, section 4", "", ""),
    how=f"{HOW} Trust itself is a judgement of people; these rows test faithfulness.",
)
ABLATED = Claim(
    "Weights from an ablated input give results that are not as good as Ablation-CAM's.", "Pandit 2020, section 6", "", "", how=HOW
)
METRICS = {
    "average_drop": ("drop in {}, points of the average drop", "> 0"),
    "increase": ("increase in {}, points", "< 0"),
    "win": ("wins less losses in {}, points", "< 0"),
}
"""Metrics of a difference, their names, and what a worse method is expected to have."""


def softmax(data: Path, out: Path) -> list[Row]:
    """Return the rows of ablation_cam_softmax."""
    return of_variant(SOFTMAX, "ablation_cam_softmax", data, out)


def ablated_input(data: Path, out: Path) -> list[Row]:
    """Return the rows of ablated_input_cam; Grad-CAM, of which the document says nothing, and centre describe."""
    return of_variant(ABLATED, "ablated_input_cam", data, out)


def of_variant(claim: Claim, variant: str, data: Path, out: Path) -> list[Row]:
    """Return the rows of both networks."""
    rows = []
    for setting in SETTINGS:
        _, run = shared_run(setting, data, out)
        rows += against(replace(claim, network=setting.network, data=setting.data), run, variant)
    return rows


def against(claim: Claim, run: Run, variant: str) -> list[Row]:
    """Return the variant's differences from Ablation-CAM, Grad-CAM and the centre control; those from Ablation-CAM are judged."""
    table = compare(run)
    table = table[(table["select"] == KEEP.select) & (table.metric.isin(METRICS))]
    rows = []
    for rival in ("ablation_cam", "grad_cam", "centre"):
        for score in ("confidence", "activation"):
            for metric, (name, worse) in METRICS.items():
                found = difference(table[(table.score == score) & (table.metric == metric)], variant, rival)
                measure = f"{variant} less {rival}: {name.format(score)}"
                images = int(run.scored["index"].nunique())
                rows.append(claim.estimate(measure, **found, images=images, expects=worse if rival == "ablation_cam" else ""))
    return rows


def difference(table: pd.DataFrame, first: str, second: str) -> dict[str, float]:
    """Return the difference first - second with interval and p, from a table that holds each pair once in either order."""
    same = table[(table["first"] == first) & (table["second"] == second)]
    row = (same if len(same) else table[(table["first"] == second) & (table["second"] == first)]).iloc[0]
    if len(same):
        return {"value": row.difference, "low": row.low, "high": row.high, "p": row.p}
    return {"value": -row.difference, "low": -row.high, "high": -row.low, "p": row.p}
