"""The plan of a study on the terminal: images that the comparisons need."""

import math
from collections.abc import Iterator

import pandas as pd
from rich.console import Console

from evalkit.analysis.load import CONTROLS, Run, at_point
from evalkit.analysis.plan import SIZES
from evalkit.analysis.significance import Correction
from evalkit.analysis.summary import compared_points, main_score
from evalkit.output.fitted import fitted
from evalkit.output.tables import LABELS, MANY, describe_point, main_points, title

MOST_PAIRS = 15
"""Largest number of pairs on the terminal."""
CORRECTED = {
    "holm": "corrected for the {m:,} comparisons of the run: each at {each:.2g}, Bonferroni's level, the lowest of Holm's",
    "bh": "by Benjamini and Hochberg for the {m:,} comparisons of the run: each at {each:.2g}, as if no more were found than in the pilot",
    "none": "uncorrected, though the run has {m:,} comparisons",
}
FAMILY = (
    "Comparisons are those of comparisons.csv: every pair, protocol point, score and metric of the tables. evalkit verdict corrects for a "
    "family of its own, which also has areas, SRG and single deletion where the run has them, and takes a few more images."
)


def print_plan(console: Console, run: Run, table: pd.DataFrame, power: float, level: float, correct: Correction) -> None:
    """Print how many comparisons are settled by how many images, then each pair, then average drops at the first of the main points."""
    points = [point for point in main_points(run) if point.depends_on_map] or compared_points(run)
    pairs = list(table[["first", "second"]].drop_duplicates().itertuples(index=False, name=None))
    if len(run.methods) > MANY:
        pairs = [pair for pair in pairs if pair[0] == run.methods[0] and (pair[1] not in CONTROLS or pair[1] == "centre")]
    shown = pairs[:MOST_PAIRS]
    _print(console, f"\n{title(run)}; a plan from {run.counts()['scored']} images", style="bold")
    family = CORRECTED[correct].format(m=int(table.p.notna().sum()), each=table.level.iloc[0])
    _print(console, f"Images for a power of {100 * power:g} % at a level of {100 * level:g} %, {family}. {FAMILY}")
    for line in (*summary(table), *stopped(run), times(run)):
        _print(console, line)
    header = ["comparisons settled by", *(f"{size:,}" for size in SIZES), "more", "not told", "never differ", "of"]
    _print(
        console, "\nEach pair, over all protocol points, scores and metrics; 'not told': the pilot cannot tell the difference from zero."
    )
    console.print(fitted(console, [header, *(_counts(" - ".join(pair), _of_pair(table, pair)) for pair in shown)]))
    score = main_score(run)
    _print(console, f"Average drop in {score} at {describe_point(points[0])}:", style="bold")
    _print(
        console,
        "In brackets: images if the true difference is at the farther or nearer end of the pilot's 95 % interval. 'more than N': the pilot "
        "cannot tell the difference from zero, so it gives no number; N would suffice at the farther end. ± N: half the 95 % interval of N "
        "images, uncorrected. sd: of the difference between images, in percent.",
    )
    main = at_point(table[(table.score == score) & (table.metric == "average_drop")], points[0])
    header = ["pair", "difference", "sd", f"images for {100 * power:g} %", *(f"± {size:,}" for size in SIZES)]
    console.print(fitted(console, [header, *(_needs(" - ".join(pair), _of_pair(main, pair)) for pair in shown)]))
    left = f"{len(pairs) - len(shown)} more pairs, and " if len(pairs) > len(shown) else ""
    _print(console, f"plan.csv has {left}these columns for all {len(table):,} comparisons.")


def _print(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, markup=False, highlight=False)


def _of_pair(table: pd.DataFrame, pair: tuple[str, str]) -> pd.DataFrame:
    return table[(table["first"] == pair[0]) & (table.second == pair[1])]


def kinds(table: pd.DataFrame) -> tuple[pd.DataFrame, int, int]:
    """Return the comparisons whose difference the pilot tells from zero, the number of others, and of those that never differ."""
    never = (table.sd == 0) & (table.difference == 0)
    told = ~never & table.images_high.map(math.isfinite)
    return table[told], int((~never & ~told).sum()), int(never.sum())


def summary(table: pd.DataFrame) -> Iterator[str]:
    """Yield sentences: how many comparisons are settled by SIZES images, which needs most, and what the pilot says nothing about."""
    told, unknown, never = kinds(table)
    settled = ", ".join(f"{(told.images <= size).sum():,} by {size:,}" for size in SIZES)
    yield f"Of {len(table):,} comparisons the pilot tells {len(told):,} from zero; of these are settled: {settled} images."
    if len(told):
        most = told.loc[told.images.idxmax()]
        where = f"{LABELS[most.metric].removesuffix(' %').lower()} in {most.score}"
        pair = f"{most['first']} - {most.second}"
        yield f"The hardest of them needs {most.images:,.0f} images: {pair}, {where}, a difference of {most.difference:+.2f}."
    yield f"{unknown:,} others cannot be told from zero, so no number is known for them; {never:,} never differ, and need no images."


def stopped(run: Run) -> Iterator[str]:
    """Yield a warning for a pilot that `until` has stopped."""
    end = run.provenance.get("end") or {}
    if end.get("settled"):
        yield (
            f"Caution: until stopped this pilot as soon as {end['first']} - {end['second']} was settled, which happens earlier where the "
            "difference is large by chance: it is overestimated, and the images for it are too few. Plan from a run without until."
        )


def _counts(pair: str, table: pd.DataFrame) -> list[str]:
    told, unknown, never = kinds(table)
    by = [int((told.images <= size).sum()) for size in SIZES]
    return [pair, *(f"{count:,}" for count in (*by, len(told) - by[-1], unknown, never, len(table)))]


def _needs(pair: str, rows: pd.DataFrame) -> list[str]:
    row = rows.iloc[0].to_dict()
    if not math.isfinite(row["difference"]):
        return [pair, "undefined", "", "", *("" for _ in SIZES)]
    half = (f"{row[f'half_width_{size}']:.2f}" for size in SIZES)
    return [pair, f"{row['difference']:+.2f}", f"{row['sd']:.1f}", images(row), *half]


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
