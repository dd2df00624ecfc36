"""The LaTeX table compiles, fits a column, and holds the summary's numbers."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from builders import FULL, HOSTILE, MASKED, make_run

from evalkit.analysis.evaluated import evaluate_run
from evalkit.analysis.summary import summarise
from evalkit.output.latex import escaped, latex

needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
DOCUMENT = r"\documentclass%s{article}\usepackage{booktabs}\begin{document}\input{tables}\end{document}"


def compiled(folder, runs, options="") -> str:
    """The log of LaTeX."""
    (folder / "tables.tex").write_text(latex([evaluate_run(run) for run in runs]))
    (folder / "document.tex").write_text(DOCUMENT % options)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "document.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


@needs_latex
@pytest.mark.parametrize("options", ["", "[twocolumn]"])
def test_a_table_compiles_and_fits(options, tmp_path):
    runs = [make_run(tmp_path / "one", FULL, MASKED), make_run(tmp_path / "two", FULL, {"ablation_cam": FULL / 2}, paper=None)]
    log = compiled(tmp_path, runs, options)
    assert "Output written on document.pdf" in log and "Overfull" not in log


@needs_latex
def test_any_name_compiles(tmp_path):
    full = np.arange(1.0, 5)
    every = "".join(map(chr, range(32, 127))) + "äßéñ→\u4e2d"
    assert "Missing character" not in compiled(
        tmp_path, [make_run(tmp_path / "run", full, {HOSTILE: full / 2, every: full / 3}, model=every)]
    )


@needs_latex
@pytest.mark.parametrize("options", ["", "[twocolumn]"])
def test_cautions_compile_and_fit(options, tmp_path):
    masked = {"a_b%&#": FULL / 2, "grad_cam": FULL / 3, "centre": FULL / 4}
    status = {(i, method): "degenerate" for i in range(4) for method in masked}
    log = compiled(tmp_path, [make_run(tmp_path / "run", FULL, masked, status=status, images=99)], options)
    assert "Output written on document.pdf" in log and "Overfull" not in log and "Missing character" not in log


def test_numbers_are_the_summary_s(tmp_path):
    run = make_run(tmp_path / "run", FULL, MASKED)
    summary = summarise(run)
    rows = [line.split(" & ") for line in latex([evaluate_run(run)]).splitlines() if re.match(r"(ablation|grad)\\_cam|centre", line)]
    assert [row[0] for row in rows] == [escaped(method) for method in run.methods]
    for row in rows:
        mine = summary[summary.method == row[0].replace("\\_", "_")].set_index(["metric", "score"]).value
        wanted = [mine[metric, score] for metric in ("average_drop", "increase", "win") for score in ("confidence", "activation")]
        assert [cell.removesuffix(r" \\") for cell in row[1:]] == [f"{value:.2f}" for value in wanted]
