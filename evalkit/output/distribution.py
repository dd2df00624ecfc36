"""The figure of how the drop is spread over the images: for one layer all methods in a panel, for several a panel for each layer."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evalkit.analysis.cautions import cautions
from evalkit.analysis.load import CONTROLS, Run
from evalkit.analysis.metrics import direction, relative_drop
from evalkit.analysis.summary import scores_in, scores_of
from evalkit.layer_names import AT, by_layer, method_of
from evalkit.output.lettering import entitle, folded, legend_below
from evalkit.output.tables import MANY, describe_point, main_points, title

ACROSS = 4
"""Largest number of panels side by side."""
COLOURS, STYLES = 8, ("-", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
"""Colours, and then line styles, that tell methods apart in the panels of several layers."""
CONTROL_STYLES = ("--", ":", (0, (6, 4)), (0, (1, 4)))


def distribution(run: Run) -> Figure:
    """Plot the share of images with at most a given drop, at the first main point, one line per method."""
    point, scores = main_points(run)[0], list(scores_in(run))
    layers = by_layer(run.methods)
    curves = {score: _curves(run, score) for score in scores}
    if any(layers):
        figure = _panel_a_layer(layers, curves)
    else:
        figure, axes = plt.subplots(1, len(scores), figsize=(5 * len(scores), 4.2), sharey=True, squeeze=False, layout="constrained")
        colours = sns.color_palette("colorblind" if len(run.methods) <= MANY else "viridis", len(run.methods))
        for ax, score in zip(axes[0], scores, strict=True):
            for method, colour in zip(run.methods, colours, strict=True):
                _draw(ax, curves[score], method, color=colour, linestyle="--" if method in CONTROLS else "-")
            ax.set_xlabel(f"drop in {score}, % (above 100: drawn at 100)")
        axes[0, 0].set_ylabel("% of images with at most this drop")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        legend_below(figure, handles, labels, 6, fontsize=8)
    better = direction("average_drop", point.select)
    entitle(figure, f"{title(run)}; {describe_point(point)}; the {better} the drop the better", cautions(run), fontsize=9)
    return figure


def _panel_a_layer(layers: dict[str, list[str]], curves: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Plot a panel for each layer and score; methods have the same colour in each, and those without a layer are in all."""
    free = layers.pop("", [])
    coloured = list(dict.fromkeys(method_of(name) for names in (*layers.values(), free) for name in names if name not in CONTROLS))
    styles: dict[str, dict[str, Any]] = {
        method: {"color": f"C{i % COLOURS}", "linestyle": STYLES[i // COLOURS % len(STYLES)]} for i, method in enumerate(coloured)
    }
    controls = [name for name in free if name in CONTROLS]
    styles |= {name: {"color": "0.35", "linestyle": CONTROL_STYLES[i % len(CONTROL_STYLES)]} for i, name in enumerate(controls)}
    rows = -(-len(layers) // ACROSS)
    columns = -(-len(layers) // rows)
    size = (max(7.0, 3.2 * columns), 0.7 + 2.8 * rows * len(curves))
    figure, axes = plt.subplots(rows * len(curves), columns, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained")
    drawn = axes.reshape(len(curves), -1)[:, : len(layers)]
    for panels, (score, lines) in zip(drawn, curves.items(), strict=True):
        for ax, (layer, names) in zip(panels, layers.items(), strict=True):
            for name in (*names, *free):
                _draw(ax, lines, name, label=method_of(name), **styles[method_of(name)])
            ax.set_title(f"{folded(AT + layer, 40)}\n{score}", fontsize=9)
        for lowest in panels[-columns:]:
            lowest.set_xlabel(f"drop in {score}, %\n(above 100: drawn at 100)", fontsize=8)
            lowest.tick_params(labelbottom=True)
    for unused in axes.reshape(len(curves), -1)[:, len(layers) :].flat:
        unused.axis("off")
    figure.supylabel("% of images with at most this drop", fontsize=10)
    shown = {label: handle for ax in axes.flat for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    legend_below(figure, list(shown.values()), list(shown), 8, fontsize=8)
    return figure


def _curves(run: Run, score: str) -> dict[str, np.ndarray]:
    """Return the defined drops of each method."""
    full, masked, _ = scores_of(run, main_points(run)[0], score)
    drops = relative_drop(full, masked, raw=run.raw)
    return {method: one[~np.isnan(one)] for method, one in zip(run.methods, drops, strict=True)}


def _draw(ax: Axes, drops: dict[str, np.ndarray], name: str, label: str = "", **style: Any) -> None:
    shares = np.linspace(0, 100, 201)
    if len(drops[name]):
        at = np.percentile(drops[name], shares, method="inverted_cdf").clip(max=100)  # only drops that occurred
        ax.plot(at, shares, label=label or name, drawstyle="steps-post", **style)
    ax.set_xlim(0, 100)
    ax.set_ylim(0, 100)
