"""The commands on the finished run of rehearsal.py: time, memory, and whether what they wrote agrees."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet as pq
from command_cost import measured


def evalkit(*arguments: str) -> list[str]:
    """Return a command line of evalkit, of the Python that runs this script."""
    return [sys.executable, "-m", "evalkit", *arguments]


def timed(command: list[str], log: Path) -> dict[str, Any]:
    """Run a command; return its exit code, seconds by the clock and of the processors, and the mebibytes of its largest process."""
    load = os.getloadavg()[0]
    with log.open("w") as output:
        cost = measured(command, output, output)
    seconds = {"seconds": round(cost.seconds, 1), "processor_seconds": round(cost.processor_seconds, 1)}
    return {"exit": cost.code, **seconds, "mebibytes": round(cost.mebibytes), "load_average": round(load, 1)}


def run(folder: Path, scratch: Path, sample: str, names: list[str] | None = None) -> dict[str, Any]:
    """Run what is done with a finished run, one command after the other; of these names alone, where there are any."""
    of = {
        "tables": ["--out", str(scratch / "tables")],
        "report": ["--out", str(scratch / "report.html")],
        "export": ["--to", "parquet", "--out", str(scratch / "export.parquet")],
        "verify": ["--sample", sample, "--seed", "0", "--allow", "random_network", "--out", str(scratch / "verified.json")],
    }
    found = {
        name: timed(evalkit(name, str(folder), *options), scratch / f"{name}.log") for name, options in of.items() if name in (names or of)
    }
    if "verify" in found:
        verdict = re.search(r"^(NOT )?verified: .*", (scratch / "verify.log").read_text(), re.MULTILINE)
        found["verify"]["says"] = verdict[0] if verdict else None
    return found


def agreement(scratch: Path) -> dict[str, Any]:
    """Compare the average drop of each method and threshold in summary.csv with the mean of the export, and look for it in the report."""
    export = pq.read_table(scratch / "export.parquet", columns=["method", "top_percent", "drop_confidence"])
    means = export.group_by(["method", "top_percent"]).aggregate([("drop_confidence", "mean")]).to_pylist()
    summary = pyarrow.csv.read_csv(scratch / "tables" / "summary.csv").to_pylist()
    report = (scratch / "report.html").read_text(encoding="utf-8")
    apart, printed = 0.0, True
    for mean in means:
        key = {"metric": "average_drop", "score": "confidence", "method": mean["method"], "top_percent": mean["top_percent"]}
        (line,) = [one for one in summary if key.items() <= one.items()]
        apart = max(apart, abs(line["value"] - mean["drop_confidence_mean"]) / abs(line["value"]))
        printed = printed and f"{line['value']:.2f}" in report
    figures = sorted(file.name for file in (scratch / "tables").rglob("*.png"))
    there = all(
        (scratch / "tables" / name).stat().st_size for name in ("tables.md", "tables.tex", "summary.csv", "comparisons.csv", "maps.csv")
    )
    sizes = {f"{name}_bytes": (scratch / name).stat().st_size for name in ("report.html", "export.parquet", "export-maps.parquet")}
    return {
        "drops": {f"{mean['method']} {mean['top_percent']:g} %": round(mean["drop_confidence_mean"], 4) for mean in means},
        "largest_relative_difference": apart,
        "figures": len(figures),
        **sizes,
        "agree": apart < 1e-5 and printed and there and bool(figures),
    }
