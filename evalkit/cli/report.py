"""evalkit report."""

from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli.console import note
from evalkit.cli.options import RunFolders, expanded, own_folder


def report(
    runs: RunFolders,
    out: Annotated[
        Path | None, typer.Option(callback=expanded, help="The HTML file; default report.html where `evalkit tables` writes.")
    ] = None,
    gallery: Annotated[int, typer.Option(min=0, help="Images in the gallery per selection criterion.")] = 24,
    data_root: Annotated[str | None, typer.Option(help="Folder of the images, if they have moved since the run.")] = None,
    allow_incomplete: Annotated[bool, typer.Option(help="Include unfinished runs; the report says so.")] = False,
) -> None:
    """Write one HTML file that opens from disk: tables, tests, figures, excluded images, and a gallery of images with their maps.

    evalkit report results/table1 results/table2 --out report.html
    """
    from evalkit.output.drawing import Drawer

    with Drawer() as drawer:
        from evalkit.analysis.evaluated import evaluate_run
        from evalkit.analysis.load import load_runs
        from evalkit.files import writable_file
        from evalkit.photos.gallery import report_runs

        file = out or own_folder(runs) / "report.html"
        writable_file(file, "--out")
        evaluated = [evaluate_run(run) for run in load_runs(runs, allow_incomplete=allow_incomplete)]
        notes = report_runs(evaluated, file, each=gallery, root=data_root, drawer=drawer)
    for line in (*notes, f"written: {file} ({file.stat().st_size / 2**20:.1f} MB)"):
        note(line)
