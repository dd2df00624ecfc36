"""Figures show the numbers of the summary, and nothing else."""

import numpy as np
import pandas as pd
import pytest
from builders import FULL, MASKED, fresh, holding, make_run

from evalkit.analysis.evaluated import evaluate_run
from evalkit.analysis.load import load_runs
from evalkit.analysis.summary import summarise
from evalkit.layer_names import at
from evalkit.output import plots
from evalkit.output.lettering import folded


@pytest.fixture
def sweep(tmp_path):
    """One run with the thresholds 10 and 40, made of two that differ in nothing else."""
    run = make_run(tmp_path / "run", FULL, MASKED, top=10.0)
    other = make_run(tmp_path / "other", FULL, {m: s - 0.5 for m, s in MASKED.items()}, top=40.0)
    return holding(run, rows=pd.concat([run.rows, other.rows]))


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
    run = holding(sweep, rows=rows)
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
    both = holding(run, rows=pd.concat([run.rows, other.rows]))
    summary = summarise(both)
    figure = plots.one_panel_a_method(both, summary, "activation")
    drops = summary[(summary.metric == "average_drop") & (summary.score == "activation")]
    panels = {ax.get_title().removesuffix(" (control)"): ax for ax in figure.axes if ax.get_title()}
    assert set(panels) == set(masked)
    for method, ax in panels.items():
        assert len(ax.lines) == len(masked) + 1
        np.testing.assert_allclose(ax.lines[-1].get_ydata(), drops[drops.method == method].sort_values("top_percent").value)


LAYERS = ["features.denseblock4.denselayer16.conv2", "features.denseblock3.denselayer24.conv2"]
PLAIN = ["ablation_cam", "grad_cam", "guided_ablation_cam", "integrated_gradients", "guided_backprop", "layer_cam", "score_cam", "random"]


def scored(folder, names, *, layer="l", top=20.0):
    """A run of twenty images, few enough for a caution, in which one method's maps are constant, which makes a long one."""
    rng = fresh()
    full = rng.uniform(1, 9, 20)
    constant = {(i, name): "degenerate" for i in range(20) for name in names[:2]}
    return make_run(folder, full, {name: full * rng.uniform(0, 1.2, 20) for name in names}, status=constant, layer=layer, top=top)


def at_both(*methods):
    return [at(method, layer) for method in methods for layer in LAYERS]


@pytest.mark.parametrize(
    ("names", "layer"),
    [
        (at_both("ablation_cam"), LAYERS),
        ([*at_both("ablation_cam", "grad_cam"), "random"], LAYERS),
        ([*at_both("ablation_cam_tokens", "hires_cam", "grad_cam"), "integrated_gradients", "random", "centre"], LAYERS),
        (["ablation_cam", "grad_cam"], "l"),
        ([f"a_method_of_your_own_with_a_long_name_{i}" for i in range(3)], "l"),
        (PLAIN, "l"),
    ],
)
@pytest.mark.parametrize("raw", [False, True])
def test_nothing_is_cut_off(tmp_path, names, layer, raw):
    runs = [scored(tmp_path / str(top), names, layer=layer, top=top) for top in (20.0, 40.0)]
    rows = pd.concat([run.rows for run in runs])
    runs[0].provenance["identity"]["model"]["output"] = "raw" if raw else "softmax"
    run = holding(runs[0], rows=rows.assign(prob_full=np.nan, prob_masked=np.nan) if raw else rows)
    assert run.raw == raw
    for name, figure in plots.figures(evaluate_run(run)):
        figure.draw_without_rendering()
        inside = figure.get_tightbbox()
        width, height = figure.get_size_inches()
        assert inside.x0 > -0.02 and inside.y0 > -0.02 and inside.x1 < width + 0.02 and inside.y1 < height + 0.02, name
        assert "Caution: only 20 images are scored" in figure.get_suptitle()
        shown = [ax.get_position() for ax in figure.axes if ax.axison]
        assert min(box.width * width for box in shown) > 0.8 and min(box.height * height for box in shown) > 0.6, name
        plots.plt.close(figure)


def test_several_layers_get_a_panel_each(tmp_path):
    names = [*at_both("ablation_cam", "grad_cam"), "random"]
    run = scored(tmp_path / "run", names, layer=LAYERS)
    figure = plots.distribution(run)
    rows = run.rows.set_index(["method", "index"])
    panels = {tuple(ax.get_title().split("\n")): ax for ax in figure.axes if ax.axison}
    assert set(panels) == {(f"@{layer}", score) for layer in LAYERS for score in ("confidence", "activation")}
    looks = set()
    for (layer, _), ax in panels.items():
        assert [line.get_label() for line in ax.lines] == ["ablation_cam", "grad_cam", "random"]
        looks.add(tuple((line.get_color(), line.get_linestyle()) for line in ax.lines))
        for line in ax.lines:
            mine = rows.loc[line.get_label() if line.get_label() == "random" else line.get_label() + layer]
            largest = (100 * (mine.logit_full - mine.logit_masked).clip(lower=0) / mine.logit_full).max()
            assert line.get_xdata()[-1] == pytest.approx(largest)
    (look,) = looks  # a method looks the same in all panels, and like no other one
    assert len(set(look)) == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ablation_cam", "grad_cam", "random"]


def test_twenty_methods_at_layers_look_different(tmp_path):
    names = [at(f"method_{i}", layer) for i in range(20) for layer in LAYERS]
    figure = plots.distribution(scored(tmp_path / "run", [*names, "random", "constant", "centre"], layer=LAYERS))
    assert len({(line.get_color(), line._dash_pattern[1] and tuple(line._dash_pattern[1])) for line in figure.axes[0].lines}) == 23


def test_names_fold_at_the_layer_and_lose_nothing():
    assert folded("grad_cam@norm", 20) == "grad_cam@norm"
    assert folded("ablation_cam_tokens@blocks.10", 24) == "ablation_cam_tokens\n@blocks.10"
    long = at("ablation_cam_tokens", LAYERS[0])
    lines = folded(long, 24).split("\n")
    assert "".join(lines) == long and max(map(len, lines)) <= 24 and all(line.endswith((".", "s", "2")) for line in lines)
    assert "".join(folded("x" * 50, 24).split("\n")) == "x" * 50
