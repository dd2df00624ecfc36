"""Test whether an explanation changes when the weights are random: cascading randomisation (Adebayo et al., NeurIPS 2018).

    python experiments/findings/sanity_checks.py results/sanity                        (digits_fc: half a minute on two CPU cores)
    python experiments/findings/sanity_checks.py results/sanity --every 17 model=mobilenet_v2 data=imagenet data.root=... sample=16

The weights are randomised layer by layer from the output to the input (see `evalkit.evaluation.sanity`), and each method explains
again the class that the trained network predicted. `sanity.csv` holds the similarity of the maps to those of the trained
network, `sanity.png` draws it, and `sanity_maps.png` shows one image's maps.

The controls do not depend on the network and stay at 1, as would a method that depends on the image alone. A map that has
lost all information need not reach 0: maps of different images are similar too, since objects lie in the middle and zero
padding marks the border. So each map is also compared with the randomised network's maps of other images (column `other`,
dotted): where both have the same value, the map says nothing specific about its image. Every stage uses several draws of
random weights, since one draw is no sample (`draw_low` and `draw_high`, small dots).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
import typer
from matplotlib.figure import Figure
from torch import Tensor

from evalkit import protocol
from evalkit.analysis.stats import bootstrap
from evalkit.cli.script import run_script
from evalkit.config.compose import compose_jobs
from evalkit.data.decode import UnreadableImage
from evalkit.errors import UserError
from evalkit.evaluation.apply import Method, apply_method
from evalkit.evaluation.sanity import cascade, similarity
from evalkit.evaluation.session import Session, open_session
from evalkit.methods import controls
from evalkit.models.split import SplitModel
from evalkit.output.drawing import FORMATS
from evalkit.output.plots import MARKERS
from evalkit.probe import Probe

DEFAULTS = {"method": "[ablation_cam,grad_cam,grad_cam_pp,random,constant,centre]", "sample": "64"}
SHOWN = 7
"""Stages in the figure of maps: more would be too small to see."""

OTHERS = 8
"""Number of other images with which each image is compared."""

Maps = dict[str, Tensor]
Values = dict[str, np.ndarray]


def with_defaults(overrides: list[str]) -> list[str]:
    """Add the defaults of the keys that are not set; `limit` replaces `sample`."""
    keys = {override.split("=")[0] for override in overrides}
    keys |= {"sample"} if "limit" in keys else set()
    return [*overrides, *(f"{key}={value}" for key, value in DEFAULTS.items() if key not in keys)]


def read_images(session: Session) -> tuple[Tensor, Tensor]:
    """Return the run's readable images (N,3,H,W) in [0,1] and their positions (N,)."""
    images, positions = [], []
    for position in session.positions:
        try:
            image = session.model.preprocess(session.source.load(position))
        except UnreadableImage as reason:
            print(f"left out: {session.source.image_id(position)} ({reason})")
            continue
        if image.shape[1:] != session.size:
            raise UserError(
                f"{session.source.image_id(position)} differs in size from the first image: set model.resize=[h,w] or model.crop"
            )
        images.append(image)
        positions.append(position)
    return torch.stack(images).to(session.device, session.model.net.dtype) / 255, torch.tensor(positions)


def explain(session: Session, net: SplitModel, images: Tensor, targets: Tensor | None, positions: Tensor) -> tuple[Maps, Tensor]:
    """Return maps (N,h,w) of each method, and the explained classes (N,): the predicted ones where `targets` is None."""
    parts: dict[str, list[Tensor]] = {name: [] for name in session.methods}
    classes = []
    for batch in torch.arange(len(images)).split(session.config.batch_size):
        probe = Probe(net, images[batch], None if targets is None else targets[batch], positions[batch])
        classes.append(probe.targets)
        for name, method in session.methods.items():
            parts[name].append(apply_method(name, method, probe).cpu())
    return {name: torch.cat(maps) for name, maps in parts.items()}, torch.cat(classes)


@dataclass(frozen=True)
class Draw:
    """One stage with one draw of random weights: similarity to the trained network's maps, by measure (methods,images)."""

    same: Values
    """Similarity to the map of the same image."""
    other: Values
    """Mean similarity to the maps of other images."""
    constant: dict[str, int]
    """Number of constant maps of each method."""


def draw(trained: Maps, maps: Maps) -> Draw:
    """Compare one stage's maps (N,h,w) with the trained network's."""
    shifts = range(1, min(len(next(iter(maps.values()))), OTHERS + 1))
    rolled = [_similarities(trained, {name: stack.roll(shift, 0) for name, stack in maps.items()}) for shift in shifts]
    same = _similarities(trained, maps)
    undefined = {measure: np.full_like(values, np.nan) for measure, values in same.items()}
    other = {measure: _mean(np.stack([values[measure] for values in rolled])) for measure in same} if rolled else undefined
    return Draw(same, other, {name: int((stack.amax((1, 2)) == stack.amin((1, 2))).sum()) for name, stack in maps.items()})


def _similarities(trained: Maps, maps: Maps) -> Values:
    by_method = [similarity(trained[name], maps[name]) for name in trained]
    return {measure: np.stack([values[measure] for values in by_method]) for measure in by_method[0]}


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the first axis of the defined values; nan where none is defined."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(axis=0) / defined.sum(axis=0)


def rows(methods: Sequence[str], draws: list[Draw]) -> list[dict[str, Any]]:
    """Return the rows of one stage: each image's mean over the draws, then the mean over images and its 95 % interval."""
    table = []
    for measure in draws[0].same:
        same, other = (np.stack([values[measure] for values in side]) for side in ([d.same for d in draws], [d.other for d in draws]))
        interval = bootstrap({measure: _mean(same)})[measure]
        each = _mean(np.moveaxis(same, 2, 0))  # (draws, methods)
        rest = _mean(_mean(np.moveaxis(other, 1, 2)))
        for i, name in enumerate(methods):
            table.append(
                {
                    "method": name, "measure": measure, "value": interval.value[i], "low": interval.low[i], "high": interval.high[i],
                    "draw_low": np.fmin.reduce(each[:, i]), "draw_high": np.fmax.reduce(each[:, i]), "other": rest[i],
                    "maps": same[:, i].size, "defined": int((~np.isnan(same[:, i])).sum()),
                    "constant_maps": sum(d.constant[name] for d in draws), "draws": each[:, i].tolist(),
                }
            )  # fmt: skip
    return table


def curves(table: pd.DataFrame, methods: Mapping[str, Method], title: str) -> Figure:
    """Draw the rank correlation with the trained network's map against the stage, for each method."""
    chosen = table[table.measure == "spearman"]
    layers = list(dict.fromkeys(chosen.layer))
    figure, ax = plt.subplots(figsize=(3 + 0.75 * len(layers), 5.6), layout="constrained")
    palette = sns.color_palette("colorblind", len(methods))
    for i, (name, function) in enumerate(methods.items()):
        line = chosen[chosen.method == name]
        x = line.stage + 0.5 * ((i + 0.5) / len(methods) - 0.5)  # side by side: the controls have the same value
        control, marker = is_control(function), MARKERS[i % len(MARKERS)]
        ax.plot(x, line.value, "--" if control else "-", color=palette[i], marker=marker, markersize=5, linewidth=1.2, label=name)
        ax.errorbar(x, line.value, [line.value - line.low, line.high - line.value], fmt="none", ecolor=palette[i], elinewidth=1, capsize=2)
        few = line.defined < line.maps / 2
        ax.plot(x[few], line.value[few], marker, color="white", markeredgecolor=palette[i], markersize=5)
        if not control:
            ax.plot(x, line.other, ":", color=palette[i], linewidth=1.4)
            for place, values in zip(x[1:], line.draws[1:], strict=True):
                ax.plot([place] * len(values), values, ".", color=palette[i], markersize=3, alpha=0.6)
    reached = chosen[chosen.activations_change].stage
    if len(reached):
        ax.axvline(reached.min() - 0.5, color="0.4", linewidth=0.8, linestyle="-.")
        ax.annotate("activations change, too", (reached.min() - 0.45, 0.01), xycoords=("data", "axes fraction"), fontsize=8, color="0.3")
    ax.axhline(0, color="0.4", linewidth=0.8)
    ax.set_xticks(range(len(layers)), layers, rotation=35, ha="right")
    ax.set_xlabel("random from the output down to this layer")
    ax.set_ylabel("Spearman correlation with the trained map\n(mean and 95 % interval over images)")
    ax.set_ylim(min(-0.15, chosen.low.min() - 0.05), 1.08)
    notes = ["dashed: controls, which do not depend on the network", "dotted: maps of other images, similarity of any two maps"]
    notes.append("small dots: single draws of the random weights")
    if (chosen.defined < chosen.maps / 2).any():
        notes.append("hollow: most maps are constant, which have no correlation")
    figure.legend(loc="outside lower center", ncols=len(methods), title="\n".join(notes), handlelength=3.2)
    ax.set_title(title, fontsize=10)
    return figure


def is_control(method: Method) -> bool:
    """Return whether a method is one of evalkit's controls."""
    function = method.func if isinstance(method, partial) else method
    return getattr(function, "__module__", None) == controls.__name__


def grid(image: Tensor, stages: list[tuple[str, Maps]], title: str) -> Figure:
    """Draw one image's maps, each on its own scale: a row for each method, a column for each stage; the first is the trained network."""
    methods = list(stages[0][1])
    chosen = sorted({round(i) for i in np.linspace(0, len(stages) - 1, min(SHOWN + 1, len(stages)))})
    size = (image.shape[1], image.shape[2])
    figure, axes = plt.subplots(
        len(methods), len(chosen) + 1, figsize=(1.35 * (len(chosen) + 1), 1.45 * len(methods) + 0.8), squeeze=False, layout="constrained"
    )
    for row, method in zip(axes, methods, strict=True):
        row[0].imshow(image.permute(1, 2, 0).float().cpu().numpy())
        row[0].set_ylabel(method, fontsize=9)
        for ax, stage in zip(row[1:], chosen, strict=True):
            low = stages[stage][1][method]
            ax.imshow(protocol.soft_mask(protocol.upsample(low, size))[0].float().numpy(), cmap="inferno", vmin=0, vmax=1)
            rho = similarity(stages[0][1][method], low)["spearman"][0]
            flat = bool(low.amax() == low.amin())
            ax.set_xlabel("constant map" if flat else rf"$\rho$ = {rho:.2f}", fontsize=8, labelpad=2)
    for ax, stage in zip(axes[0, 1:], chosen, strict=True):
        ax.set_title(stages[stage][0], fontsize=7)
    axes[0, 0].set_title("image", fontsize=7)
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.grid(False)
    figure.suptitle(title, fontsize=10)
    return figure


def main(
    out: Annotated[Path, typer.Argument(help="Folder for the table and the figures.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Model, data and methods, as in `evalkit run`.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Layers per stage, after the output layer.")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="Draws of random weights.")] = 3,
    shown: Annotated[int, typer.Option(min=0, help="Index of the image in the figure of maps.")] = 0,
) -> None:
    """Write one table and two figures."""
    config = compose_jobs(with_defaults(overrides or []))[0].config
    if config.target == "label":
        raise UserError("target=label: this experiment explains the predicted class, or target=<class index>")
    session = open_session(config)
    net = session.model.net
    images, positions = read_images(session)
    if shown >= len(images):
        raise UserError(f"--shown {shown}: there are {len(images)} images")
    fixed = torch.full((len(images),), config.target) if isinstance(config.target, int) else None
    trained, targets = explain(session, net, images, fixed, positions)
    before = net.trunk(images[:1])[0]
    stages = [("trained", _one(trained, shown))]
    draws, changed = {"trained": [draw(trained, trained)]}, {"trained": False}
    example = (images[:1] - net.mean) / net.std
    for seed in range(seeds):
        for layer, module in cascade(net.module, example, every=every, seed=seed):
            random = SplitModel(module, config.model.only_layer("this script"), mean=config.model.mean, std=config.model.std)
            maps, _ = explain(session, random, images, targets, positions)
            draws.setdefault(layer, []).append(draw(trained, maps))
            changed[layer] = not torch.equal(random.trunk(images[:1])[0], before)
            if seed == 0:
                stages.append((layer, _one(maps, shown)))
            print(f"draw {seed + 1} of {seeds}: random down to {layer}", flush=True)
    table_rows = [
        {"model": config.model.name, "stage": stage, "layer": layer, "activations_change": changed[layer], **row}
        for stage, layer in enumerate(draws)
        for row in rows(list(session.methods), draws[layer])
    ]
    table = pd.DataFrame(table_rows)
    out.mkdir(parents=True, exist_ok=True)
    table.drop(columns="draws").to_csv(out / "sanity.csv", index=False, float_format="%.6g")
    sns.set_theme(style="whitegrid", context="paper", palette="colorblind")
    about = f"{config.model.name}{' with RANDOM WEIGHTS' if session.model.weights.startswith('random') else ''} at {config.model.layer}"
    title = f"{about}: weights randomised from the output ({len(images)} images, {seeds} draw{'s' * (seeds > 1)} of weights)"
    save(curves(table, session.methods, title), out / "sanity")
    name = session.model.classes.name(int(targets[shown]))
    save(
        grid(images[shown], stages, f'{about}, explaining "{name}" while the weights are randomised (each map on its own scale)'),
        out / "sanity_maps",
    )
    last = table[(table.stage == table.stage.max()) & (table.measure == "spearman")]
    print(last[["method", "value", "low", "high", "draw_low", "draw_high", "other", "defined", "maps"]].round(3).to_string(index=False))


def _one(maps: Maps, index: int) -> Maps:
    return {name: stack[index : index + 1] for name, stack in maps.items()}


def save(figure: Figure, stem: Path) -> None:
    """Save as PNG and PDF."""
    for form in FORMATS:
        figure.savefig(stem.with_name(f"{stem.name}.{form}"), dpi=150)
        figure.set_layout_engine("none")
    plt.close(figure)


if __name__ == "__main__":
    run_script(main)
