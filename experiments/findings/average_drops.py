"""Compute the average drop of one run by each definition that papers and public code use.

    evalkit run experiment=published_protocols
    python experiments/findings/average_drops.py results/published_protocols --out results/average_drops.md

Two minutes on one core. docs/average_drop.md gives the source of each definition and includes the written table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from evalkit.analysis import metrics
from evalkit.analysis.load import Run, load_runs
from evalkit.analysis.summary import scores_of
from evalkit.cli.script import run_script
from evalkit.point import Point

SOFT_BLACK = Point("soft", None, "black")
SOFT_MEAN = Point("soft", None, "mean")
TOP_20 = Point("keep_top", 20.0, "black")
REMOVED = Point("remove_top", 25.0, "black")
Reduce = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A function from Y and O of all methods, (M,n) each, to one number for each method (M,)."""


def relative(full: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """Return the mean of max(0, Y - O) / Y in percent, over the images with Y > 0."""
    return np.asarray(np.nanmean(metrics.relative_drop(full, masked), axis=1))


def signed(full: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """Return the mean of max(0, Y - O) / (Y + 1e-7) in percent for any sign of Y, as torch-cam does."""
    return np.asarray((metrics.clipped_drop(full, masked) / (full + 1e-7)).mean(axis=1) * 100)


def undivided(full: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """Return the mean of max(0, Y - O), as pytorch-grad-cam does."""
    return np.asarray(metrics.clipped_drop(full, masked).mean(axis=1))


def of_those_that_drop(full: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """Return the mean of (Y - O) / Y in percent over the images that drop, as Relevance-CAM does; nan where none drops."""
    relative_drops = metrics.relative_drop(full, masked)
    return np.asarray(np.nanmean(np.where(relative_drops > 0, relative_drops, np.nan), axis=1))


def change(full: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """Return the mean of O - Y: negative where removing pixels lowers the score."""
    return np.asarray((masked - full).mean(axis=1))


@dataclass(frozen=True)
class Definition:
    """One definition of the average drop."""

    name: str
    point: Point
    score: str
    reduce: Reduce
    scale: float = 1

    def of(self, run: Run) -> np.ndarray:
        """Return a value for each of the run's methods, in their order (M,)."""
        full, masked, _ = scores_of(run, self.point, self.score)
        return self.reduce(full, masked) * self.scale


DEFINITIONS = (
    Definition("Ablation-CAM, Tables 1 and 2: top 20 %, black, confidence, %", TOP_20, "confidence", relative),
    Definition("the same, activation, %", TOP_20, "activation", relative),
    Definition("Relevance-CAM's mean: top 20 %, black, confidence, over the images that drop, %", TOP_20, "confidence", of_those_that_drop),
    Definition("Grad-CAM++: soft, black, confidence, %", SOFT_BLACK, "confidence", relative),
    Definition("torch-cam's script, ADCC, ShapleyCAM: soft, mean fill, confidence, %", SOFT_MEAN, "confidence", relative),
    Definition("torch-cam's default: soft, mean fill, logit, divided with its sign, %", SOFT_MEAN, "activation", signed),
    Definition("pytorch-grad-cam, softmax target: soft, mean fill, undivided, points", SOFT_MEAN, "confidence", undivided, 100),
    Definition("pytorch-grad-cam, default target: the same of the logit, its units", SOFT_MEAN, "activation", undivided),
    Definition("Bisen and Bakshi, method 2: top 25 % removed, black, change, points", REMOVED, "confidence", change, 100),
)
"""The definitions; low values are good in all of them."""


def markdown(run: Run) -> str:
    """Return both tables, with the run that they come from."""
    torch = run.provenance["torch"].partition("+")[0]
    parts = [
        f"{len(run.methods)} methods on {run.counts()['scored']} of the embedded digits, network {run.name}; torch {torch}. "
        "In brackets the rank among the methods; low is good in every line.",
        _table(["average drop as defined by", *run.methods], [_line(definition, run) for definition in DEFINITIONS]),
        "### Confidence in float32\n\nThe same scores, each confidence rounded to float32 before it is used, at the top 20 % in black. "
        f"{_certain(run):.1f} % of the images then have a confidence of exactly 1, which nothing can exceed.",
        _table(["", *run.methods], _precision(run)),
    ]
    return "\n\n".join(parts) + "\n"


def _line(definition: Definition, run: Run) -> list[str]:
    values = definition.of(run)
    ranks = np.argsort(np.argsort(values)) + 1
    cells = ("none drops" if np.isnan(value) else f"{value:.2f} ({rank})" for value, rank in zip(values, ranks, strict=True))
    return [definition.name, *cells]


def _certain(run: Run) -> float:
    full = scores_of(run, TOP_20, "confidence").full[0]
    return float((full.astype(np.float32) == 1).mean() * 100)


def _precision(run: Run) -> list[list[str]]:
    """Return the increase of each method, and win: the first two methods against each other, all others against the first."""
    lines = []
    for name, kind in (("float64", np.float64), ("float32", np.float32)):
        full, masked = (scores.astype(kind).astype(np.float64) for scores in scores_of(run, TOP_20, "confidence")[:2])
        drops = metrics.clipped_drop(full, masked)
        rivals = drops[[1, *[0] * (len(drops) - 1)]]
        for metric, values in (("increase %", metrics.increased(full, masked)), ("win %", metrics.wins(drops, rivals))):
            lines.append([f"{metric}, {name}", *(f"{value:.2f}" for value in values.mean(axis=1))])
    return sorted(lines)


def _table(header: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---", *["---:"] * (len(header) - 1)], *lines])


def main(
    run: Annotated[str, typer.Argument(help="Run folder of experiment=published_protocols.")],
    out: Annotated[Path, typer.Option(help="Markdown file.")],
) -> None:
    """Write the report of a run."""
    out.write_text(markdown(load_runs([run])[0]), encoding="utf-8")


if __name__ == "__main__":
    run_script(main)
