"""evalkit leaderboard."""

from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli.console import note, show
from evalkit.cli.options import expanded
from evalkit.errors import UserError


def leaderboard(
    runs: Annotated[list[str], typer.Argument(help="Run folders, folders of run folders, and summaries (*.parquet).")],
    out: Annotated[Path, typer.Option(callback=expanded, help="The HTML file.")] = Path("leaderboard.html"),
    summary: Annotated[
        Path | None,
        typer.Option(
            callback=expanded,
            help="Write the summary of one run (of one folder, or several that differ only in methods) to this file.",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check summaries and write nothing; exit code 1 where something is wrong.")
    ] = False,
    report: Annotated[str | None, typer.Option(help="Address of the run's report, https://..., for its summary.")] = None,
    verified: Annotated[
        list[Path] | None,
        typer.Option(callback=expanded, help="Record of `evalkit verify RUN --out FILE`, for the summary; one for each folder."),
    ] = None,
) -> None:
    """Write one sortable page over runs: models, methods and protocol points, with intervals and the controls as a floor.

    evalkit leaderboard results/table1 --summary results/leaderboard/table1.parquet

    evalkit leaderboard --check results/leaderboard/*.parquet && evalkit leaderboard results/leaderboard/*.parquet
    """
    from evalkit.files import place, publish, writable_file
    from evalkit.output.leaderboard import write_leaderboard
    from evalkit.output.leaderboard_check import summary_bytes, wrong_with
    from evalkit.output.leaderboard_facts import read_verified
    from evalkit.output.leaderboard_summary import summarised

    if summary is None and (report is not None or verified):
        raise UserError("--report and --verified belong to the summary of a run: name its file with --summary")
    if check and summary is not None:
        raise UserError("--check reads summaries and --summary writes one: give one of the two")
    if check:
        wrong = wrong_with([place(run) for run in runs])
        for sentence in wrong:
            show(sentence)
        note(f"{len(runs)} checked, {len(wrong) or 'nothing'} wrong")
        raise typer.Exit(1 if wrong else 0)
    if summary is not None:
        if summary.suffix != ".parquet":
            raise UserError(f"--summary {summary} is no parquet file: name one that ends in .parquet")
        writable_file(summary, "--summary")
        content = summary_bytes(summarised(runs, report=report, verified=[read_verified(file) for file in verified or []]))
        publish(summary, content)
        note(f"written: {summary} ({len(content) / 1000:.0f} kB)")
        return
    writable_file(out, "--out")
    number = write_leaderboard(runs, out)
    note(f"written: {out} ({number} run{'s' * (number != 1)}, {out.stat().st_size / 2**20:.1f} MB)")
