"""Simulate how often intervals cover and tests reject a true null, on few images: evalkit's, and those of the plain percentile bootstrap.

    python experiments/correctness/small_samples.py --differences FILE --out results

FILE holds paired differences of a run, in points, one on a line; without it a seeded heavy-tailed generator with 28 % zeros stands in.
Writes small_samples.csv. Some ten minutes on one core.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray

from evalkit.analysis.significance import sign_flip
from evalkit.analysis.stats import LEVEL, bootstrap
from evalkit.cli.script import run_script

Array = NDArray[np.float64]
Generator = np.random.Generator
Draw = Callable[[Generator, int, int], tuple[Array, Array]]
"""Draws trials x images of the numerator and the denominator of a ratio of sums; the denominator is 1 for means."""

COUNTS = (30, 60, 200, 1000)
ZEROS = 0.28
BATCH = 2000
RATIO = 15.0
"""100 times the mean share, 0.6 times 0.25, which does not depend on the denominator."""


def stand_in(count: int = 642, seed: int = 0) -> Array:
    """Return differences (count,) in points: 28 % zeros, the others log-normal over six orders of magnitude and clipped at 100."""
    rng = np.random.default_rng(seed)
    sizes = np.minimum(100, rng.lognormal(0.5, 2.5, count))
    return np.where(rng.random(count) < ZEROS, 0, sizes * rng.choice([-1.0, 1.0], count))


def cases(differences: Array) -> dict[str, tuple[Draw, float]]:
    """Return each kind of value by name, with its true mean, or its true ratio."""
    sizes = np.abs(differences)

    def means(draw: Callable[[Generator, tuple[int, int]], Array]) -> Draw:
        return lambda rng, trials, n: (draw(rng, (trials, n)), np.ones((trials, n)))

    def ratio(rng: Generator, trials: int, n: int) -> tuple[Array, Array]:
        whole = rng.lognormal(1, 0.8, (trials, n))
        return 100 * whole * np.where(rng.random((trials, n)) < 0.4, 0, rng.beta(0.5, 1.5, (trials, n))), whole

    found = {
        "differences, random signs": (means(lambda rng, shape: rng.choice(differences, shape) * rng.choice([-1.0, 1.0], shape)), 0.0),
        "differences, their own mean": (means(lambda rng, shape: rng.choice(differences, shape)), float(differences.mean())),
        "skewed: sizes of differences": (means(lambda rng, shape: rng.choice(sizes, shape)), float(sizes.mean())),
        "skewed: drops, 40 % zero": (means(lambda rng, shape: np.where(rng.random(shape) < 0.4, 0, 100 * rng.beta(0.4, 2, shape))), 10.0),
        "paired outcomes, equal": (means(lambda rng, shape: 100 * rng.choice([-1.0, 0.0, 1.0], shape, p=[0.2, 0.6, 0.2])), 0.0),
        "paired outcomes, 10 and 5 %": (means(lambda rng, shape: 100 * rng.choice([-1.0, 0.0, 1.0], shape, p=[0.05, 0.85, 0.1])), 5.0),
        "ratio of sums": (ratio, RATIO),
    }
    for percent in (10, 30):
        found[f"outcomes, {percent} %"] = (means(lambda rng, shape, p=percent: 100.0 * (rng.random(shape) < p / 100)), float(percent))  # type: ignore[misc]
    return found


def simulate(draw: Draw, truth: float, n: int, trials: int, seed: int = 1) -> dict[str, float]:
    """Return coverage, median width and rejection rates in percent, from trials of n images."""
    rng = np.random.default_rng(seed)
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    parts = []
    for done in range(0, trials, BATCH):
        above, below = draw(rng, min(BATCH, trials - done), n)
        ours = bootstrap({"ratio": (above, below)})["ratio"]
        low, high = np.quantile(ours.resampled, tails, axis=1)
        centred = above - truth * below
        resampled = ours.resampled - truth
        smaller = np.minimum((resampled <= 0).mean(1), (resampled >= 0).mean(1))
        parts.append(
            pd.DataFrame(
                {
                    "covers": (ours.low - 1e-9 <= truth) & (truth <= ours.high + 1e-9),
                    "percentiles_cover": (low - 1e-9 <= truth) & (truth <= high + 1e-9),
                    "width": ours.high - ours.low,
                    "percentiles_width": high - low,
                    "sign_flip_rejects": sign_flip(centred) < 1 - LEVEL,
                    "bootstrap_rejects": 2 * smaller < 1 - LEVEL,
                }
            )
        )
    table = pd.concat(parts)
    widths = ["width", "percentiles_width"]
    return {**(100 * table.drop(columns=widths).mean()).to_dict(), **table[widths].median().to_dict()}


def main(
    differences: Annotated[Path | None, typer.Option(help="A file of differences; default the stand-in.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for small_samples.csv.")] = Path("results"),
    trials: Annotated[int, typer.Option(min=1, help="Trials of each kind and number of images.")] = 2000,
) -> None:
    """Simulate every kind of value, and write the table."""
    known = {"stand-in": stand_in()} | ({} if differences is None else {"of a run": np.loadtxt(differences)})
    rows = []
    for source, values in known.items():
        for name, (draw, truth) in cases(values).items():
            if source == "stand-in" or "differences" in name:
                for n in COUNTS:
                    rows.append({"source": source, "values": name, "n": n, "trials": trials, **simulate(draw, truth, n, trials)})
                    print(pd.DataFrame(rows[-1:]).round(2).to_string(header=len(rows) == 1, index=False), flush=True)
    out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(out / "small_samples.csv", index=False, float_format="%.4g", lineterminator="\n")


if __name__ == "__main__":
    run_script(main)
