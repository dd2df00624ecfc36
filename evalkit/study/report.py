"""The scores of a study as terminal table, Markdown and CSV."""

import math
from pathlib import Path

import pandas as pd
from rich.console import Console

from evalkit.errors import printable
from evalkit.files import publish, writable_folder
from evalkit.output.fitted import fitted
from evalkit.output.markdown import inert, pipes
from evalkit.output.tables import interval
from evalkit.study.records import Design, Key
from evalkit.study.score import LEVELS, PUBLISHED, SOURCE, Scores

FILES = ("scores.csv", "scores.md")
MEANING: dict[Design, str] = {
    "better": "A score is a share of the answers to an image, summed over images: at most {n:.0f} here, 250 in the paper.",
    "trust": "Ratings run from -2 (the first model's map is clearly less reliable) over 0 (equally) to 2 (clearly more).",
    "which": "“Both” counts as wrong. Where boxes are known, they answer too: do those of the explained category hold more of a map's "
    "positive values than the other's? A map that is blind to the class is right about one of the two, so "
    "chance is 50 %, or more where boxes overlap.",
}


def write(found: Scores, out: Path) -> None:
    """Write scores.csv and scores.md. Raises UserError if the folder cannot be written."""
    writable_folder(out, "--out")
    counts = {f"Krippendorff's alpha, {LEVELS[found.key.design]}": found.alpha, "raters": found.raters, "answers": found.answers}
    rows = [{"quantity": name, "value": value} for name, value in {**counts, "skipped": found.skipped}.items()]
    table = pd.concat([found.table, pd.DataFrame(rows)])
    publish(out / FILES[0], table.to_csv(index=False, float_format="%.6g").encode())
    lines = "\n".join(f"- {line}" for line in sentences(found))
    text = f"# {title(found.key)}\n\n{pipes(cells(found))}\n\n{lines}\n"
    publish(out / FILES[1], inert(text).encode())


def print_scores(console: Console, found: Scores) -> None:
    """Print the table and the sentences that explain it."""
    console.print(title(found.key), style="bold", markup=False, highlight=False)
    header, *lines = cells(found)
    once = [["" if line[0] == before[0] else line[0], *line[1:]] for before, line in zip([[""], *lines], lines, strict=False)]
    console.print(fitted(console, [header, *once], most=14, left=len(header), padding=0, pad_edge=True))
    console.print("\n".join(sentences(found)), markup=False, highlight=False)


def title(key: Key) -> str:
    """Return the question of the design, and what was compared."""
    models = " and ".join(dict.fromkeys(run.model for run in key.runs))
    compared = " and ".join(key.contestants)
    titles = {
        "better": f"Which map shows it better? {compared} of {models}",
        "trust": f"Which model is more reliable? {key.method} of {compared}",
        "which": f"Which category is it? {compared} of {models}",
    }
    return printable(titles[key.design])


def cells(found: Scores) -> list[list[str]]:
    """Return a header, then a line for each quantity of each contestant."""
    lines = [["quantity", "of", "value [95 %]", "p", "n", "published"]]
    for row in found.table.itertuples():
        p = "" if math.isnan(row.p) else "< 0.001" if row.p < 0.001 else f"{row.p:.3f}"
        published = "" if math.isnan(row.published) else f"{row.published:.2f}"
        lines.append([row.quantity, printable(row.of), interval(row.value, row.low, row.high), p, str(row.n), published])
    return lines


def sentences(found: Scores) -> list[str]:
    """Return sentences on the number of answers, the meaning of the scores and the agreement between raters."""
    key = found.key
    alpha = f"undefined, since {found.undefined}" if found.undefined else f"{found.alpha:.3f}"
    images = len({item.index for item in key.items.values()})
    total = found.raters * len(key.items)
    return [
        f"{found.raters} rater{'s' * (found.raters != 1)}, {len(key.items)} items of {images} images: {found.answers} of {total} answers, "
        f"{found.skipped} skipped.",
        MEANING[key.design].format(n=found.table.n.iloc[0]),
        f"Agreement between raters (Krippendorff's alpha, {LEVELS[key.design]}): {alpha}.",
        "Intervals are 95 % bootstrap intervals over images, for these raters; differences are paired, p is two-sided.",
        f"Published: {SOURCE}, {PUBLISHED[key.design][0]}.",
    ]
