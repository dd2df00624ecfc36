"""evalkit tables."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from evalkit.cli.console import note
from evalkit.cli.options import RunFolders, expanded, own_folder


def tables(
    runs: RunFolders,
    out: Annotated[
        Path | None,
        typer.Option(
            callback=expanded, help="Folder for tables and figures; default the run folder itself, or results/tables for several."
        ),
    ] = None,
    allow_incomplete: Annotated[bool, typer.Option(help="Include unfinished runs; the caption says so.")] = False,
    figures: Annotated[bool, typer.Option(help="Draw the figures too.")] = True,
    plots: Annotated[str, typer.Option(help="Formats of the figures, with commas; none is --no-figures.")] = "png,pdf,svg",
) -> None:
    """Print Tables 1 and 2 from runs; write Markdown, CSV, LaTeX and figures.

    evalkit tables results/table1 results/table2
    """
    from evalkit.analysis.evaluated import evaluate_run
    from evalkit.analysis.load import load_runs
    from evalkit.files import writable_folder
    from evalkit.output.terminal import print_tables
    from evalkit.output.write import write_all

    folder = out or own_folder(runs)
    with ExitStack() as stack:
        plot = None
        if figures and plots != "none":
            from evalkit.output.drawing import Drawer, formats_of
            from evalkit.output.plots import write_figures

            plot = partial(write_figures, formats=formats_of(plots), drawer=stack.enter_context(Drawer()))
        loaded = load_runs(runs, allow_incomplete=allow_incomplete)
        writable_folder(folder, "--out")
        evaluated = [evaluate_run(run) for run in loaded]
        write_all(evaluated, folder, plot)
    print_tables(Console(emoji=False), evaluated)
    note(f"written: {folder}/tables.md, tables.tex, summary.csv, comparisons.csv, maps.csv" + (", figures/" if plot is not None else ""))
