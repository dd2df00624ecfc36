"""Figures show the numbers of the summary, and nothing else."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from builders import FULL, MASKED, fresh, make_run

from evalkit.analysis.evaluated import evaluate_run
from evalkit.analysis.load import load_runs
from evalkit.analysis.summary import summarise
from evalkit.output import plots


@pytest.fixture
def sweep(tmp_path):
    """One run with the thresholds 10 and 40, made of two that differ in nothing else."""
    run = make_run(tmp_path / "run", FULL, MASKED, top=10.0)
    other = make_run(tmp_path / "other", FULL, {m: s - 0.5 for m, s in MASKED.items()}, top=40.0)
    return replace(run, rows=pd.concat([run.rows, other.rows]))


def test_threshold_curves_are_the_summary(sweep):
    summary = summarise(sweep)
    figure = plots.against_threshold(sweep, summary)
    drawn = figure.axes[0].get_lines()
    assert [line.get_label() for line in drawn] == sweep.methods
    for line, method in zip(drawn, sweep.methods, strict=True):
        mine = summary[(summary.method == method) & (summary.metric == "average_drop") & (summary.score == "confidence")]
        assert line.get_xdata().tolist() == [10, 40]
        assert np.allclose(line.get_ydata(), mine.sort_values("top_percent").value)
    assert "lower is better" in figure.axes[0].get_title() and "higher is better" in figure.axes[1].get_title()


def test_drop_per_method_has_intervals_and_published_values(tmp_path):
    run = make_run(tmp_path / "run", FULL, MASKED)
    evaluated = evaluate_run(run)
    figure = plots.drop_per_method(evaluated)
    confidence = figure.axes[0]
    points = confidence.containers[0].lines[0].get_xdata()
    summary = evaluated.summary
    chosen = summary[(summary.metric == "average_drop") & (summary.score == "confidence")].set_index("method").loc[run.methods]
    assert np.allclose(points, chosen.value)
    crosses = confidence.collections[-1].get_offsets()
    assert [round(float(x), 2) for x, _ in crosses if np.isfinite(x)] == [41.52, 45.15]
    assert confidence.get_ylim()[0] > confidence.get_ylim()[1]  # the first method on top


def test_many_points_stand_side_by_side(sweep):
    nine = [sweep.rows[sweep.rows.top_percent == 10].assign(select=s, fill=f) for s in ("keep_top", "remove_top", "x") for f in "abc"]
    nine = [rows.assign(select="keep_top") if rows["select"].iloc[0] == "x" else rows for rows in nine]
    rows = pd.concat(nine).drop_duplicates(["index", "method", "select", "fill"])
    run = replace(sweep, rows=rows)
    figure = plots.drop_per_method(evaluate_run(run))
    width, height = figure.get_size_inches()
    assert height < 1.5 * width
    assert sum(ax.axison for ax in figure.axes) == 2 * len(run.points) == 12


def test_the_distribution_is_that_of_the_drops(tmp_path):
    rng = fresh()
    full, masked = rng.uniform(1, 9, 50), {"ablation_cam": rng.uniform(0, 9, 50), "grad_cam": rng.uniform(0, 9, 50)}
    figure = plots.distribution(make_run(tmp_path / "run", full, masked))
    for ax in figure.axes:
        for line in ax.lines:
            drops = 100 * np.maximum(0, full - masked[line.get_label()]) / full
            for drop, share in zip(*line.get_data(), strict=True):
                assert 100 * np.mean(drops < drop - 1e-9) <= share + 1e-9 and 100 * np.mean(drops <= drop + 1e-9) >= share - 1e-9
            assert line.get_xdata()[-1] == pytest.approx(drops.max())


def test_files_are_told_apart_by_their_folders(tmp_path):
    for parent in ("one", "two"):
        make_run(tmp_path / parent / "model=a,x", FULL, MASKED, fingerprint=parent)
    runs = load_runs([tmp_path / "one", tmp_path / "two"])
    plots.write_figures([evaluate_run(run) for run in runs], tmp_path / "figures")
    names = {p.stem for p in (tmp_path / "figures").iterdir()}
    assert names == {f"{parent}-model-a_x-{kind}" for parent in ("one", "two") for kind in ("distribution", "drop", "wins")}


def test_many_methods_get_a_panel_each(tmp_path):
    """Values in a panel are its own method's; the others stand behind it in grey."""
    masked = {f"method_{i}": FULL - 0.1 * i for i in range(8)} | {"centre": FULL - 1}
    run = make_run(tmp_path / "run", FULL, masked, top=10.0)
    other = make_run(tmp_path / "other", FULL, {m: s - 0.5 for m, s in masked.items()}, top=40.0)
    both = replace(run, rows=pd.concat([run.rows, other.rows]))
    summary = summarise(both)
    figure = plots.one_panel_a_method(both, summary, "activation")
    drops = summary[(summary.metric == "average_drop") & (summary.score == "activation")]
    panels = {ax.get_title().removesuffix(" (control)"): ax for ax in figure.axes if ax.get_title()}
    assert set(panels) == set(masked)
    for method, ax in panels.items():
        assert len(ax.lines) == len(masked) + 1
        np.testing.assert_allclose(ax.lines[-1].get_ydata(), drops[drops.method == method].sort_values("top_percent").value)
