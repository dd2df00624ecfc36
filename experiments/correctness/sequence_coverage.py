"""How often the confidence sequence of `until` excludes the truth, and how many images it needs, by simulation.

    python experiments/correctness/sequence_coverage.py null_differences.txt --out results

The file holds paired differences in average drop of a real run, in points, one a line. A null is made of them by random signs, an effect
by adding a constant. Each sequence is looked at after every image. Beside it stands what is often done instead: a 95 % interval of the
mean (1.96 standard errors) at each look from image 30 on. Two minutes on one core.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from evalkit.cli.script import run_script
from evalkit.sequence import settled
from evalkit.until import BOUND

LOOKS = 5_000
EFFECTS = (1.0, 2.0, 4.0, 8.0)
MOST = 50_000
"""Images of ImageNet val, where a run that did not settle would end."""


def drawn(differences: NDArray[np.float64], n: int, effect: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return n differences with random signs, moved by the effect and kept within the bounds."""
    return (rng.choice(differences, n) * rng.choice([-1.0, 1.0], n) + effect).clip(-BOUND, BOUND)


def naive_left(values: NDArray[np.float64]) -> bool:
    """Return whether the naive interval excludes 0 at any look from image 30 on."""
    n = np.arange(1, len(values) + 1)
    mean = np.cumsum(values) / n
    variance = np.maximum(np.cumsum(values**2) / n - mean**2, 0)
    return bool((np.abs(mean) > 1.96 * np.sqrt(variance / n))[29:].any())


def first_settled(values: NDArray[np.float64]) -> float:
    """Return after how many images the sequence settles; infinite where it does not."""
    if not settled(values, BOUND):
        return np.inf
    low, high = 0, len(values)
    while high - low > 1:  # once settled it stays so
        middle = (low + high) // 2
        low, high = (low, middle) if settled(values[:middle], BOUND) else (middle, high)
    return high


def main(
    file: Annotated[Path, typer.Argument(help="Differences in points, one a line.")],
    out: Annotated[Path, typer.Option(help="Folder of the table.")] = Path("results"),
    trials: Annotated[int, typer.Option(min=1, help="Sequences without an effect.")] = 1_000,
    repeats: Annotated[int, typer.Option(min=1, help="Sequences for each effect.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
) -> None:
    """Simulate, and write sequence_coverage.csv."""
    differences, rng = np.loadtxt(file), np.random.default_rng(seed)
    null = [drawn(differences, LOOKS, 0.0, rng) for _ in range(trials)]
    excluded = {"sequence": sum(settled(values, BOUND) for values in null), "naive": sum(map(naive_left, null))}
    rows: list[dict[str, float | str]] = []
    for name, number in excluded.items():
        interval = binomtest(number, trials).proportion_ci()
        row = {"quantity": f"excluded the truth: {name}", "effect": 0.0, "n": trials}
        rows.append({**row, "value": number / trials, "low": interval.low, "high": interval.high})
    for effect in EFFECTS:
        needed = [first_settled(drawn(differences, MOST, effect, rng)) for _ in range(repeats)]
        moved = drawn(differences, 200_000, effect, rng)
        fixed = ((norm.ppf(0.975) + norm.ppf(0.8)) * moved.std() / moved.mean()) ** 2
        median, most = np.quantile(needed, [0.5, 0.8], method="inverted_cdf")
        for name, value in (("median images", median), ("images in 80 % of runs", most), ("fixed n for 80 % power", fixed)):
            rows.append({"quantity": name, "effect": effect, "n": repeats, "value": value})
        rows.append({"quantity": "ratio at 80 %", "effect": effect, "n": repeats, "value": most / fixed})
    table = pd.DataFrame(rows)
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "sequence_coverage.csv", index=False, float_format="%.6g")
    typer.echo(table.to_string(index=False))


if __name__ == "__main__":
    run_script(main)
