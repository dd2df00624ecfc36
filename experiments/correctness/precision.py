"""Measure how a faster way of computing or decoding shifts every metric, image by image, compared with a reference run.

    evalkit run ... out=a;  evalkit run ... precision=bf16 out=b;  evalkit run ... decode=gpu out=c
    python experiments/correctness/precision.py a b c --out results/precision.md

All runs must hold the same images, methods and protocol points; each further run is compared with the first.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from evalkit.analysis import metrics
from evalkit.analysis.load import Run, load_runs
from evalkit.analysis.stats import bootstrap
from evalkit.analysis.summary import SCORES, rival, scores_of
from evalkit.cli.script import run_script
from evalkit.point import Point


def per_image(run: Run, point: Point, score: str) -> dict[tuple[str, str], np.ndarray]:
    """Return (method, metric) -> the values (n,) whose mean the tables print."""
    values, scores = {}, scores_of(run, point, score)
    clipped = dict(zip(run.methods, metrics.clipped_drop(scores.full, scores.masked), strict=True))
    for method, full, masked in zip(run.methods, scores.full, scores.masked, strict=True):
        values[method, "average drop"] = metrics.relative_drop(full, masked)
        values[method, "increase"] = metrics.increased(full, masked)
        other = rival(run.methods, method)
        if other is not None:
            values[method, "win"] = metrics.wins(clipped[method], clipped[other])
    return values


def shifts(reference: Run, other: Run) -> pd.DataFrame:
    """Return a table by method, point, score and metric: values of both runs, mean shift (other minus reference), its 95 % interval."""
    rows = []
    for point in reference.points:
        for score in SCORES:
            before, after = per_image(reference, point, score), per_image(other, point, score)
            for (method, metric), values in before.items():
                moved = bootstrap({"shift": (after[method, metric] - values)[None]})["shift"]
                rows.append(
                    {
                        "method": method,
                        "point": " ".join(str(part) for part in point),
                        "score": score,
                        "metric": metric,
                        "reference": np.nanmean(values),
                        "other": np.nanmean(after[method, metric]),
                        "shift": moved.value[0],
                        "low": moved.low[0],
                        "high": moved.high[0],
                    }
                )
    return pd.DataFrame(rows)


def way(run: Run) -> str:
    """Return in words how a run computed."""
    identity = run.provenance["identity"]
    device = run.shards[0]["device"]
    return f"{identity['precision']}{' on nvJPEG' * (identity['decode'] == 'gpu')}{f' on {device}' * (device != 'cpu')}"


def main(
    runs: Annotated[list[Path], typer.Argument(help="The reference, then the others.")],
    out: Annotated[Path | None, typer.Option(help="The table, as markdown.")] = None,
) -> None:
    """Print the shifts of all runs compared with the first."""
    loaded = [load_runs([run])[0] for run in runs]
    reference = loaded[0]
    lines = []
    for name, other in zip(runs[1:], loaded[1:], strict=True):
        table = shifts(reference, other)
        settings = [way(run) for run in (reference, other)]
        wrong = [(run.scored.predicted != run.scored.label).groupby(run.scored["index"]).first() for run in (reference, other)]
        flipped = int((wrong[0] != wrong[1]).sum())
        widest = table.loc[table["shift"].abs().idxmax()]
        lines += [
            f"## {reference.name}, {settings[0]} against {settings[1]} ({name.name}), {reference.counts()['scored']} images\n",
            f"Largest shift {widest['shift']:+.2f} ({widest.method}, {widest.metric}, {widest.score}); "
            f"{flipped} images change between right and wrong.\n",
            f"| method | point | score | metric | {settings[0]} | {settings[1]} | shift [95 %] |",
            "|---|---|---|---|---|---|---|",
            *(
                f"| {r.method} | {r.point} | {r.score} | {r.metric} | {r.reference:.2f} | {r.other:.2f} "
                f"| {r.shift:+.2f} [{r.low:+.2f}, {r.high:+.2f}] |"
                for r in table.itertuples()
            ),
            "",
        ]
    print("\n".join(lines))
    if out is not None:
        out.write_text("# Precision\n\n" + "\n".join(lines))


if __name__ == "__main__":
    run_script(main)
