"""Figures from summaries: metric against threshold, drop per method, win matrix. PNG for screens, PDF and SVG for papers."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from evalkit.analysis.cautions import cautions
from evalkit.analysis.evaluated import Evaluated
from evalkit.analysis.load import CONTROLS, Run, at_point
from evalkit.analysis.metrics import direction
from evalkit.analysis.summary import PAPER_METRICS, scores_in, win_matrix
from evalkit.output.distribution import distribution
from evalkit.output.drawing import FORMATS, Drawer, drawn, set_style
from evalkit.output.lettering import INCHES_PER_LINE, entitle, folded, legend_below, room
from evalkit.output.tables import LABELS, MANY, PAPER_POINT, describe_point, main_points, network_in_paper, title, whom_win_beats

LETTERS_PER_PANEL = 24
"""Letters of a title that fit over one of the panels of `one_panel_a_method`."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def write_figures(evaluated: Sequence[Evaluated], out: Path, formats: tuple[str, ...] = FORMATS, drawer: Drawer | None = None) -> None:
    """Write all figures of all runs into one folder, with the help of another process where there is a `drawer`."""
    out.mkdir(parents=True, exist_ok=True)
    waiting = []
    for one in evaluated:
        run = one.run
        same = [other for other in evaluated if other.run.path.name == run.path.name]
        stem = (run.path.name if len(same) == 1 else f"{run.path.parent.name}-{run.path.name}").replace("=", "-").replace(",", "_")
        for name, figure in figures(one):
            if drawer is not None and drawer.free:
                waiting.append((out / f"{stem}-{name}", drawer.draw(figure, formats)))
            else:
                write_formats(drawn(figure, formats), out / f"{stem}-{name}")
    for file, done in waiting:
        write_formats(done.result(), file)


def figures(evaluated: Evaluated) -> Iterator[tuple[str, Figure]]:
    """Yield every figure of one run with a name for its file. The caller closes the figures."""
    set_style()
    run, summary = evaluated.run, evaluated.summary
    for (select, fill), part in summary[summary.top_percent.notna()].groupby(["select", "fill"]):
        if part.top_percent.nunique() < 2:
            continue
        if len(run.methods) <= MANY:
            yield f"{select}-{fill}-threshold", against_threshold(run, part)
            continue
        for score in scores_in(run):
            yield f"{select}-{fill}-threshold-{score}", one_panel_a_method(run, part, score)
    yield "drop", drop_per_method(evaluated)
    yield "distribution", distribution(run)
    if len(run.methods) > 1:
        yield "wins", wins(run)


def against_threshold(run: Run, part: pd.DataFrame) -> Figure:
    """Plot the six metrics of the paper against the percentage of pixels, with 95 % intervals."""
    select = str(part["select"].iloc[0])
    scores = list(scores_in(run))
    figure, axes = plt.subplots(len(scores), 3, figsize=(10.5, 3 * len(scores)), sharex=True, squeeze=False, layout="constrained")
    colours = dict(zip(run.methods, sns.color_palette("colorblind", len(run.methods)), strict=True))
    for row, score in zip(axes, scores, strict=True):
        for ax, metric in zip(row, PAPER_METRICS, strict=True):
            for method, marker in zip(run.methods, MARKERS * len(run.methods), strict=False):
                line = part[(part.method == method) & (part.metric == metric) & (part.score == score)].sort_values("top_percent")
                style = "--" if method in CONTROLS else "-"
                ax.plot(line.top_percent, line.value, style, marker=marker, markersize=4, color=colours[method], label=method)
                ax.fill_between(line.top_percent, line.low, line.high, color=colours[method], alpha=0.2, linewidth=0)
            ax.set_title(f"{LABELS[metric]}, {score} ({direction(metric, select)} is better)", fontsize=9)
    verb = {"keep_top": "kept", "remove_top": "removed"}[select]
    for ax in axes[-1]:
        ax.set_xlabel(f"top x % of pixels {verb}")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    legend_below(figure, handles, labels, 6, title=whom_win_beats(run))
    entitle(figure, title(run), cautions(run))
    return figure


def one_panel_a_method(run: Run, part: pd.DataFrame, score: str) -> Figure:
    """Plot the average drop against the percentage, one panel per method, since colours cannot distinguish so many lines."""
    select = str(part["select"].iloc[0])
    drops = part[(part.metric == "average_drop") & (part.score == score)].sort_values("top_percent")
    lines = {method: drops[drops.method == method] for method in run.methods}
    names = {method: folded(method + (" (control)" if method in CONTROLS else ""), LETTERS_PER_PANEL) for method in lines}
    columns = 6
    rows = -(-len(lines) // columns)
    height = 1.9 + INCHES_PER_LINE * max(name.count("\n") for name in names.values())
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.1 * columns, height * rows + 0.6), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for ax, (method, line) in zip(axes.flat, lines.items(), strict=False):
        for other in lines.values():
            ax.plot(other.top_percent, other.value, color="0.85", linewidth=0.8)
        colour = "C1" if method in CONTROLS else "C0"
        ax.fill_between(line.top_percent, line.low, line.high, color=colour, alpha=0.25, linewidth=0)
        ax.plot(line.top_percent, line.value, marker="o", markersize=3, color=colour)
        ax.set_title(names[method], fontsize=9)
        ax.set_ylim(bottom=0)
    for ax in axes.flat[len(lines) :]:
        ax.axis("off")
    verb = {"keep_top": "kept", "remove_top": "removed"}[select]
    figure.supxlabel(f"top x % of pixels {verb}", fontsize=10)
    figure.supylabel(f"average drop %, {score} ({direction('average_drop', select)} is better)", fontsize=10)
    entitle(figure, f"{title(run)}: 95 % intervals; the other methods in grey", cautions(run), fontsize=10)
    return figure


def drop_per_method(evaluated: Evaluated) -> Figure:
    """Plot the average drop of each method at the main protocol points, with 95 % intervals and published values."""
    run, summary = evaluated.run, evaluated.summary
    points = main_points(run)
    pairs = 1 if len(points) < 4 else 2  # each point has a pair of panels
    rows = -(-len(points) // pairs)
    scores = list(scores_in(run))
    size = (4.5 * len(scores) * pairs + room(run.methods), 0.8 + rows * (0.9 + 0.32 * len(run.methods)))
    figure, axes = plt.subplots(rows, len(scores) * pairs, figsize=size, sharey=True, squeeze=False, layout="constrained")
    panels = axes.reshape(-1, len(scores))
    for unused in panels[len(points) :].flat:
        unused.axis("off")
    for pair, point in zip(panels, points, strict=False):
        for ax, score in zip(pair, scores, strict=True):
            drops = at_point(summary[(summary.metric == "average_drop") & (summary.score == score)], point)
            drops = drops.set_index("method").loc[run.methods]
            positions = range(len(run.methods))
            ax.errorbar(
                drops.value,
                positions,
                xerr=[(drops.value - drops.low).clip(lower=0), (drops.high - drops.value).clip(lower=0)],  # not negative by rounding
                fmt="o",
                capsize=3,
                color="C0",
                label="measured, 95 % interval",
            )
            if drops.reference.notna().any():
                ax.scatter(
                    drops.reference,
                    positions,
                    marker="x",
                    color="C1",
                    zorder=3,
                    label=f"the paper's {network_in_paper(run)} on ImageNet"
                    if network_in_paper(run) and point == PAPER_POINT
                    else "published",
                )
            ax.set_yticks(list(positions), run.methods)
            ax.set_title(f"{score}; {describe_point(point)}", fontsize=9)
            ax.set_xlabel(f"average drop % ({direction('average_drop', point.select)} is better)")
            ax.set_xlim(left=0)
    axes[0, 0].invert_yaxis()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    legend_below(figure, handles, labels, len(labels), fontsize=8)
    entitle(figure, title(run), cautions(run))
    return figure


def wins(run: Run) -> Figure:
    """Plot the share of images where the row's method beats the column's, at the first main point."""
    point = main_points(run)[0]
    many = len(run.methods) > MANY
    side = 2.2 + (0.4 if many else 0.55) * len(run.methods)
    scores = list(scores_in(run))
    longer = room(run.methods)
    upright = many or longer > 0
    width = len(scores) * (side + longer) + (2.5 if upright else 1 if len(scores) == 1 else 0)  # room for long names
    figure, axes = plt.subplots(
        1, len(scores), figsize=(width, side + longer), squeeze=False, layout="compressed" if longer else "constrained"
    )
    for ax, score in zip(axes[0], scores, strict=True):
        shares, fmt = win_matrix(run, point, score), ".0f" if many else ".1f"
        sns.heatmap(shares, annot=True, fmt=fmt, cmap="cividis", vmin=0, vmax=100, square=True, ax=ax, cbar=False)
        ax.set_title(f"{score}: % of images where\nthe row beats the column", fontsize=9)
        ax.tick_params(axis="x", rotation=90 if upright else 35)
        ax.tick_params(axis="y", rotation=0)
        ax.grid(False)
    entitle(figure, f"{title(run)}; {describe_point(point)}", cautions(run), fontsize=9)
    return figure


def save(figure: Figure, stem: Path, dpi: int = 150) -> list[Path]:
    """Write `<stem>.png`, `.pdf` and `.svg`, and close the figure."""
    return write_formats(drawn(figure, dpi=dpi), stem)


def write_formats(contents: Mapping[str, bytes], stem: Path) -> list[Path]:
    """Write the contents of `drawn` into `<stem>.png` and so on."""
    files = {stem.with_name(f"{stem.name}.{form}"): content for form, content in contents.items()}
    for file, content in files.items():
        file.write_bytes(content)
    return list(files)
