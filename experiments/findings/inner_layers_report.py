"""Statistics, tables and figure of inner_layers.py."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from evalkit.analysis import significance, stats
from evalkit.evaluation.sanity import similarity
from evalkit.output.drawing import TEXT
from evalkit.output.plots import MARKERS

CENTRE, GRAD, SPATIAL, SKIPPING = "centre", "grad_cam", "spatial_ablation", "spatial_ablation, every 2nd cell"
LAST, GRAD_LAST, OTHER, DROP = "with the last layer", "with Grad-CAM", "with other images", "average drop"
SPECIFIC = "last layer minus other images"
OTHERS = 8
"""Number of other images whose last layer's map a map is compared with."""
BY = ["network", "layer", "method", "window"]
FACTS = ["cells", "channels", "stride", "positions", "seconds", "largest"]
Row = dict[str, Any]


def with_likeness(table: pd.DataFrame) -> pd.DataFrame:
    """Add to the rows of all networks their correlations with the last layer's maps, in Spearman's rho."""
    parts = []
    for _, part in table.fillna({"window": 0}).groupby("network", sort=False):
        last = part.layer.iloc[-1]
        images = sorted(part["index"].unique())
        spatial, grad = (_stacked(part[(part.layer == last) & (part.method == method)], images) for method in (SPATIAL, GRAD))
        for _, of_map in part.groupby(BY, sort=False):
            maps = _stacked(of_map, images)
            rolled = [_spearman(maps, spatial.roll(shift, 0)) for shift in range(1, min(len(images), OTHERS + 1))]
            own = _spearman(maps, spatial)
            likeness = {LAST: own, GRAD_LAST: _spearman(maps, grad), OTHER: np.mean(rolled, axis=0)}
            parts.append(of_map.sort_values("index").rename(columns={"drop": DROP}).assign(**likeness, **{SPECIFIC: own - likeness[OTHER]}))
    return pd.concat(parts, ignore_index=True)


def _stacked(rows: pd.DataFrame, images: list[int]) -> Tensor:
    """Return maps (N,h,w) in the order of the images."""
    return torch.tensor(np.stack(rows.set_index("index").loc[images, "map"])).view(len(images), int(rows.height.iloc[0]), -1)


def _spearman(maps: Tensor, others: Tensor) -> NDArray[np.float64]:
    return similarity(maps, others)["spearman"]


def statistics(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each map and measure, with its interval over images, and for paired differences with p.

    `against` is empty for a level; else "window 1" (of the same layer), "centre" or "last layer" (spatial_ablation there).
    """
    rows: list[Row] = []
    for name, part in with_likeness(table).groupby("network", sort=False):
        last = part.layer.iloc[-1]
        maps = {key: of_map.set_index("index") for key, of_map in part.groupby(["layer", "method", "window"], sort=False)}
        for (layer, method, window), of_map in maps.items():
            about = {"network": name, "layer": layer, "method": method, "window": window, **of_map[FACTS].median().to_dict()}
            for measure in (LAST, GRAD_LAST, OTHER, SPECIFIC, DROP):
                rows.append({**about, **_row(measure, "", of_map[measure])})
            references = {"window 1": (layer, SPATIAL, 1), "centre": (last, CENTRE, 0), "last layer": (last, SPATIAL, 1)}
            for against, key in references.items():
                if key == (layer, method, window):
                    continue
                for measure in (LAST, GRAD_LAST, SPECIFIC, DROP) if against == "window 1" else (DROP,):
                    rows.append({**about, **_row(measure, against, of_map[measure] - maps[key][measure])})
    return pd.DataFrame(rows)


def _row(measure: str, against: str, values: pd.Series) -> Row:
    interval = stats.bootstrap({measure: values.to_numpy(float)[None]})[measure]
    p = float(significance.sign_flip(values.to_numpy(float)[None])[0]) if against else float("nan")
    numbers = {"value": interval.value[0], "low": interval.low[0], "high": interval.high[0], "p": p}
    return {"measure": measure, "against": against, "n": int(values.notna().sum()), **numbers}


def markdown(found: pd.DataFrame) -> str:
    """Return the tables: each map's levels, and the differences from a window of one cell and from the centre."""
    lines = ["# Windows at inner layers", "", "Written by `experiments/findings/inner_layers.py`.", ""]
    for name, part in found.groupby("network", sort=False):
        n = int(part.n.max())
        lines += [
            f"## {name}, {n} images",
            "",
            f"| layer | map | positions / cells | largest, % of y | {LAST} | {GRAD_LAST} | {OTHER} | {DROP}, % |",
        ]
        lines += ["|---|---|---|---|---|---|---|---|"]
        for (layer, method, window), of_map in part.groupby(["layer", "method", "window"], sort=False):
            level = of_map[of_map.against == ""].set_index("measure")
            facts = of_map.iloc[0]
            visited = f"{facts.positions:.0f} / {facts.cells:.0f}" if window else ""
            largest = "" if np.isnan(facts.largest) else f"{facts.largest:.1f}"
            cells = [_interval(level.loc[measure], 2) for measure in (LAST, GRAD_LAST, OTHER)] + [_interval(level.loc[DROP], 1)]
            lines.append(f"| {layer} | {_map(method, window)} | {visited} | {largest} | {' | '.join(cells)} |")
        lines += ["", "| layer | map | against | measure | difference | p |", "|---|---|---|---|---|---|"]
        for row in part[(part.against != "") & (part.method == SPATIAL)].itertuples():
            digits = 1 if row.measure == DROP else 2
            lines.append(
                f"| {row.layer} | {_map(row.method, row.window)} | {row.against} | {row.measure} | {_interval(row, digits)} | {row.p:.4f} |"
            )
        lines.append("")
    return "\n".join(lines)


def _map(method: str, window: float) -> str:
    return f"{method}, window {window:.0f}" if method == SPATIAL else method


def _interval(row: Any, digits: int) -> str:
    return f"{row.value:.{digits}f} [{row.low:.{digits}f}, {row.high:.{digits}f}]"


def draw(found: pd.DataFrame) -> Figure:
    """Draw the correlation with the last layer's map and the average drop against the window, a line for each inner layer."""
    sns.set_theme(style="whitegrid", context="paper", rc=TEXT)
    names = list(dict.fromkeys(found.network))
    figure, axes = plt.subplots(2, len(names), figsize=(4.8 * len(names), 7), sharex=True, squeeze=False, layout="constrained")
    colours = sns.color_palette("colorblind", 4)
    for column, name in zip(axes.T, names, strict=True):
        part = found[(found.network == name) & (found.against == "")]
        last = part.layer.iloc[-1]
        inner = [layer for layer in dict.fromkeys(part.layer) if layer != last]
        for layer, colour, marker in zip(inner, colours, MARKERS, strict=False):
            lines = part[(part.layer == layer) & (part.method == SPATIAL)].sort_values("window")
            for ax, measure, style in ((column[0], LAST, "-"), (column[0], OTHER, ":"), (column[1], DROP, "-")):
                line = lines[lines.measure == measure]
                cells = round(float(line.cells.iloc[0]) ** 0.5)
                label = f"{layer}, {cells} x {cells} cells" if style == "-" else None
                ax.plot(line.window, line.value, style, color=colour, marker=marker, markersize=5, label=label)
                if style == "-":
                    ax.fill_between(line.window, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
        for method, style, label in ((SPATIAL, "-", f"last layer ({last})"), (CENTRE, "--", "centre")):
            level = part[(part.layer == last) & (part.method == method) & (part.measure == DROP)].iloc[0]
            column[1].axhline(level.value, color="0.3", linestyle=style, label=label)
        column[0].set_title(f"{name} ({int(part.n.max())} images)", fontsize=10)
        column[1].legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
        column[1].set_xlabel("window, cells")
        column[1].set_xticks(sorted(part.window[part.window > 0].unique()))
    axes[0, 0].set_ylabel("Spearman correlation with the last layer's map\n(dotted: with that of other images)")
    axes[1, 0].set_ylabel("average drop at 20 %, confidence, %\n(lower is better)")
    return figure
