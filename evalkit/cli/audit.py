"""evalkit audit."""

from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli.console import note, show
from evalkit.cli.options import expanded, own_folder


def audit(
    runs: Annotated[list[str], typer.Argument(help="Run folders made with +control=[...], or folders of run folders.")],
    out: Annotated[
        Path | None,
        typer.Option(callback=expanded, help="Folder for audit.md and audit.csv; default the run folder itself, or results/tables."),
    ] = None,
    allow_incomplete: Annotated[bool, typer.Option(help="Include unfinished runs; the page says so.")] = False,
) -> None:
    """Put each protocol point and metric to the test: does it prefer a control version of a method, which adds nothing, to the method?

    evalkit run experiment=audit && evalkit audit results/audit
    """
    from evalkit.analysis.load import load_runs
    from evalkit.files import writable_folder
    from evalkit.output.audit import terminal_lines, write_audit
    from evalkit.output.audit_tables import audit_run

    loaded = load_runs(runs, allow_incomplete=allow_incomplete)
    folder = out or own_folder(runs)
    writable_folder(folder, "--out")
    audited = [audit_run(run) for run in loaded]
    write_audit(audited, folder)
    for one in audited:
        for line in terminal_lines(one):
            show(line)
    note(f"written: {folder}/audit.md, audit.csv")
