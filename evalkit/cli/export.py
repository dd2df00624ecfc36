"""evalkit export."""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli.console import note
from evalkit.cli.options import RunFolders, expanded, own_folder


class Format(StrEnum):
    """What is written."""

    parquet = "parquet"
    csv = "csv"
    hf = "hf"


def export(
    runs: RunFolders,
    to: Annotated[
        Format, typer.Option(help="One file of scores and one of map measures (parquet, csv), or a folder for Hugging Face datasets (hf).")
    ] = Format.parquet,
    out: Annotated[
        Path | None,
        typer.Option(
            callback=expanded,
            help="File, or folder for hf; default export.parquet, export.csv or export-hf in the run folder, of several in results/tables",
        ),
    ] = None,
    allow_incomplete: Annotated[bool, typer.Option(help="Include unfinished runs, as far as they are.")] = False,
) -> None:
    """Write every image's scores of all runs, with what the tables derive from them, for other tools and for others.

    evalkit export results/table1 results/table2 --to csv
    """
    from evalkit.analysis.load import load_runs
    from evalkit.output.export import exported
    from evalkit.output.export_files import export_file, export_folder

    tables = exported(load_runs(runs, allow_incomplete=allow_incomplete))
    if to is Format.hf:
        path = out or own_folder(runs) / "export-hf"
        written = export_folder(tables, path, shlex.join(["evalkit", "export", *runs, "--to", "hf"]))
    else:
        path = out or own_folder(runs) / f"export.{to.value}"
        written = export_file(tables, path, to.value)
    for one in written:
        more = f" and {len(one.files) - 1} more" if len(one.files) > 1 else ""
        note(f"written: {one.files[0]}{more}: {one.rows:,} rows, {one.megabytes:.1f} MB")
    if to is Format.hf:
        note(f"written: {path}/README.md, the card: it names no licence; choose one before you share the folder")
