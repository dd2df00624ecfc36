"""Test the axioms by which the Ablation-CAM paper judges itself (section 6.2, after Sundararajan et al., ICML 2017), method by method.

    OMP_NUM_THREADS=1 python experiments/findings/axioms.py DATA OUT        (five minutes on one CPU core)

DATA holds imagenette224/, imagenet_val_acuity/ and weights/. OUT receives axioms.csv. A network that was measured before is kept
in it when --network names others.

Claims: "Ablation-CAM satisfies Sensitivity by employing a baseline for each feature map"; "Like any CAM, Ablation-CAM may seem to
violate the Implementation Invariance property as the visualization depends on size of feature map".

Sensitivity, a null player, redundant units: networks that axiom_toys.py holds, whose maps can be derived by hand. `value` is the sum of the
map over the cells of the unit that `measure` names.

Completeness: what a method shares out against the change of the score from its baseline, all channels zero. `share` is the ratio of
both sums over images in %, `gap` the sum of |shared out - change| in % of the sum of |change|.

Implementation invariance: the network is rewritten such that its scores stay the same (axiom_rewrites.py), and the same class is
explained again. `spearman` and `pearson` compare the maps cell by cell, `iou` the masks of the top 20 % of the pixels; `scores` is
the largest difference of logits in units of the largest logit. An image's value is its mean over the draws of a rewriting.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from axiom_rewrites import FINER, REWRITES, finer, rewritten
from axiom_sums import SUMS, completeness
from axiom_toys import CASES, HAND_SIZED, METHODS
from sanity_checks import read_images
from torch import Tensor, nn

from evalkit import protocol
from evalkit.analysis.stats import bootstrap
from evalkit.cli.script import run_script
from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError, did_you_mean
from evalkit.evaluation.sanity import TOP_PERCENT, similarity
from evalkit.evaluation.session import open_session
from evalkit.models.settings import ModelConfig
from evalkit.models.split import SplitModel
from evalkit.probe import Probe

CONF = Path(__file__).parents[1] / "conf"
SLOW = ("spatial_ablation", "gradient", "guided_backprop", "integrated_gradients", "occlusion", "score_cam")
"""Methods that run much of the network many times, or backwards: fewer images, one draw of each rewriting."""
TOO_SLOW = ("integrated_gradients", "occlusion", "score_cam")
"""Methods that take seconds an image on networks for photographs; their rewritings are measured on the small networks only."""
BATCH = 10
Row = dict[str, Any]


@dataclass(frozen=True)
class Network:
    """A network with its images, and how many of them for the slow methods. `{data}` in the overrides stands for DATA."""

    overrides: tuple[str, ...]
    images: int
    few: int
    pooled: bool
    """Whether global average pooling and one linear layer follow the target layer."""
    left_out: tuple[str, ...] = ()


def with_weights(model: str, weights: str, images: str) -> tuple[str, ...]:
    """Return the overrides of a network of experiments/conf and its images in DATA."""
    return (
        f"model={model}",
        f"model.weights={{data}}/weights/{weights}.safetensors",
        "data=image_folder",
        f"data.root={{data}}/{images}/images",
    )


NETWORKS = {
    "digits_fc": Network(("model=digits_fc", "data=digits"), 60, 5, pooled=False),
    "digits_gap": Network(("model=digits_gap", "data=digits"), 60, 5, pooled=True),
    "squeezevgg10": Network(
        with_weights("squeezevgg10", "squeezevgg10_imagenette", "imagenette224"), 40, 3, pooled=False, left_out=TOO_SLOW
    ),
    "mobilenet_v2": Network(
        with_weights("mobilenet_v2_half", "mobilenet_v2_imagenet", "imagenet_val_acuity"), 40, 3, pooled=True, left_out=TOO_SLOW
    ),
}

COLUMNS = ("axiom", "network", "rewriting", "method", "measure", "n", "value", "low", "high", "draws")
TOYS = "toys"


def toy_rows() -> list[Row]:
    """Return what each method gives to the units of the toy networks, and how much it shares out there."""
    rows: list[Row] = []
    for case in CASES:
        for name in case.methods(HAND_SIZED):
            about = {"axiom": case.axiom, "network": case.network, "method": name, "n": 1}
            rows += [{**about, "measure": unit, "value": value} for unit, value in case.values(HAND_SIZED[name]).items()]
        rows += completeness({"network": case.network}, [case.probe()], case.methods(SUMS))
    return rows


def network_rows(name: str, data: Path, count: int | None, draws: int) -> list[Row]:
    """Return the rows of completeness and implementation invariance for one network, with at most `count` images."""
    spec = NETWORKS[name]
    images = min(spec.images, count or spec.images)
    overrides = [text.replace("{data}", str(data)) for text in (*spec.overrides, f"sample={images}")]
    session = open_session(compose_jobs(overrides, conf=CONF)[0].config)
    pixels, _ = read_images(session)
    config, net = session.config.model, session.model.net
    chosen = [method for method in METHODS if method not in spec.left_out and (method != "cam" or spec.pooled)]
    quick, slow = [method for method in chosen if method not in SLOW], [method for method in chosen if method in SLOW]
    few = pixels[: spec.few]

    rows = completeness(
        {"network": name}, [Probe(net, batch) for batch in pixels.split(BATCH)], [method for method in SUMS if method in quick]
    )
    rows += completeness({"network": name}, [Probe(net, few)], ["spatial_ablation", "integrated_gradients"])
    before = Explained(net, pixels, None, quick), Explained(net, few, None, slow)
    for rewriting in (*REWRITES, FINER):
        quick_nets = other_networks(session.model.module, config, net, pixels[:1], rewriting, spec.pooled, draws)
        after = [Explained(other, pixels, before[0].targets, quick) for other in quick_nets]
        about = {"axiom": "implementation invariance", "network": name, "rewriting": rewriting}
        rows += invariance(about, before[0], after)
        rows += invariance(about, before[1], [Explained(quick_nets[0], few, before[1].targets, slow)])
        print(f"{name}: {rewriting}", flush=True)
    return rows


def other_networks(
    module: nn.Module, config: ModelConfig, net: SplitModel, image: Tensor, rewriting: str, pooled: bool, draws: int
) -> list[SplitModel]:
    """Return the network rewritten, once for each draw, and cut again."""
    layer = config.only_layer("this script")
    if rewriting == FINER:
        made = [finer(module, layer, pooled=pooled)]
    else:
        channels = net.trunk(image)[0].shape[1]
        generators = [torch.Generator().manual_seed(seed) for seed in range(draws)]
        normalised = (image - net.mean) / net.std
        made = [(rewritten(module, layer, normalised, REWRITES[rewriting](channels, rng)), layer) for rng in generators]
    return [SplitModel(changed, at, mean=config.mean, std=config.std) for changed, at in made]


class Explained:
    """Logits (n,C), targets (n,) and maps by method of one network on some images; predicted classes where `targets` is None."""

    def __init__(self, net: SplitModel, images: Tensor, targets: Tensor | None, methods: Sequence[str]) -> None:
        at = torch.arange(len(images)).split(BATCH)
        probes = [Probe(net, images[rows], None if targets is None else targets[rows]) for rows in at]
        parts: dict[str, list[Tensor]] = {name: [] for name in methods}
        logits, classes = [], []
        for probe in probes:
            logits.append(probe.logits)
            classes.append(probe.targets)
            for name in methods:
                parts[name].append(METHODS[name](probe).detach())
        self.size = (images.shape[2], images.shape[3])
        self.logits, self.targets = torch.cat(logits), torch.cat(classes)
        self.maps = {name: torch.cat(maps) for name, maps in parts.items()}
        self._masks: dict[str, Tensor] = {}

    def mask(self, name: str) -> Tensor:
        """Return the top 20 % of the pixels (n,H*W) of a method's maps; computed once."""
        if name not in self._masks:
            large = protocol.upsample(self.maps[name], self.size)
            self._masks[name] = protocol.Ranking(large).top(TOP_PERCENT).flatten(1)
        return self._masks[name]


def invariance(about: Row, before: Explained, after: Sequence[Explained]) -> list[Row]:
    """Return the rows of one rewriting: the difference of the logits, and three similarities of the maps by method."""
    largest = max(float((other.logits - before.logits).abs().max() / before.logits.abs().max()) for other in after)
    rows = [{**about, "method": "", "measure": "scores", "value": largest, "n": len(before.logits), "draws": len(after)}]
    for name in before.maps:
        draws = [alike(before, other, name) for other in after]
        values = {measure: mean([one[measure] for one in draws]) for measure in draws[0]}
        for measure, interval in bootstrap({key: value[None] for key, value in values.items()}).items():
            counted = {"n": int(np.isfinite(values[measure]).sum()), "draws": len(after)}
            numbers = {"value": interval.value[0], "low": interval.low[0], "high": interval.high[0]}
            rows.append({**about, "method": name, "measure": measure, **counted, **numbers})
    return rows


def alike(before: Explained, after: Explained, name: str) -> Mapping[str, np.ndarray]:
    """Return Spearman's and Pearson's correlation of a method's maps and the IoU of the masks that they choose, each (n,).

    Maps of different sizes are correlated at the image's. A correlation with a constant map is nan.
    """
    first, second = before.maps[name], after.maps[name]
    if first.shape != second.shape:
        first, second = (protocol.upsample(maps, before.size) for maps in (first, second))
    found, masks = similarity(first, second), (before.mask(name), after.mask(name))
    iou = (masks[0] & masks[1]).sum(1) / (masks[0] | masks[1]).sum(1)
    return {"spearman": found["spearman"], "pearson": found["pearson"], "iou": iou.double().numpy()}


def mean(draws: list[np.ndarray]) -> np.ndarray:
    """Return the mean over draws of each image's value; nan where all are."""
    values = np.stack(draws)
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(0) / defined.sum(0)


def main(
    data: Annotated[Path, typer.Argument(help="Folder of the image sets and weights.")],
    out: Annotated[Path, typer.Argument(help="Folder for axioms.csv.")],
    chosen: Annotated[list[str], typer.Option("--network", help=f"Networks, or {TOYS}; all by default.")] = [TOYS, *NETWORKS],  # noqa: B006 - typer copies it
    count: Annotated[int | None, typer.Option("--images", min=2, help="Largest number of images.")] = None,
    draws: Annotated[int, typer.Option(min=1, help="Draws of each random rewriting.")] = 1,
) -> None:
    """Measure the chosen networks, and write axioms.csv."""
    for name in chosen:
        if name not in (TOYS, *NETWORKS):
            raise UserError(f"no network '{name}'{did_you_mean(name, (TOYS, *NETWORKS))}")
    out.mkdir(parents=True, exist_ok=True)
    file = out / "axioms.csv"
    for name in chosen:
        rows = toy_rows() if name == TOYS else network_rows(name, data, count, draws)
        table = pd.DataFrame(rows).reindex(columns=COLUMNS)
        if file.exists():
            before = pd.read_csv(file)
            kept = before[~before.network.isin(table.network)]
            table = pd.concat([kept, table], ignore_index=True) if len(kept) else table
        table.to_csv(file, index=False, float_format="%.6g")
        print(f"{name}: {len(rows)} rows", flush=True)


if __name__ == "__main__":
    run_script(main)
