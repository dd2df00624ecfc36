"""evalkit verdict."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from evalkit.cli.console import note
from evalkit.cli.options import RunFolders, expanded, own_folder


class Correct(StrEnum):
    """How p values are corrected for the number of tests."""

    holm = "holm"
    bh = "bh"
    none = "none"


def verdict(
    runs: RunFolders,
    out: Annotated[
        Path | None,
        typer.Option(callback=expanded, help="Folder for what is written; default the run folder itself, or results/tables for several."),
    ] = None,
    correct: Annotated[
        Correct, typer.Option(help="How p values are corrected for the number of tests: Holm, Benjamini-Hochberg, or not at all.")
    ] = Correct.holm,
    allow_incomplete: Annotated[bool, typer.Option(help="Include unfinished runs; the page says so.")] = False,
    figures: Annotated[bool, typer.Option(help="Draw the figures too.")] = True,
) -> None:
    """Say which method is better than which, under how many protocol points and metrics, and whether their rankings agree.

    evalkit verdict results/table1 results/table2
    """
    from evalkit.analysis.load import load_runs
    from evalkit.analysis.verdict import verdict as judge
    from evalkit.files import writable_folder
    from evalkit.output.verdict_terminal import print_verdict
    from evalkit.output.verdict_write import write_verdict

    if figures:
        from evalkit.output.verdict_plots import write_verdict_figures
    loaded = load_runs(runs, allow_incomplete=allow_incomplete)
    folder = out or own_folder(runs)
    writable_folder(folder, "--out")
    found = judge(loaded, correct.value)
    written = write_verdict(found, folder, write_verdict_figures if figures else None)
    print_verdict(Console(emoji=False), found)
    note(f"written: {folder}/{', '.join(written)}")
