"""The audit of protocol points and metrics in words: a page (Markdown), lines for the terminal, and audit.csv."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import pandas as pd

from evalkit.analysis.audit import FAILS, NO_VERDICT, PASSES
from evalkit.output.audit_tables import INTERVALS, METHOD, Audited, headline, parts, verdict_cells
from evalkit.output.audit_words import label, place, sentence, undecided
from evalkit.output.markdown import inert, pipes
from evalkit.output.tables import title, warnings_of


def write_audit(audited: Sequence[Audited], folder: Path) -> None:
    """Write audit.md and audit.csv, which holds every test; make the folder if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "audit.md").write_text(markdown(audited), encoding="utf-8")
    pd.concat([one.tests for one in audited], ignore_index=True).to_csv(folder / "audit.csv", index=False, float_format="%.6g")


def markdown(audited: Sequence[Audited]) -> str:
    """Return the page: what an audit is and, of each run, verdicts, what fails by how much, what passes, and what has no verdict."""
    blocks = ["# Audit of protocol points and metrics", METHOD, INTERVALS]
    for one in audited:
        blocks += [
            f"## {title(one.run)}",
            *(f"> **{warning}**" for warning in warnings_of(one.run)),
            headline(one),
            pipes(verdict_cells(one)),
        ]
        for part in parts(one):
            listed = "\n".join(f"- **{head}**: {rest}" for head, rest in part.sentences)
            blocks += [f"### {part.heading}", part.paragraph, listed, pipes(part.cells) if part.cells else ""]
    return inert("\n\n".join(block for block in blocks if block)) + "\n"


def terminal_lines(one: Audited) -> list[str]:
    """Return the verdicts of a run for the terminal: the headline, a line for each place, the first failure of each, and blind maps."""
    lines = [title(one.run), *warnings_of(one.run), headline(one)]
    for where, rows in one.verdicts.assign(place=[place(row) for row in one.verdicts.itertuples()]).groupby("place", sort=False):
        failing, passing, open_ = ([*rows[rows.verdict == kind].itertuples()] for kind in (FAILS, PASSES, NO_VERDICT))
        said = [f"FAILS in {len(failing)} of {len(rows)}: {', '.join(map(label, failing))}"] if failing else []
        if passing and not failing:
            said.append(f"passes in all {len(rows)} metrics" if not open_ else f"passes in {len(passing)} of {len(rows)} metrics")
        said += [undecided(open_)] if open_ else []
        lines.append(f"  {where}: {'; '.join(said)}")
        lines += [f"    {': '.join(sentence(failing[0]))}"] if failing else []
    beaten = sorted({(row.control, row.method) for row in one.blind.itertuples() if row.verdict == FAILS})
    lines += [
        f"  {control}, which does not look at the network, beats {', '.join(method for _, method in pairs)} somewhere"
        for control, pairs in groupby(beaten, key=lambda pair: pair[0])
    ]
    return lines
