"""The plan of a study on the terminal: images that each comparison needs."""

import math

import pandas as pd
from rich.console import Console
from rich.table import Table

from evalkit.analysis.load import CONTROLS, Run, at_point
from evalkit.analysis.plan import SIZES
from evalkit.analysis.significance import Correction
from evalkit.analysis.summary import main_score
from evalkit.output.tables import LABELS, MANY, describe_point, main_points, title

WIDTHS = (12, 10, 6, 22, 7, 7, 8)
"""Letters of the columns, the same for each pair; 80 in all with the gaps."""
CORRECTED = {
    "holm": "corrected for the {m} comparisons of the run: each at {each:.2g}, Bonferroni's level, the lowest of Holm's",
    "bh": "by Benjamini and Hochberg for the {m} comparisons of the run: each at {each:.2g}, as if no more were found than in the pilot",
    "none": "uncorrected, though the run has {m} comparisons",
}


def print_plan(console: Console, run: Run, table: pd.DataFrame, power: float, level: float, correct: Correction) -> None:
    """Print the plan at the main points for the main score: pairs of all methods, or of the first where there are more than MANY."""
    family = CORRECTED[correct].format(m=int(table.p.notna().sum()), each=table.level.iloc[0])
    shown = table[table.score == main_score(run)]
    if len(run.methods) > MANY:
        shown = shown[(shown["first"] == run.methods[0]) & (~shown.second.isin(CONTROLS) | (shown.second == "centre"))]
    for point in main_points(run):
        console.print(f"\n{title(run)}; {describe_point(point)}, {main_score(run)}", style="bold", markup=False, highlight=False)
        _print_table(console, at_point(shown, point), power)
    lines = [
        f"Images for a power of {100 * power:g} % at a level of {100 * level:g} %, {family}.",
        f"From {run.counts()['scored']} images of the pilot.",
        "In brackets: if the true difference is at the farther or nearer end of the pilot's 95 % interval. 'more than N': the pilot cannot "
        "tell the difference from zero, so it gives no number; N would suffice at the farther end.",
        "± N: half the 95 % interval of N images, uncorrected. sd: of the difference between images, in percent. plan.csv has every pair, "
        "protocol point and score.",
        times(run),
    ]
    console.print("\n".join(lines), markup=False, highlight=False)


def _print_table(console: Console, rows: pd.DataFrame, power: float) -> None:
    """Print each pair's name, which may be long, on a line above its values."""
    names = ("", "difference", "sd", f"images for {100 * power:g} %", *(f"± {size:,}" for size in SIZES))
    for i, ((first, second), of_pair) in enumerate(rows.groupby(["first", "second"], sort=False)):
        pair = f"{first} - {second}"
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=i == 0)
        for name, width in zip(names, WIDTHS, strict=True):
            table.add_column(name, justify="right" if name else "left", min_width=width)
        console.print(pair, style="bold", markup=False, highlight=False)
        for row in of_pair.to_dict("records"):
            half = (f"{row[f'half_width_{size}']:.2f}" for size in SIZES)
            known = math.isfinite(row["difference"])
            values = (f"{row['difference']:+.2f}", f"{row['sd']:.1f}", images(row), *half) if known else ("undefined",)
            table.add_row(LABELS[row["metric"]].removesuffix(" %"), *values)
        console.print(table)


def images(row: dict[str, float]) -> str:
    """Return the images that a comparison needs, with those at the ends of the difference's interval: `1,240 [600, 4,100]`."""
    if row["sd"] == 0 and row["difference"] == 0:
        return "never differ"
    if not math.isfinite(row["images_high"]):
        return f"more than {row['images_low']:,.0f}" if math.isfinite(row["images_low"]) else "undefined"
    return f"{row['images']:,.0f} [{row['images_low']:,.0f}, {row['images_high']:,.0f}]"


def times(run: Run) -> str:
    """Return how long runs of SIZES images take at the pilot's speed, and what that assumes."""
    rate = run.counts()["images_per_second"]
    if not math.isfinite(rate):
        return "The pilot's shards record no time, so none is given."
    took = ", ".join(f"{size:,} images {_duration(size / rate)}" for size in SIZES)
    return (
        f"At the pilot's {rate:.3g} images/s of one worker, with these methods and protocol points: {took}. So many times less with "
        "several workers, if each has a device or cores of its own."
    )


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
