"""Write short reports of the runs of all_methods.sh: all_methods.md, .csv, all_methods-peers.md and a figure for each network.

    python experiments/findings/all_methods_report.py OUT results

OUT is the folder that all_methods.sh wrote. The tables are those of `evalkit tables`, reduced to the maps and the top 20 %.
"""

import re
from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import typer

from evalkit.analysis.load import load_runs
from evalkit.analysis.summary import PAPER_METRICS
from evalkit.cli.script import run_script
from evalkit.output import plots

NUMBERS = ["model", "method", "select", "top_percent", "fill", "score", "metric", "against", "n", "value", "low", "high"]
STAGES = {"all": ("all", "score"), "peers": ("peers",)}
HEADS = {
    "all": (
        "Every method and control on two networks with real weights",
        "Here the maps, the threshold of 20 % and the win matrices; `all_methods.csv` has the paper's metrics at 10 to 90 %, "
        "`all_methods-*.png` draw average drop against them. Integrated gradients with 16 steps, occlusion with a window of 56 pixels "
        "and a stride of 28. Score-CAM ran by itself on one busy core; all_methods-peers.md has seconds to compare it by.",
    ),
    "peers": (
        "Other libraries' classes beside ours: the same figures at other speeds",
        "pgc: pytorch-grad-cam. 10 images on one busy core: to read off that rows agree and what a map costs, not to rank methods.",
    ),
}


def main(
    runs: Annotated[Path, typer.Argument(help="The folder that all_methods.sh wrote.")],
    out: Annotated[Path, typer.Argument(help="Folder for the files.")],
) -> None:
    """Report the stages that were run."""
    for stage, name in (("all", "all_methods"), ("peers", "all_methods-peers")):
        if (runs / stage / "tables.md").exists():
            (out / f"{name}.md").write_text(cut(runs / stage, stage), encoding="utf-8")
    summary = pd.read_csv(runs / "all" / "summary.csv")
    summary[summary.metric.isin(PAPER_METRICS)][NUMBERS].to_csv(out / "all_methods.csv", index=False, float_format="%.5g")
    sns.set_theme(style="whitegrid", context="paper", palette="colorblind")
    for run in load_runs([runs / "all"]):
        figure = plots.one_panel_a_method(run, summary[summary.model == run.name], "confidence")
        figure.savefig(out / f"all_methods-{run.name}.png", dpi=75)
        plt.close(figure)


def cut(folder: Path, stage: str) -> str:
    """Return tables.md without the other thresholds, with a headline, the command and the machine."""
    sections = re.split(r"^(?=##)", (folder / "tables.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    kept = [part for part in sections if not part.startswith("### top") or part.startswith("### top 20 %")]
    provenance = load_runs([folder])[0].provenance
    versions = ", ".join(f"{name} {provenance['versions'][name]}" for name in ("torch", "torchvision", "captum", "grad-cam", "torchcam"))
    machine = (
        f"{provenance['hardware']['processor']}, threads: {provenance['hardware']['threads']}, Python {provenance['python']}, {versions}"
    )
    headline, text = HEADS[stage]
    command = f"experiments/findings/all_methods.sh DATA OUT {' '.join(STAGES[stage])}"
    return f"# {headline}\n\nMade by `{command}` on {machine}. {text}\n\n{''.join(kept)}"


if __name__ == "__main__":
    run_script(main)
