"""Score each metric by whether it recovers a known order of maps, on images whose causal pixels are known (planted triggers).

    OMP_NUM_THREADS=1 python experiments/findings/planted.py WEIGHTS --out results

(about a CPU second for each canvas and seed)

A trigger of 12x12 pixels alone decides the class (`data=planted`; the networks are checked by experiments/training/train_planted.py).
Three maps are degraded by known steps: Grad-CAM, Ablation-CAM, and an oracle, the trigger's own pixels. 0, 10, 25, 50 and 100 % of
their cells are replaced, by noise or by the map of the next canvas (planted_maps.py). The order of the five steps is known: for the
oracle by construction, for the methods because replaced cells know nothing of the image. A metric's score is Spearman's correlation
between that order and its means over the images, 1 where the order is recovered, for five training seeds.

The idea of scoring metrics by known degradations: Hedstroem et al., "The meta-evaluation problem in explainable AI" (TMLR 2023).

WEIGHTS is the folder that train_planted.py wrote, with planted_seed<k>.safetensors for each training seed. OUT receives planted.csv,
planted_tables.md and planted.png.
"""

from collections import defaultdict
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from planted_maps import next_canvases, oracle, pixels, replaced_by, trigger_pixels
from planted_report import draw, markdown
from planted_scores import BASES, PERCENTS, SUBSTITUTES, Array, Measured, Metric, table, values_of
from safetensors.torch import load_file
from torch import Tensor

from evalkit import protocol
from evalkit.cli.script import run_script
from evalkit.data.planted import KINDS
from evalkit.evaluation import localisation
from evalkit.evaluation.complexity import coherency, complexity
from evalkit.methods import ablation_cam, grad_cam
from evalkit.methods.postprocess import degraded
from evalkit.models.digits_nets import DigitsGAP
from evalkit.models.split import SplitModel
from evalkit.point import Point
from evalkit.probe import Probe
from evalkit.scores import confidence_and_logit

TOPS = (5, 20)
"""Thresholds at which drops, increase, win and change are scored: the trigger is 3.5 % of a canvas; the paper keeps 20 %."""
CURVE = (5, 20, 50)
"""Thresholds of the areas, besides 0 and 100 %, which are the same for all maps."""
FILLS = ("black", "mean", "blur")
BATCH = 4
"""Canvases that are processed together: with all their maps about a hundred images."""
METHODS = {"oracle": oracle, "grad_cam": grad_cam, "ablation_cam": ablation_cam}
ORDERS = [(base, by) for base in BASES for by in SUBSTITUTES]
Parts = dict[tuple[str, object], list[Tensor]]


def network(file: Path) -> SplitModel:
    """Return the network of one training seed, cut at its last convolution."""
    module = DigitsGAP(len(KINDS))
    module.load_state_dict(load_file(file))
    return SplitModel(module.eval(), "features.13", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def orders(probe: Probe) -> Tensor:
    """Return the maps of all known orders at the activations' resolution, (6,5,N,h,w): order, step (best first), canvas."""
    after = next_canvases(probe)
    found = []
    for base, by in ORDERS:
        maps, others = METHODS[base](probe), METHODS[base](after)
        noisy = by == "noise"
        steps = [degraded(maps, probe, p / 100) if noisy else replaced_by(maps, others, probe, p / 100) for p in PERCENTS]
        found.append(torch.stack(steps))
    return torch.stack(found)


def points() -> list[Point]:
    """Return the points whose masks depend on the map."""
    hard = [Point(select, float(top), fill) for select in ("keep_top", "remove_top") for fill in FILLS for top in CURVE]
    return hard + [Point("soft", None, fill) for fill in FILLS]


def measure(net: SplitModel, indices: Tensor, parts: Parts) -> None:
    """Add the scores and the measures of one batch of canvases, each (6,5,N) or for unperturbed images (N,)."""
    images = torch.stack([pixels(int(index)) for index in indices])
    probe = Probe(net, images, indices=indices)
    low = orders(probe)
    shape = low.shape[:3]
    many = shape[0] * shape[1]
    repeated = probe.images.repeat(many, 1, 1, 1).contiguous(memory_format=torch.channels_last)  # convolutions take less time on a CPU
    targets = probe.targets.repeat(many)
    maps = protocol.upsample(low.flatten(0, 2), (64, 64))
    ranking = protocol.Ranking(maps)
    fillers = {fill: protocol.filling(probe.images, fill, net.mean) for fill in FILLS}

    def add(key: Point | str, logits: Tensor) -> None:
        of = targets[: len(logits)]
        for score, values in zip(("confidence", "activation"), confidence_and_logit(logits, of), strict=True):
            assert values is not None
            parts[score, key].append(values.view(shape) if len(logits) == len(targets) else values)

    with torch.no_grad():
        add("full", probe.logits)
        for fill, filler in fillers.items():
            add(fill, net(filler.expand_as(probe.images)))
        for point in points():
            filler = fillers[point.fill]
            add(
                point,
                net(
                    protocol.perturb(
                        repeated, protocol.kept(point, ranking)[0], filler.repeat(many, 1, 1, 1) if len(filler) > 1 else filler
                    )
                ),
            )
    own = torch.stack([trigger_pixels(int(index)) for index in indices]).repeat(many, 1, 1)
    of_maps = {
        "energy_inside": localisation.energy_inside(maps, own) * 100,
        "pointing": localisation.pointing_game(maps, own) * 100,
        "best_iou": localisation.best_iou(ranking, own) * 100,
        "complexity": complexity(maps),
        "coherency": second(probe, maps.view(*shape, 64, 64)),
    }
    for name, values in of_maps.items():
        parts["maps", name].append(values.view(shape))


def second(probe: Probe, maps: Tensor) -> Tensor:
    """Return the coherency of all maps (6,5,N): each is made again, replaced in the same cells, for the canvas times its soft mask."""
    found = torch.empty(maps.shape[:3])
    for i, (base, by) in enumerate(ORDERS):
        others = METHODS[base](next_canvases(probe))
        for j, percent in enumerate(PERCENTS):
            again = probe.again(protocol.perturb(probe.images, protocol.soft_mask(maps[i, j]), torch.zeros_like(probe.images[:1])))
            low, share = METHODS[base](again), percent / 100
            low = degraded(low, again, share) if by == "noise" else replaced_by(low, others, again, share)
            found[i, j] = coherency(maps[i, j], protocol.upsample(low, (64, 64)))
    return found


def measured(parts: Parts) -> dict[tuple[str, str], Measured]:
    """Return what was measured of each known order, with the points of 0 and 100 % kept or removed."""
    joined = {key: torch.cat(values, -1).double().numpy() for key, values in parts.items()}
    found = {}
    for i, order in enumerate(ORDERS):
        masked: dict[str, dict[Point, Array]] = {}
        for score in ("confidence", "activation"):
            by_point = {point: joined[score, point][i] for point in points()}
            for fill in FILLS:
                whole, nothing = (np.broadcast_to(joined[score, key], (len(PERCENTS), joined[score, key].size)) for key in ("full", fill))
                by_point |= {Point("keep_top", 0.0, fill): nothing, Point("keep_top", 100.0, fill): whole}
                by_point |= {Point("remove_top", 0.0, fill): whole, Point("remove_top", 100.0, fill): nothing}
            masked[score] = by_point
        full = {score: joined[score, "full"] for score in masked}
        found[order] = Measured(full, masked, {name: values[i] for (kind, name), values in joined.items() if kind == "maps"})
    return found


def values(net: SplitModel, images: int) -> dict[tuple[str, str], dict[Metric, Array]]:
    """Return each metric's values per image (5,n) on the first canvases, by known order."""
    parts: Parts = defaultdict(list)
    for indices in torch.arange(images).split(BATCH):
        measure(net, indices, parts)
    return {order: values_of(of_order, TOPS) for order, of_order in measured(parts).items()}


def main(
    weights: Annotated[Path, typer.Argument(help="Folder that train_planted.py wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for the table, the report and the figure.")],
    seeds: Annotated[int, typer.Option(min=1, help="Training seeds 0 to N-1.")] = 5,
    images: Annotated[int, typer.Option(min=2, help="Canvases, the first of the evaluation split, whose order is random.")] = 40,
) -> None:
    """Measure, score, report, draw."""
    by_seed = {}
    for seed in range(seeds):
        by_seed[seed] = values(network(weights / f"planted_seed{seed}.safetensors"), images)
        print(f"seed {seed}: {images} canvases", flush=True)
    found = table(by_seed)
    out.mkdir(parents=True, exist_ok=True)
    found.to_csv(out / "planted.csv", index=False, float_format="%.5g")
    text = markdown(found)
    (out / "planted_tables.md").write_text(text, encoding="utf-8")
    draw(found).savefig(out / "planted.png", dpi=150)
    print(text)


if __name__ == "__main__":
    run_script(main)
