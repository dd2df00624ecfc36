"""Figures of the verdict: ranks under every protocol point, agreement of protocol points, critical differences."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evalkit.analysis.friedman import Friedman, friedman
from evalkit.analysis.judged import Judged
from evalkit.analysis.judgements import FAITHFULNESS
from evalkit.analysis.summary import main_score, scores_in
from evalkit.analysis.verdict import Verdict
from evalkit.output.drawing import TEXT
from evalkit.output.lettering import entitle
from evalkit.output.method_names import display
from evalkit.output.plots import save
from evalkit.output.tables import describe_point, main_points, title
from evalkit.output.verdict_tables import ASIDE, judgement_words, tau_table
from evalkit.output.verdict_words import metric_words

MOST_ROWS = 40
"""Largest number of judgements in the figure of ranks; beyond it only the average drop is drawn."""
LINE = 0.26
LETTER = 0.075
"""Inches of a letter of the figure of ranks."""
CAPTIONS = {
    "ranks": "Rank of each method under each protocol point and metric, 1 the best",
    "agreement": "Kendall's tau between the rankings under two protocol points, controls aside",
    "critical-difference": (
        "Mean rank over the images, by what each loses (1 is best), at the main protocol points. Bars join methods whose mean ranks "
        "differ by less than Nemenyi's critical difference at 5 % (Friedman's test before it; Demšar, JMLR 2006). It corrects for the "
        "pairs of one panel only and asks another question than the tests of the text: who usually loses less, not how much less"
    ),
}
"""What each figure shows, by its name."""


def write_verdict_figures(verdict: Verdict, out: Path) -> dict[int, list[tuple[str, str]]]:
    """Write the figures of all runs into one folder, `verdict-<run>-<figure>`; return captions and png names by the run's number."""
    out.mkdir(parents=True, exist_ok=True)
    written: dict[int, list[tuple[str, str]]] = {}
    for number, judged in enumerate(verdict.judged):
        name = judged.run.path.name.replace("=", "-").replace(",", "_")
        same = [one for one in verdict.judged if one.run.path.name == judged.run.path.name]
        stem = f"verdict-{name}" if len(same) == 1 else f"verdict-{number + 1}-{name}"
        for figure_name, figure in verdict_figures(judged):
            save(figure, out / f"{stem}-{figure_name}")
            written.setdefault(number, []).append((CAPTIONS[figure_name], f"{stem}-{figure_name}.png"))
    return written


def verdict_figures(judged: Judged) -> Iterator[tuple[str, Figure]]:
    """Yield the figures of one run by their names in `CAPTIONS`; none for a single method. The caller closes them."""
    if len(judged.methods) < 2:
        return
    sns.set_theme(style="white", context="paper", palette="colorblind", rc=TEXT)
    yield "ranks", ranks(judged)
    if len(tau_table(judged)[1]) > 2:
        yield "agreement", agreement(judged)
    if len(judged.methods) > 2:
        yield "critical-difference", critical_difference(judged)


def ranks(judged: Judged) -> Figure:
    """Draw the rank of each method (columns) under each judgement (rows), the rows of one metric and score together."""
    table = judged.judgements[judged.judgements.question == FAITHFULNESS]
    if len(table) > MOST_ROWS:
        table = table[(table.metric == "average_drop") & (table.score == main_score(judged.run))]
    table = table.assign(area=table["select"].where(table.metric == "area").fillna(""), of=table.score.fillna(""))
    order = [i for _, part in table.groupby(["of", "metric", "area"], sort=False) for i in part.index]
    names = [
        f"{metric_words(*table.loc[i, ['metric', 'select', 'score']])}: {judgement_words(table.loc[i])}{ASIDE * (i in judged.aside)}"
        for i in order
    ]
    shown = pd.DataFrame(judged.ranks[order], index=names, columns=list(map(display, judged.methods)))
    of_rows, of_columns = (LETTER * max(map(len, labels)) for labels in (names, shown.columns))
    size = (0.6 + of_rows + 0.62 * len(judged.methods), 0.6 + of_columns + LINE * len(order))
    figure, ax = plt.subplots(figsize=size, layout="constrained")
    sns.heatmap(shown, annot=True, fmt=".0f", cmap="cividis_r", vmin=1, vmax=len(judged.methods), cbar=False, ax=ax)
    ax.tick_params(axis="x", rotation=90)
    ax.tick_params(axis="y", rotation=0)
    entitle(figure, f"{title(judged.run)}: ranks, 1 is best", [], fontsize=9)
    return figure


def agreement(judged: Judged) -> Figure:
    """Draw Kendall's tau between all pairs of protocol points."""
    heading, lines = tau_table(judged)
    names = lines[0][1:]
    values = pd.DataFrame([[float(cell or "nan") for cell in line[1:]] for line in lines[1:]], index=names, columns=names)
    side = 3.2 + 0.45 * len(names)
    figure, ax = plt.subplots(figsize=(side, side), layout="constrained")
    few = len(names) <= 20
    sns.heatmap(values, annot=few, fmt=".2f", cmap="vlag_r", vmin=-1, vmax=1, square=True, cbar=not few, ax=ax, annot_kws={"size": 7})
    ax.tick_params(axis="x", rotation=90)
    ax.tick_params(axis="y", rotation=0)
    entitle(figure, f"{title(judged.run)}: {heading}", [], fontsize=9)
    return figure


def critical_difference(judged: Judged) -> Figure:
    """Draw the critical-difference diagram at the main protocol points, a panel each (Demšar, JMLR 2006, figure 1)."""
    points = main_points(judged.run)
    score = next(iter(scores_in(judged.run)))
    found = [friedman(judged.run, judged.methods, point, score) for point in points]
    k = len(judged.methods)
    height = 0.75 + LINE * (-(-k // 2)) + 0.14 * k / 2
    columns = 1 if len(points) < 4 else 2
    rows = -(-len(points) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(8.2 * columns, 0.9 + height * rows), squeeze=False, layout="constrained")
    for ax in axes.flat[len(points) :]:
        ax.axis("off")
    for ax, point, one in zip(axes.flat, points, found, strict=False):
        _diagram(ax, one, list(map(display, judged.methods)))
        p = "p < 0.001" if one.p < 0.001 else f"p = {one.p:.3f}"
        ax.set_title(f"{describe_point(point)}; Friedman {p}, n = {one.n:,}", fontsize=9, loc="left")
    what = "mean rank over images by the drop, 1 is best; bars join what Nemenyi's test at 5 % does not tell apart"
    entitle(figure, f"{title(judged.run)}: {what}", [], fontsize=9)
    return figure


def _diagram(ax: Axes, one: Friedman, names: list[str]) -> None:
    """Draw the axis of ranks, a leader from each method to its name, the better half on the left, and a bar for each clique."""
    k = len(names)
    order = np.argsort(one.ranks, kind="stable")
    half = -(-k // 2)
    cliques = one.cliques()
    top, step = 0.35 + 0.22 * len(cliques), 1.0
    ax.hlines(0, 1, k, color="0.2", linewidth=1)
    for tick in range(1, k + 1):
        ax.vlines(tick, -0.18, 0, color="0.2", linewidth=1)
        ax.text(tick, -0.28, str(tick), ha="center", va="bottom", fontsize=8)
    span = k - 1
    for place, method in enumerate(order):
        left = place < half
        depth = top + step * (place if left else k - 1 - place) * 0.62 + 0.3
        edge = 1 - 0.04 * span if left else k + 0.04 * span
        ax.plot([one.ranks[method], one.ranks[method], edge], [0, depth, depth], color="0.35", linewidth=0.8)
        ax.text(edge, depth, f"{names[method]}  {one.ranks[method]:.2f}  ", ha="right" if left else "left", va="center", fontsize=8)
    for i, clique in enumerate(cliques):
        level = 0.25 + 0.22 * i
        low, high = (one.ranks[order[place]] for place in (clique[0], clique[-1]))
        ax.hlines(level, low - 0.01 * span, high + 0.01 * span, color="C3", linewidth=3)
    if np.isfinite(one.difference):
        ax.hlines(-0.95, 1, 1 + one.difference, color="0.2", linewidth=2)
        ax.text(1 + one.difference + 0.02 * span, -0.95, f"critical difference {one.difference:.2f}", va="center", fontsize=8)
    ax.set_xlim(1 - 0.42 * span, k + 0.42 * span)
    ax.set_ylim(top + step * half * 0.62 + 0.4, -1.2)
    ax.axis("off")
