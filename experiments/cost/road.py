"""Price one imputation of fill=road: CPU time of a sparse system against a forward pass and against the authors' code.

python experiments/cost/road.py --json results/road_cost.json
About two minutes on one core.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from evalkit import protocol
from evalkit.bench import timing
from evalkit.cli.script import run_script
from evalkit.imputation import Imputation


def cpu_seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the least CPU time of several calls: it counts no waiting for a core that others use."""
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return min(taken)


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="The figures.")] = None,
    model: Annotated[list[str], typer.Option(help="Networks whose forward pass is the unit.")] = ["mobilenet_v2", "resnet50", "vgg16"],  # noqa: B006
    side: Annotated[int, typer.Option(help="Height and width of the image.")] = 224,
    grid: Annotated[int, typer.Option(help="Height and width of the map that is ranked.")] = 7,
    repeats: Annotated[int, typer.Option(help="Measurements of each.")] = 5,
) -> None:
    """Print milliseconds of CPU time per image of 3 channels, one thread, masks from random maps, and their ratios to a forward pass."""
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    ranking = protocol.Ranking(protocol.upsample(torch.from_numpy(random.random((1, grid, grid))), (side, side)))
    image = random.random((3, side, side))
    Imputation(np.eye(side, dtype=bool))  # the order of elimination, once for all masks
    figures: dict[str, float | int] = {"side": side, "grid": grid, "repeats": repeats}
    price = {}
    for percent in (20, 50, 80):
        kept = ranking.top(percent)[0]
        price[percent] = cpu_seconds(lambda kept=kept: Imputation(kept.numpy())(image), repeats)  # type: ignore[misc]
        figures[f"kept_{percent}_ms"] = round(price[percent] * 1000, 1)
        print(f"top {percent} % kept: {price[percent] * 1000:.0f} ms", flush=True)
    mean = sum(price.values()) / len(price)
    figures["mean_ms"] = round(mean * 1000, 1)
    theirs = authors(image, ranking.top(50)[0], repeats)
    if theirs is not None:
        figures["authors_kept_50_over_ours"] = round(theirs / price[50], 2)
        print(f"the authors' code at 50 %: {theirs / price[50]:.1f} times as long")
    for name in model:
        subject = timing.bench_network(name, [f"model.resize=[{side},{side}]", "model.crop=null"], 1, 1)
        figures[f"{name}_forwards"] = round(mean / cpu_seconds(subject.forward, repeats), 2)
        print(f"mean of the three: {figures[f'{name}_forwards']:.1f} forward passes of {name}", flush=True)
    timing.write(figures, json_file)


def authors(image: np.ndarray, kept: torch.Tensor, repeats: int) -> float | None:
    """Return the CPU time of the authors' imputer as pytorch-grad-cam carries it; None without that package."""
    try:
        from pytorch_grad_cam.metrics.road import NoisyLinearImputer  # noqa: PLC0415 - optional
    except ImportError:
        return None
    return cpu_seconds(lambda: NoisyLinearImputer()(torch.from_numpy(image).float(), kept.float()), min(repeats, 2))


if __name__ == "__main__":
    run_script(main)
