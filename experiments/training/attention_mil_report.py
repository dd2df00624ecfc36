"""The table and the figure of attention_mil.py."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.patches import Rectangle
from mil import attention_evidence, attention_map

from evalkit import protocol
from evalkit.analysis import metrics, significance, stats
from evalkit.analysis.load import Run
from evalkit.config.schema import RunConfig
from evalkit.data.digits import SIZE, Digits
from evalkit.methods import grad_cam
from evalkit.models import zoo
from evalkit.photos.figures.layout import PAGE, heat_over, note, panels, photograph, scale, style
from evalkit.probe import Probe

ACCURACY = "accuracy"
MEASURES = ("average_drop", "energy_inside", "pointing")
"""In percent. Average drop in confidence at the top 20 %; the map's positive values inside the digit's box, and its maximum there
(`evalkit.evaluation.localisation`), for images whose digit the network predicts: only these have a box of the explained class."""
COLUMNS = ("seeds", "network", "method", "against_network", "against", "measure", "images", "n", "value", "low", "high", "p")
"""A row of `against` is a paired difference; `n` counts the images of all `seeds`, which are resampled together; the convolutional networks
are the same for all."""

Key = tuple[str, str]
"""Network and method."""


def tests() -> list[tuple[Key, Key]]:
    """Return the pairs that are compared: within a bag network, with the convolutional ones, and Grad-CAM with noise everywhere."""
    pairs = []
    for bag in ("mil_32", "mil_16"):
        attention = (bag, "mil_attention")
        pairs += [(attention, (bag, other)) for other in ("mil_evidence", "grad_cam", "ablation_cam", "centre", "random")]
        pairs += [((bag, "mil_evidence"), (bag, "grad_cam"))]
        pairs += [(attention, (cnn, "grad_cam")) for cnn in ("digits_gap", "digits_fc")]
        pairs += [((bag, "grad_cam"), ("digits_gap", "grad_cam"))]
    return pairs + [((network, "grad_cam"), (network, "random")) for network in ("mil_32", "mil_16", "digits_gap", "digits_fc")]


def measured(run: Run, seed: int) -> pd.DataFrame:
    """Return a row for each method and image of a run at one protocol point: accuracy and `MEASURES`, in percent."""
    rows = run.scored[["index", "method", "label", "predicted", "prob_full", "prob_masked"]]
    maps = run.maps[["index", "method", "energy_inside", "pointing"]]
    table = rows.merge(maps, on=["index", "method"], validate="one_to_one")
    return table.assign(
        seed=seed,
        network=run.name,
        accuracy=100.0 * (table.label == table.predicted),
        average_drop=metrics.relative_drop(table.prob_full.to_numpy(), table.prob_masked.to_numpy()),
        energy_inside=100 * table.energy_inside,
        pointing=100 * table.pointing,
    )


def statistics(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows of `COLUMNS`, for each seed and for all together: levels, and differences that are paired image by image."""
    seeds = sorted(table.seed.unique())
    rows: list[dict[str, Any]] = []
    for chosen in [seeds, *([[seed] for seed in seeds] if len(seeds) > 1 else [])]:
        part = table[table.seed.isin(chosen)]
        wide = {m: part.pivot(index=["seed", "index"], columns=["network", "method"], values=m) for m in (ACCURACY, *MEASURES)}
        named = {"seeds": " ".join(map(str, chosen))}
        rows += [named | row for row in _rows(wide)]
    return rows


def _rows(wide: Mapping[str, pd.DataFrame]) -> Iterable[dict[str, Any]]:
    keys = list(wide[ACCURACY].columns)
    first = {network: next(key for key in keys if key[0] == network) for network, _ in keys}
    others = [(key, first["digits_gap"]) for network, key in first.items() if network != "digits_gap"]
    for row in _measured(wide[ACCURACY], ACCURACY, [*((key, None) for key in first.values()), *others]):
        yield row | {"method": "", "against": ""}  # accuracy belongs to the network
    for measure in MEASURES:
        yield from _measured(wide[measure], measure, [*((key, None) for key in keys), *tests()])


def _measured(wide: pd.DataFrame, measure: str, pairs: Sequence[tuple[Key, Key | None]]) -> Iterable[dict[str, Any]]:
    """Yield a row for each level (a key alone) and difference (first minus second)."""
    values = np.stack([wide[key].to_numpy(float) - (wide[other].to_numpy(float) if other else 0.0) for key, other in pairs])
    images = wide.index.get_level_values("index").to_numpy()
    interval = stats.bootstrap({measure: values}, images)[measure]
    p = significance.sign_flip(values, images)
    for i, (key, other) in enumerate(pairs):
        defined = np.isfinite(values[i])
        yield {
            **dict(zip(("network", "method"), key, strict=True)),
            **dict(zip(("against_network", "against"), other or ("", ""), strict=True)),
            "measure": measure,
            "images": len(np.unique(images[defined])),
            "n": int(defined.sum()),
            "value": interval.value[i],
            "low": interval.low[i],
            "high": interval.high[i],
            "p": p[i] if other else np.nan,
        }


def draw(configs: Mapping[str, RunConfig], out: Path, images: int = 4) -> None:
    """Draw the first evaluation canvases with their boxes, and maps of the networks with these configurations."""
    nets = {name: zoo.load(config.model, torch.device("cpu")).net for name, config in configs.items()}
    columns = [
        ("attention,\npatches of 32", "mil_32", attention_map),
        ("attention x score,\npatches of 32", "mil_32", attention_evidence),
        ("Grad-CAM,\npatches of 32", "mil_32", grad_cam),
        ("attention,\npatches of 16", "mil_16", attention_map),
        ("Grad-CAM,\ndigits_gap", "digits_gap", grad_cam),
        ("Grad-CAM,\ndigits_fc", "digits_fc", grad_cam),
    ]
    source = Digits()
    with style():
        figure, axes = panels(images, 1 + len(columns), PAGE, 1.05)
        for position, row in enumerate(axes):
            image = torch.from_numpy(np.array(source.load(position))).permute(2, 0, 1) / 255
            photograph(row[0], image)
            row[0].set_ylabel(f"digit {source.class_keys(position)[0]}")
            for ax, (name, network, method) in zip(row[1:], columns, strict=True):
                probe = Probe(nets[network], image[None])
                heat_over(ax, image, protocol.upsample(method(probe), (SIZE, SIZE))[0])
                ax.set_title(name if position == 0 else "")
                ax.set_xlabel(f"predicts {int(probe.targets[0])}", labelpad=2)
            for ax in row:
                x1, y1, x2, y2 = source.box(position)
                ax.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor="white", linewidth=0.7))
        axes[0][0].set_title("canvas,\nbox of the digit")
        scale(figure, [ax for row in axes for ax in row], "map")
        note(figure, "The first four evaluation canvases, first training seed. Each map explains the class that its network predicts.")
        figure.savefig(out, dpi=200)
