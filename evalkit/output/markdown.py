"""Tables in Markdown, for tables.md and other files."""

import math
import re
from collections.abc import Sequence

from evalkit.analysis.evaluated import Evaluated
from evalkit.analysis.summary import scores_in, win_matrix
from evalkit.output import map_tables
from evalkit.output.tables import caption, cells, comparison_table, describe_point, paired, title


def markdown(evaluated: Sequence[Evaluated]) -> str:
    """Return all protocol points of all runs, with win matrices, paired tests and the measures of the maps."""
    parts = []
    for one in evaluated:
        run = one.run
        parts += [f"## {title(run)}", *(f"> **{caution}**" for caution in one.cautions)]
        parts.append("\n".join(f"- {line}" for line in caption(run)))
        protocols, measured = map_tables.protocol_cells(one), map_tables.measure_cells(one)
        if protocols:
            parts.append(f"### {map_tables.same_maps(run)}\n\n" + pipes(protocols))
        if measured:
            parts.append(f"### Maps\n\n{map_tables.notes(run)}\n\n" + pipes(measured))
        for point in run.points:
            parts.append(f"### {describe_point(point)}\n\n" + pipes(cells(one, point)))
            tests = comparison_table(one, point)
            if tests:
                parts.append(f"{paired(one)}:\n\n" + pipes(tests))
            if len(run.methods) > 2:
                for score in scores_in(run):
                    shares = win_matrix(run, point, score)
                    lines = [["row beats column", *run.methods]]
                    lines += [[method, *("" if math.isnan(v) else f"{v:.2f}" for v in shares.loc[method])] for method in run.methods]
                    parts.append(f"Win % in {score}:\n\n" + pipes(lines))
    return inert("\n\n".join(parts)) + "\n"


def inert(text: str) -> str:
    """Escape Markdown so that names from a run folder form no tags, links or images; other text of the tables has none."""
    return re.sub(r"<(?=[A-Za-z/!?])|(?<=\])\(", r"\\\g<0>", text)


def pipes(lines: list[list[str]]) -> str:
    """Return a Markdown table of a header and lines, the first column aligned left, all others right."""
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    rule = ["---", *("---:" for _ in lines[0][1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in [escaped[0], rule, *escaped[1:]])
