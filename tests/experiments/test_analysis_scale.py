"""The benchmark of analysis writes runs that are read as any other, and compares what two versions wrote."""

import json
from pathlib import Path

import analysis_scale
import numpy as np
import synthetic_run
import typer
from typer.testing import CliRunner

from evalkit.analysis.load import load_runs
from evalkit.analysis.summary import summarise


def test_a_synthetic_run_is_a_run(tmp_path):
    methods, points = synthetic_run.method_names(10), synthetic_run.protocol_points(3)
    synthetic_run.write(tmp_path / "run", 700, methods, points, seed=4)
    (run,) = load_runs([tmp_path / "run"])
    assert run.methods == methods and run.points == points and len(run.rows) == 700 * 30
    assert 600 < run.counts()["scored"] <= 700 and run.counts()["degenerate"]["constant"] > 600
    drops = (
        summarise(run)
        .query("metric == 'average_drop' and score == 'activation'")
        .pivot(index="method", columns="top_percent", values="value")
    )
    assert (np.diff(drops.to_numpy(), axis=1) < 0).all()  # less is lost where more is kept
    rows = run.rows
    synthetic_run.write(tmp_path / "again", 700, methods, points, seed=4)
    assert load_runs([tmp_path / "again"])[0].rows.equals(rows)


def test_what_is_measured(tmp_path):
    sizes = ["--size", "2x1", "--size", "3x2"]
    figures = tmp_path / "figures.json"
    root = Path(analysis_scale.__file__).parents[2]
    arguments = [str(tmp_path / "runs"), "--images", "60", *sizes, "--former", str(root), "--former-rows", "130", "--json", str(figures)]
    app = typer.Typer()
    app.command()(analysis_scale.main)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    small, large = json.loads(figures.read_text())["runs"]
    assert small["rows"] == 120 and small["files_that_differ"] == {} and small["ratios"]["gib"] > 0 and "former" not in large
    assert large["now"]["gib"] > 0.05 and figures.with_suffix(".png").stat().st_size > 10_000


def test_differing_lines(tmp_path):
    for name, text in (("a", "x\ny\nz\n"), ("b", "x\nY\nz\n"), ("c", "x\ny\n"), ("d", "x\ny\nz")):
        (tmp_path / name).write_text(text)
    counts = [analysis_scale.differing_lines(tmp_path / "a", tmp_path / name) for name in "abcd"]
    assert counts == [0, 1, 1, 1]
