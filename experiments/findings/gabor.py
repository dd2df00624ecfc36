"""Measure how much of a network's first filters Gabor functions explain (Zeiler and Fergus, as seeds/004, section I, quotes them).

    python experiments/findings/gabor.py DATA/weights/squeezenet1_0_imagenet.safetensors --out results        (four minutes on one CPU core)

The document says that first filters resemble Gabor filters. A filter W (3,h,w) is fitted by one Gabor function of the position with a weight
for each colour, a_c G(x, y): seven parameters by least squares from several starts, the three weights in closed form. R^2 is the
share of the filter's sum of squares that the fit explains. Ten numbers fit anything to some degree, so the same is done for two controls: the
filters with their positions shuffled, and the filters of the untrained network. Writes `gabor.csv`, a row per filter.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from scipy.optimize import least_squares

from evalkit.analysis.stats import medians
from evalkit.cli.script import run_script
from evalkit.config.compose import compose_jobs
from evalkit.models import zoo
from evalkit.models.convolutions import convolutions
from evalkit.models.copies import eval_copy

KINDS = ("trained", "shuffled", "untrained")


def gabor(parameters: np.ndarray, side: int) -> np.ndarray:
    """Return exp(-(u^2 / a^2 + v^2 / b^2) / 2) cos(2 pi f u + phase) on a side x side grid of positions in [-1,1].

    (u, v) are the positions relative to (x, y), rotated by the angle t; the parameters are x, y, t, log a, log b, f, phase.
    """
    x, y, t, log_a, log_b, frequency, phase = parameters
    down, across = np.meshgrid(*[np.linspace(-1, 1, side)] * 2, indexing="ij")
    u = (across - x) * np.cos(t) + (down - y) * np.sin(t)
    v = (down - y) * np.cos(t) - (across - x) * np.sin(t)
    carrier: np.ndarray = np.cos(2 * np.pi * frequency * u + phase)
    return np.exp(-((u / np.exp(log_a)) ** 2 + (v / np.exp(log_b)) ** 2) / 2) * carrier


def explained(filters: np.ndarray, starts: int, rng: np.random.Generator) -> float:
    """Return R^2 of the best fit to one filter (C,h,h): 1 - |W - a G|^2 / |W|^2, the weights a (C,) by least squares."""
    side, wanted = filters.shape[1], filters.reshape(len(filters), -1) / np.linalg.norm(filters)

    def residual(parameters: np.ndarray) -> np.ndarray:
        shape = gabor(parameters, side).ravel()
        left: np.ndarray = (wanted - np.outer(wanted @ shape, shape) / max(shape @ shape, 1e-12)).ravel()
        return left

    best = 1.0
    for _ in range(starts):
        first = [*rng.uniform(-0.4, 0.4, 2), rng.uniform(0, np.pi), *np.log(rng.uniform(0.3, 1, 2)), rng.uniform(0, 1.2), rng.uniform(0, 2 * np.pi)]
        low = [-1, -1, -np.inf, np.log(0.1), np.log(0.1), 0, -np.inf]
        fitted = least_squares(residual, first, bounds=(low, [1, 1, np.inf, np.log(4), np.log(4), 2, np.inf]), max_nfev=60)
        best = min(best, 2 * fitted.cost)
    return 1 - best


def first_filters(model: str, weights: str | None) -> np.ndarray:
    """Return the filters (K,C,h,w) of a network's first convolution. Raises UserError where the weights do not fit."""
    given = "null" if weights is None else weights
    config = compose_jobs([f"model={model}", f"model.weights={given}", "model.layer=''"])[0].config.model
    module = eval_copy(zoo.build(config)[0])
    first = next(iter(convolutions(module, zoo.images_for(module, config, zoo.input_size(config))).values()))
    found: np.ndarray = first.weight.detach().double().cpu().numpy()
    return found


def measure(trained: np.ndarray, untrained: np.ndarray, starts: int, seed: int) -> pd.DataFrame:
    """Return R^2 of each filter (K,C,h,h) of the network, of the same with shuffled positions, and of the untrained network."""
    rng = np.random.default_rng(seed)
    flat = trained.reshape(*trained.shape[:2], -1)
    shuffled = np.stack([one[:, rng.permutation(flat.shape[2])] for one in flat]).reshape(trained.shape)
    kinds = dict(zip(KINDS, (trained, shuffled, untrained), strict=True))
    rows = [
        {"filter": k, "filters": kind, "r2": explained(one, starts, rng)}
        for kind, filters in kinds.items()
        for k, one in enumerate(filters)
        if np.abs(one).max() > 1e-3 * np.abs(filters).max()
    ]
    return pd.DataFrame(rows)


def main(
    weights: Annotated[str, typer.Argument(help="Weights file of the network.")],
    model: Annotated[str, typer.Option(help="A model whose first convolution has square filters.")] = "squeezenet1_0",
    out: Annotated[Path, typer.Option(help="Folder for gabor.csv.")] = Path("results"),
    starts: Annotated[int, typer.Option(min=1, help="Starts of each fit; the best one counts.")] = 6,
    seed: Annotated[int, typer.Option(help="Seed of starts and shuffled positions.")] = 0,
    filters: Annotated[int | None, typer.Option(min=1, help="Only the first so many filters.")] = None,
) -> None:
    """Write gabor.csv, and print the median of R^2 with its 95 % interval over filters."""
    table = measure(first_filters(model, weights)[:filters], first_filters(model, None)[:filters], starts, seed)
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "gabor.csv", index=False, float_format="%.4f")
    for kind in KINDS:
        values = table[table.filters == kind].r2.to_numpy()
        interval = medians(values[None])
        typer.echo(f"{kind}: median R^2 {interval.value[0]:.3f} [{interval.low[0]:.3f}, {interval.high[0]:.3f}], n = {len(values)}")


if __name__ == "__main__":
    run_script(main)
