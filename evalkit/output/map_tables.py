"""Tables beside the paper's: measures of the maps, and each method's rank at every protocol point."""

import math

import pandas as pd
from scipy.stats import kendalltau

from evalkit.analysis.evaluated import Evaluated
from evalkit.analysis.load import Run, at_point
from evalkit.analysis.metrics import direction, lower_is_better
from evalkit.analysis.summary import main_score
from evalkit.output.tables import UNDEFINED, describe_point, interval

MEASURE_LABELS = {
    "complexity": "Complexity",
    "coherency": "Coherency",
    "adcc": "ADCC",
    "single_deletion": "Single-deletion score",
    "max_sensitivity": "Max-sensitivity to noise",
    "stability": "Stability under noise",
    "randomised_output": "Like the maps of a random output layer",
    "randomised_all": "Like the maps of random weights",
    "region_fraction": "Boxes' share of the image %",
    "others_fraction": "Other classes' boxes' share of the image %",
    "pointing": "Pointing game %",
    "energy_inside": "Energy in own boxes %",
    "energy_others": "Energy in other classes' boxes %",
    "best_iou": "Best IoU %",
}
LOCALISATION = (
    "Localisation asks where the object is, not what the network looked at; a constant map scores the boxes' share of the image "
    "in the pointing game; boxes of classes that are no output of the model are neither own nor other. ADCC is a mean over images. "
    "Maps that are constant have no coherency and no ADCC. Of the seconds per map, what methods share (logits, "
    "gradients, drops) falls to the first that asks for it."
)
EXPLAINED = {
    "single_deletion": "Single-deletion score: Spearman's correlation over {grid} x {grid} patches of the map's sum in a patch with what "
    "the {score} loses when {fill} fill replaces the patch (Hesse et al. 2024); constant maps have none. It is the paper's in-domain "
    "score only of a network that was trained with deleted patches; others are outside of their domain there.",
    "stability": "Max-sensitivity and stability: the largest relative change of the map, and its mean Spearman correlation, over "
    "{copies} copies of the image with noise of at most {radius} (Yeh et al. 2019); a map that ignores the image is perfectly stable.",
    "randomisation": "Like the maps of random weights: Spearman's correlation with the maps of the same images and classes from networks "
    "whose layers are re-initialised, {draws} of each kind (Adebayo et al. 2018); a map that stays as it was, as the controls' do, does "
    "not explain what the network has learnt.",
}
"""What measures with settings mean; the settings fill the braces."""

AGREEMENT = "Kendall's tau with the first column"
"""The last line of `protocol_cells`, unless all methods are alike there: then with the first that has two ranks."""


def measure_cells(evaluated: Evaluated) -> list[list[str]]:
    """Return a header, then a line for each method with its seconds per map; empty if nothing was measured."""
    run, measures = evaluated.run, evaluated.measures
    if measures.empty:
        return []
    keys = list(measures[["metric", "select", "fill", "score"]].drop_duplicates().itertuples(index=False, name=None))
    table = [["method", *(_measure_label(*key) for key in keys), "Seconds per map"]]
    for method, seconds in run.seconds_per_map().items():
        rows = measures[measures.method == method].reset_index(drop=True)
        took = f"{seconds:.2g}" if math.isfinite(seconds) else ""
        table.append([method, *(_measured(row, rows.n.max()) for row in rows.itertuples()), took])
    return table


def notes(run: Run) -> str:
    """Return what a reader of `measure_cells` has to know, with the settings of the measures that were chosen."""
    return " ".join([LOCALISATION, *explained(run)])


def explained(run: Run) -> list[str]:
    """Return what the measures mean that a run was asked for, with their settings."""
    identity = run.provenance["identity"]
    return [text.format(**identity[name]) for name, text in EXPLAINED.items() if name in identity.get("measures", ())]


def _measure_label(metric: str, select: str | None, fill: str | None, score: str | None) -> str:
    label = f"{area_name(metric, select)}, {score}, {fill} fill" if metric in ("area", "srg") else MEASURE_LABELS[metric]
    if metric.endswith("_fraction"):
        return label
    return f"{label} ({direction(metric, select)} is better)"


def area_name(metric: str, select: str | None) -> str:
    """Return the name of an area under a curve over thresholds, or of the gain, which is between two."""
    return "SRG" if metric == "srg" else {"keep_top": "Insertion AUC", "remove_top": "Deletion AUC"}[str(select)]


def _measured(row: object, most: int) -> str:
    value, low, high, n = (getattr(row, key) for key in ("value", "low", "high", "n"))
    if not math.isfinite(value):
        return ""
    return interval(value, low, high) + (f" (n={n})" if n < most else "")


def same_maps(run: Run) -> str:
    """Return the heading of `protocol_cells`."""
    return f"The same maps under every protocol, average drop % in {main_score(run)} (rank among the methods)"


def protocol_cells(evaluated: Evaluated) -> list[list[str]]:
    """Return the average drop and rank of each method at each protocol point; empty for one kind of selection and fill."""
    run, summary = evaluated.run, evaluated.summary
    if len({(point.select, point.fill) for point in run.points}) < 2:
        return []
    drops = summary[(summary.metric == "average_drop") & (summary.score == main_score(run))]
    columns = {}
    for point in run.points:
        column = at_point(drops, point).set_index("method").reindex(run.methods)
        rank = column.value.rank(ascending=lower_is_better("average_drop", point.select), method="min")
        columns[point] = column.assign(rank=rank)
    header = ["method", *(f"{describe_point(point)} ({direction('average_drop', point.select)} is better)" for point in columns)]
    lines = [
        [method, *(_ranked(*(f[key][method] for key in ("value", "low", "high", "rank"))) for f in columns.values())]
        for method in run.methods
    ]
    told = next((point for point, column in columns.items() if column["rank"].nunique() > 1), next(iter(columns)))
    label = AGREEMENT if told == run.points[0] else f"Kendall's tau with {describe_point(told)}"
    return [header, *lines, [label, *(_agreement(columns[told]["rank"], column["rank"]) for column in columns.values())]]


def _ranked(value: float, low: float, high: float, rank: float) -> str:
    return interval(value, low, high) + (f" ({rank:.0f})" if math.isfinite(rank) else "")


def _agreement(first: pd.Series, second: pd.Series) -> str:
    tau = kendalltau(first, second).statistic
    return f"{tau:.2f}" if math.isfinite(tau) else f"{UNDEFINED} (fewer than two ranks)"
