"""The paper's table in LaTeX: methods as rows, the six metrics as columns, intervals beneath; booktabs.

It is as wide as the text of a one-column page; on a two-column page, `table*` makes it span both columns.
"""

import math
import re
from collections.abc import Sequence

import pandas as pd

from evalkit.analysis.evaluated import Evaluated
from evalkit.analysis.load import at_point
from evalkit.analysis.metrics import lower_is_better
from evalkit.analysis.summary import PAPER_METRICS, scores_in
from evalkit.output.tables import (
    LABELS,
    UNDEFINED,
    caption,
    describe_point,
    main_points,
    published_label,
    published_note,
    signs,
    title,
    undefined,
)
from evalkit.point import Point

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", '"': "''",
}  # fmt: skip


def latex(evaluated: Sequence[Evaluated]) -> str:
    """Return one table for each run and main point. The caption counts the images; other facts of the run follow as comments."""
    tables = [_table(one, point) for one in evaluated for point in main_points(one.run)]
    return "\n\n".join(["% needs \\usepackage{booktabs}", *tables]) + "\n"


def _table(evaluated: Evaluated, point: Point) -> str:
    run, summary = evaluated.run, at_point(evaluated.summary, point).set_index(["method", "metric", "score"])
    available = {(metric, score) for _, metric, score in summary.index}
    scores = list(scores_in(run))
    columns = [
        (metric, score) for metric in PAPER_METRICS for score in scores if (metric, score) in available
    ]  # one method alone has no win
    metrics = list(dict.fromkeys(metric for metric, _ in columns))
    notes, name = caption(run), re.sub(r"^Table \d: ", "", title(run))  # LaTeX adds its own number
    end = next((i for i, line in enumerate(notes) if line.startswith("Excluded")), len(notes) - 1) + 1
    shown = [published_note(run), *undefined(run), *([signs(run)] if run.raw else [])]
    counted = " ".join([*notes[:end], *(line for line in notes[end:] if line in shown)])
    span = f"{{{len(scores)}}}{{c}}"
    arrow = {metric: r"$\downarrow$" if lower_is_better(metric, point.select) else r"$\uparrow$" for metric in metrics}
    lines = [
        r"\begin{table*}", r"\centering", *_cautions(evaluated), r"\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{escaped(f'{name}; {describe_point(point)}. {counted}')}}}", r"\smallskip",
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\toprule",
        " & ".join(["", *(rf"\multicolumn{span}{{{escaped(LABELS[metric])} {arrow[metric]}}}" for metric in metrics)]) + r" \\",
        " ".join(rf"\cmidrule(lr){{{len(scores) * i + 2}-{len(scores) * (i + 1) + 1}}}" for i in range(len(metrics))),
        " & ".join(["", *(score.replace("confidence", "conf.").replace("activation", "act.") for _, score in columns)]) + r" \\",
        r"\midrule",
        *(line for method in run.methods for line in _lines(summary, method, columns, published_label(run, point))),
        r"\bottomrule", r"\end{tabular}", r"\end{table*}",
    ]  # fmt: skip
    return "\n".join([*lines, *(f"% {line}" for line in notes[end:])])


def _cautions(evaluated: Evaluated) -> list[str]:
    """Return the lines above the caption, in bold, as wide as the table."""
    return [rf"\parbox{{\linewidth}}{{\raggedright\bfseries {escaped(one)}}}\par\smallskip" for one in evaluated.cautions]


def _lines(summary: pd.DataFrame, method: str, columns: Sequence[tuple[str, str]], source: str) -> list[str]:
    """Return the lines of one method: values, intervals and, if there are any, published values with their source."""
    rows = [summary.loc[(method, *column)] for column in columns]
    values = [escaped(method), *(f"{row.value:.2f}" if math.isfinite(row.value) else UNDEFINED for row in rows)]
    bounds = [rf"\fontsize{{6}}{{7}}\selectfont [{row.low:.1f}, {row.high:.1f}]" if math.isfinite(row.low) else "" for row in rows]
    lines = [" & ".join(values) + r" \\", " & ".join(["", *bounds]) + r" \\"]
    if any(math.isfinite(row.reference) for row in rows):
        references = [rf"\itshape {row.reference:.2f}" if math.isfinite(row.reference) else "" for row in rows]
        lines.append(" & ".join([rf"\quad\itshape {source}", *references]) + r" \\")
    return [*lines[:-1], lines[-1] + "[2pt]"]


def escaped(text: str) -> str:
    """Escape text for LaTeX; characters that its usual fonts lack become `?`."""
    return "".join(_SPECIAL.get(letter, letter if letter.isascii() or letter in "äöüßéèáàçñ" else "?") for letter in text)
