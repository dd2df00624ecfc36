"""Score each metric by whether it recovers a known order of maps, on images whose causal pixels are known (planted triggers).

    OMP_NUM_THREADS=1 python experiments/findings/planted.py WEIGHTS --out results --processes 2

(1.5 CPU seconds for each canvas and seed, of which 0.6 s solve the systems of ROAD; planted.sh trains the networks, too)

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
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from itertools import islice
from multiprocessing import get_context
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
from evalkit.config.schema import SingleDeletion
from evalkit.data.digits import SIZE
from evalkit.data.planted import KINDS
from evalkit.evaluation import localisation
from evalkit.evaluation.complexity import coherency, complexity
from evalkit.evaluation.single_deletion import patch_drops, patch_sums, rank_correlation
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
FILLS = ("black", "mean", "blur", "road")
CANVASES = 20
"""Canvases of one task, of which a process does one after the other."""
METHODS = {"oracle": oracle, "grad_cam": grad_cam, "ablation_cam": ablation_cam}
ORDERS = [(base, by) for base in BASES for by in SUBSTITUTES]
Parts = dict[tuple[str, object], list[Tensor]]


def network(file: Path) -> SplitModel:
    """Return the network of one training seed, cut at its last convolution."""
    module = DigitsGAP(len(KINDS))
    module.load_state_dict(load_file(file))
    return SplitModel(module.eval(), "features.13", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def replaced(maps: Tensor, others: Tensor, probe: Probe, by: str, percent: int) -> Tensor:
    """Return maps (N,h,w) with a known share of their cells replaced by noise or by the cells of others (N,h,w)."""
    return degraded(maps, probe, percent / 100) if by == "noise" else replaced_by(maps, others, probe, percent / 100)


def orders(probe: Probe, others: dict[str, Tensor]) -> Tensor:
    """Return the maps of all known orders of one canvas at the activations' resolution, (6,5,h,w): order, step (best first)."""
    own = {base: METHODS[base](probe) for base in BASES}
    steps = [replaced(own[base], others[base], probe, by, percent)[0] for base, by in ORDERS for percent in PERCENTS]
    return torch.stack(steps).unflatten(0, (len(ORDERS), len(PERCENTS)))


def points() -> list[Point]:
    """Return the points whose masks depend on the map: soft masks for all fills but road, which refuses them."""
    hard = [Point(select, float(top), fill) for select in ("keep_top", "remove_top") for fill in FILLS for top in CURVE]
    return hard + [Point("soft", None, fill) for fill in FILLS if fill != "road"]


def measure(net: SplitModel, index: int, parts: Parts) -> None:
    """Add the scores and the measures of one canvas, each (6,5) or for the unperturbed and the empty image ().

    Equal maps, as of the steps that replace nothing, are measured once.
    """
    probe = Probe(net, pixels(index)[None], indices=torch.tensor([index]))
    after = next_canvases(probe)
    others = {base: METHODS[base](after) for base in BASES}
    low = orders(probe, others)
    different, place = low.flatten(0, 1).unique(dim=0, return_inverse=True)
    maps = protocol.upsample(different, (SIZE, SIZE))
    images = probe.images.repeat(len(maps), 1, 1, 1)
    targets = probe.targets.repeat(len(maps))
    fills = protocol.Fills(images, net.mean, net.std, [index] * len(maps))
    ranking = protocol.Ranking(maps)

    def of_all(values: Tensor) -> Tensor:
        return values[place].view(low.shape[:2])

    def add(key: Point | str, logits: Tensor) -> None:
        for score, values in zip(("confidence", "activation"), confidence_and_logit(logits, targets[: len(logits)]), strict=True):
            assert values is not None
            parts[score, key].append(of_all(values) if isinstance(key, Point) else values[0])

    with torch.no_grad():
        add("full", probe.logits)
        for fill in FILLS:
            nothing = fills(fill, torch.zeros_like(maps, dtype=torch.bool))
            add(fill, net(nothing[:1].expand_as(probe.images)))
        for point in points():
            kept = protocol.kept(point, ranking)[0]
            add(point, net(protocol.perturb(images, kept, fills(point.fill, kept))))
    own = trigger_pixels(index).expand_as(maps)
    of_maps = {
        "energy_inside": localisation.energy_inside(maps, own) * 100,
        "pointing": localisation.pointing_game(maps, own) * 100,
        "best_iou": localisation.best_iou(ranking, own) * 100,
        "complexity": complexity(maps),
        "single_deletion": deletion(probe, maps),
    }
    for name, values in of_maps.items():
        parts["maps", name].append(of_all(values))
    parts["maps", "coherency"].append(second(probe, maps[place].unflatten(0, low.shape[:2]), others))


def deletion(probe: Probe, maps: Tensor) -> Tensor:
    """Return the single-deletion score (M,) of upsampled maps (M,H,W) of one canvas, with the paper's settings; all share its passes."""
    settings = SingleDeletion()

    def logit(logits: Tensor) -> Tensor:
        return confidence_and_logit(logits, probe.targets)[1]

    with torch.no_grad():
        filler = protocol.filling(probe.images, settings.fill, probe.net.mean)
        drops = patch_drops(probe.images, filler, settings.grid, logit(probe.logits), lambda images: logit(probe.net(images)))
    return rank_correlation(patch_sums(maps, settings.grid), drops.repeat(len(maps), 1))


def second(probe: Probe, maps: Tensor, others: dict[str, Tensor]) -> Tensor:
    """Return the coherency (6,5) of upsampled maps (6,5,H,W): each map is made again on the canvas times its soft mask.

    The same cells are replaced. The masked canvases of one order are explained together.
    """
    found = torch.empty(maps.shape[:2])
    for i, (base, by) in enumerate(ORDERS):
        masked = protocol.perturb(probe.images, protocol.soft_mask(maps[i]), torch.zeros_like(probe.images))
        count = len(masked)
        again = METHODS[base](Probe(probe.net, masked, probe.targets.repeat(count), probe.indices.repeat(count)))
        low = [replaced(one[None], others[base], probe, by, percent) for one, percent in zip(again, PERCENTS, strict=True)]
        found[i] = coherency(maps[i], protocol.upsample(torch.cat(low), (SIZE, SIZE)))
    return found


def measured(parts: Parts) -> dict[tuple[str, str], Measured]:
    """Return what was measured of each known order, with the points of 0 and 100 % kept or removed."""
    joined = {key: torch.stack(values, -1).double().numpy() for key, values in parts.items()}
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


def values(net: SplitModel, indices: Iterable[int]) -> dict[tuple[str, str], dict[Metric, Array]]:
    """Return each metric's values per image (5,n) on n canvases, by known order."""
    parts: Parts = defaultdict(list)
    for index in indices:
        measure(net, index, parts)
    return {order: values_of(of_order, TOPS) for order, of_order in measured(parts).items()}


def values_in(file: Path, indices: range) -> dict[tuple[str, str], dict[Metric, Array]]:
    """Return the same for the network in a file; what a process is given."""
    return values(network(file), indices)


def by_seed(weights: Path, seeds: int, images: int, processes: int) -> dict[int, dict[tuple[str, str], dict[Metric, Array]]]:
    """Return each metric's values per image (5,n) by training seed and known order; the processes share the canvases out in tasks.

    Each canvas is measured alone, with one thread, so that the number of processes does not change a number.
    """
    torch.set_num_threads(1)
    tasks = [range(start, min(start + CANVASES, images)) for start in range(0, images, CANVASES)]
    files = [weights / f"planted_seed{seed}.safetensors" for seed in range(seeds)]
    spawn = partial(ProcessPoolExecutor, processes, get_context("spawn"), torch.set_num_threads, (1,))
    found: dict[int, dict[tuple[str, str], dict[Metric, Array]]] = {}
    with spawn() if processes > 1 else nullcontext() as pool:
        of_tasks = (pool.map if pool else map)(values_in, [file for file in files for _ in tasks], tasks * seeds)
        for seed in range(seeds):
            parts = list(islice(of_tasks, len(tasks)))
            found[seed] = {
                order: {metric: np.concatenate([part[order][metric] for part in parts], axis=1) for metric in of_order}
                for order, of_order in parts[0].items()
            }
            print(f"seed {seed}: {images} canvases", flush=True)
    return found


def main(
    weights: Annotated[Path, typer.Argument(help="Folder that train_planted.py wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for the table, the report and the figure.")],
    seeds: Annotated[int, typer.Option(min=1, help="Training seeds 0 to N-1.")] = 5,
    images: Annotated[int, typer.Option(min=2, help="Canvases, the first of the evaluation split, whose order is random.")] = 100,
    processes: Annotated[int, typer.Option(min=1, help="Processes that share the work, one thread each.")] = 1,
) -> None:
    """Measure, score, report, draw."""
    found = table(by_seed(weights, seeds, images, processes))
    out.mkdir(parents=True, exist_ok=True)
    found.to_csv(out / "planted.csv", index=False, float_format="%.5g")
    text = markdown(found)
    (out / "planted_tables.md").write_text(text, encoding="utf-8")
    draw(found).savefig(out / "planted.png", dpi=150)
    print(text)


if __name__ == "__main__":
    run_script(main)
