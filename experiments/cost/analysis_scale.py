"""Measure time and memory of `evalkit tables` on runs of up to 36 million rows, beside a former version on the same runs.

    git worktree add ../former 103175f
    python experiments/cost/analysis_scale.py SCRATCH --former ../former --json results/analysis_scale.json

The runs are written by experiments/cost/synthetic_run.py through the product's own store; SCRATCH keeps them (1.3 GB). Each command is a
process of its own, in turn with the former version's; seconds are by the clock and of the processors, memory is the largest of the
process. Files that both wrote are compared byte by byte, figures aside.
"""

import filecmp
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import matplotlib.pyplot as plt
import synthetic_run
import typer
from command_cost import measured

from evalkit.bench import timing
from evalkit.cli.script import run_script
from evalkit.output.drawing import set_style

IMAGES = 50_000
SIZES = ((5, 1), (5, 3), (9, 9), (27, 9), (27, 27))
"""Methods and protocol points of each run."""
FILES = ("tables.md", "tables.tex", "summary.csv", "comparisons.csv", "maps.csv")


def main(
    scratch: Path,
    images: Annotated[int, typer.Option(min=2)] = IMAGES,
    sizes: Annotated[list[str] | None, typer.Option("--size", help="METHODSxPOINTS, as 27x9; several times for several runs.")] = None,
    former: Annotated[Path | None, typer.Option(help="Checkout of a former version, run by the same Python.")] = None,
    former_rows: Annotated[int, typer.Option(help="Largest number of rows of the former version.")] = 13_000_000,
    repeats: Annotated[int, typer.Option(min=1)] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Figures; a plot is written beside it.")] = None,
) -> None:
    """Write the runs that are not there, measure, and print the figures."""
    found: list[dict[str, Any]] = []
    for methods, points in [tuple(map(int, size.split("x"))) for size in sizes] if sizes else SIZES:
        run = scratch / f"images{images}-methods{methods}-points{points}"
        write(run, images, methods, points)
        rows = images * methods * points
        versions = {"now": Path.cwd(), **({"former": former} if former is not None and rows <= former_rows else {})}
        measured: dict[str, list[dict[str, float]]] = {name: [] for name in versions}
        for _ in range(repeats):
            for name, checkout in versions.items():
                measured[name].append(tables(run, scratch / f"out-{name}", checkout))
        line: dict[str, Any] = {"images": images, "methods": methods, "points": points, "rows": rows}
        for name, of in measured.items():
            line[name] = {key: round(median(one[key] for one in of), 2) for key in of[0]}
        if "former" in versions:
            line["ratios"] = {key: round(line["former"][key] / line["now"][key], 1) for key in line["now"]}
            line["files_that_differ"] = {
                name: differing
                for name in FILES
                if (differing := differing_lines(*(scratch / f"out-{version}" / name for version in ("former", "now"))))
            }
        found.append(line)
        print(json.dumps(line))
    if json_file is not None:
        figures = {
            "repeats": repeats,
            **timing.machine(),
            "former": revision(former) if former else None,
            "now": revision(Path.cwd()),
            "runs": found,
        }
        json_file.write_text(json.dumps(figures, indent=1) + "\n")
        plot(found, json_file.with_suffix(".png"))


def write(run: Path, images: int, methods: int, points: int) -> None:
    """Write a run in a process of its own: the kernel counts the memory of this one as that of the processes that it starts."""
    sizes = ["--images", str(images), "--methods", str(methods), "--points", str(points)]
    subprocess.run([sys.executable, str(Path(synthetic_run.__file__)), str(run), *sizes], check=True, stdout=subprocess.DEVNULL)


def tables(run: Path, out: Path, checkout: Path) -> dict[str, float]:
    """Run `evalkit tables` of one version without figures; return seconds by the clock and of the processors, and the largest GiB."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "evalkit", "tables", str(run.resolve()), "--out", str(out.resolve()), "--no-figures"]
    cost = measured(command, subprocess.DEVNULL, folder=checkout, env={**os.environ, "PYTHONPATH": str(checkout.resolve())})
    if cost.code:
        raise typer.Exit(1)
    return {"seconds": cost.seconds, "processor_seconds": cost.processor_seconds, "gib": cost.mebibytes / 1024}


def differing_lines(first: Path, second: Path) -> int:
    """Return the number of lines in which two files differ; 0 where they are equal byte by byte."""
    if filecmp.cmp(first, second, shallow=False):
        return 0
    a, b = (file.read_text(encoding="utf-8").splitlines() for file in (first, second))
    return sum(one != other for one, other in zip(a, b, strict=False)) + abs(len(a) - len(b)) or 1


def revision(checkout: Path) -> str:
    """Return the commit of a checkout."""
    return subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()


def plot(found: list[dict[str, Any]], file: Path) -> None:
    """Plot seconds and memory against the number of rows, for both versions."""
    set_style()
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for ax, key, label in ((axes[0], "seconds", "seconds"), (axes[1], "gib", "largest memory, GiB")):
        for name, marker, colour in (("former", "s", "C7"), ("now", "o", "C0")):
            lines = [line for line in found if name in line]
            ax.plot([line["rows"] for line in lines], [line[name][key] for line in lines], marker=marker, color=colour, label=name)
            for line in lines:
                ax.annotate(
                    f"{line[name][key]:.3g}",
                    (line["rows"], line[name][key]),
                    textcoords="offset points",
                    xytext=(0, 6),
                    fontsize=8,
                    ha="center",
                )
        ax.set(xscale="log", yscale="log", xlabel="million rows", ylabel=label)
        shown = [line for line in found if "now" in line]
        ax.set_xticks([line["rows"] for line in shown], [f"{line['rows'] / 1e6:.3g}" for line in shown])
        ax.yaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        ax.margins(0.12)
        ax.legend()
    figure.suptitle(
        f"evalkit tables on {found[0]['images']:,} images: methods x protocol points "
        + ", ".join(f"{x['methods']}x{x['points']}" for x in found),
        fontsize=9,
    )
    figure.savefig(file, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    run_script(main)
