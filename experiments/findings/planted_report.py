"""Tables and figure of planted.py."""

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from planted_scores import BASES, SUBSTITUTES

from evalkit.output.plots import MARKERS

COLUMNS = [(base, by) for base in BASES for by in SUBSTITUTES]
NAMES = {"oracle": "Oracle", "grad_cam": "Grad-CAM", "ablation_cam": "Ablation-CAM", "noise": "noise", "other": "another map"}
KEY = ["name", "select", "top_percent", "fill", "score"]


def metric_in_words(row: pd.Series) -> str:
    """Return a metric with its protocol point: `average_drop, keep 20 %, black`."""
    words = {"area": {"keep_top": "insertion area", "remove_top": "deletion area"}.get(row.select, ""), "srg": "SRG"}
    name = words.get(row["name"], row["name"])
    if row["name"] == "adcc" or pd.isna(row.fill):
        return str(name)
    point = {"keep_top": "keep", "remove_top": "remove", "soft": "soft"}.get(row.select, "")
    point += "" if pd.isna(row.top_percent) else f" {row.top_percent:g} %"
    return ", ".join(filter(None, [str(name), point if row["name"] != "area" else "", row.fill]))


def in_cells(found: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each metric and one column for each known order, in the table's order."""
    keyed = found.assign(key=found[KEY].astype(object).where(found[KEY].notna(), "").astype(str).agg("|".join, axis=1))
    return keyed.assign(words=keyed.apply(metric_in_words, axis=1))


def recovered(rows: pd.DataFrame) -> pd.Series:
    """Return whether a metric recovers the order in every seed, with an interval of [1, 1]."""
    return (rows.spearman > 1 - 1e-9) & (rows.low > 1 - 1e-9)


def markdown(found: pd.DataFrame) -> str:
    """Return the summary by kind of metric, and the table of all metrics against all known orders."""
    cells = in_cells(found)
    seeds = [column for column in found if str(column).startswith("seed_")]
    lines = [
        "# Metrics against known orders",
        "",
        f"Written by `experiments/findings/planted.py`. {found.images.iloc[0]} canvases, {len(seeds)} training seeds.",
        "Spearman's correlation between the order of the steps (0, 10, 25, 50, 100 % of the cells replaced) and the metric's means;",
        "mean over the seeds, 95 % bootstrap interval over seeds and images. 1: recovered; 0: nothing is recovered; -1: reversed.",
        "",
        "## How many recover the order",
        "",
        "How many scores (metric, point and known order) are 1 with an interval of [1, 1], how many have an interval that reaches 0 or",
        "below, and the lowest score.",
        "",
        "| metric | score | points x orders | recovered | cannot be told from none, or reversed | lowest |",
        "|---|---|---:|---:|---:|---|",
    ]
    kinds = cells.assign(of=cells.score.fillna("")).groupby(["name", "select", "of"], sort=False, dropna=False)
    for (name, select, of), part in kinds:
        worst = part.loc[part.spearman.idxmin()]
        label = name if pd.isna(select) else f"{name}, {select}"
        where = f"{worst.spearman:.2f} ({NAMES[worst.base]}, {NAMES[worst.by]}: {worst.words})"
        lines.append(f"| {label} | {of} | {len(part)} | {int(recovered(part).sum())} | {int((part.low <= 0).sum())} | {where} |")
    for of in (["confidence", None], ["activation"]):
        chosen = cells[cells.score.isin([s for s in of if s]) | (cells.score.isna() if None in of else False)]
        lines += ["", f"## All metrics, {of[0]}", "", *_table(chosen)]
    return "\n".join(lines) + "\n"


def _table(cells: pd.DataFrame) -> Iterable[str]:
    yield "| metric | " + " | ".join(f"{NAMES[base]}, {NAMES[by]}" for base, by in COLUMNS) + " |"
    yield "|---|" + "---:|" * len(COLUMNS)
    for _, part in cells.groupby("key", sort=False):
        by_order = part.set_index(["base", "by"])
        texts = [_cell(by_order.loc[column]) for column in COLUMNS]
        yield f"| {part.words.iloc[0]} | " + " | ".join(texts) + " |"


def _cell(row: pd.Series) -> str:
    return f"{row.spearman:.2f} [{row.low:.2f}, {row.high:.2f}]"


def draw(found: pd.DataFrame) -> Figure:
    """Draw every metric's score in confidence for each seed, one panel for each base; the bar is the interval of the mean over seeds."""
    cells = in_cells(found)
    shown = cells[(cells.score.fillna("confidence") == "confidence") & (cells.top_percent.fillna(20) == 20)]
    names = list(dict.fromkeys(shown.words))
    seeds = [column for column in found if str(column).startswith("seed_")]
    figure, panels = plt.subplots(1, len(BASES), figsize=(11, 1.2 + 0.19 * len(names)), sharey=True, layout="constrained")
    colours = dict(zip(SUBSTITUTES, ("#0072b2", "#d55e00"), strict=True))
    for panel, base in zip(panels, BASES, strict=True):
        for offset, by in zip((-0.18, 0.18), SUBSTITUTES, strict=True):
            rows = shown[(shown.base == base) & (shown.by == by)].set_index("words").loc[names]
            y = np.arange(len(names)) + offset
            panel.hlines(y, rows.low, rows.high, color=colours[by], alpha=0.35, linewidth=3)
            for i, seed in enumerate(seeds):
                label = f"replaced by {NAMES[by]}" if i == 0 else None
                panel.scatter(rows[seed], y, s=9, color=colours[by], marker=MARKERS[SUBSTITUTES.index(by)], linewidths=0, label=label)
        panel.axvline(0, color="0.3", linewidth=0.6)
        panel.set(title=NAMES[base], xlim=(min(-0.08, shown.low.min() - 0.05), 1.08))
        panel.set_yticks(range(len(names)), names, fontsize=7.5)
        panel.grid(axis="y", alpha=0.25)
        panel.set_ylim(len(names) - 0.4, -0.6)
    figure.supxlabel("Spearman correlation with the known order", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncol=2, frameon=False, fontsize=9)
    return figure
