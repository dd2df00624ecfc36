"""Numbers in tables against numbers computed by hand from rows."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import FULL, MASKED, METHODS, fresh, holding, make_run

from evalkit.analysis.cautions import cautions
from evalkit.analysis.evaluated import evaluate_run
from evalkit.analysis.load import load_runs
from evalkit.analysis.summary import compare, published, summarise, win_matrix
from evalkit.errors import UserError
from evalkit.output.latex import latex
from evalkit.output.markdown import markdown
from evalkit.output.tables import MANY, caption, cells, comparison_table, title
from evalkit.output.write import write_all


def value(summary, metric, method, score="activation"):
    (found,) = summary[(summary.metric == metric) & (summary.method == method) & (summary.score == score)].value
    return found


def test_seconds_per_map(tmp_path):
    full = np.ones(4)
    run = make_run(tmp_path / "run", full, dict.fromkeys(METHODS, full), seconds={"ablation_cam": 2.0, "grad_cam": 0.02})
    found = run.seconds_per_map()
    assert np.isnan(found.pop("centre")) and found == {"ablation_cam": 0.5, "grad_cam": 0.005}
    assert any("ablation_cam 0.5, grad_cam 0.005." in line for line in caption(run))


def test_by_hand(tmp_path):
    run = make_run(tmp_path / "run", FULL, MASKED)
    summary = summarise(run)
    assert value(summary, "average_drop", "ablation_cam") == pytest.approx(25 / 3)  # Y <= 0 is left out
    assert value(summary, "average_drop", "grad_cam") == pytest.approx((50 + 0 + 20) / 3)
    assert value(summary, "increase", "ablation_cam") == 25
    assert value(summary, "win", "ablation_cam") == 50  # images 0 and 2; image 1 is a tie at zero
    assert value(summary, "win", "grad_cam") == 25  # image 3, undivided
    assert value(summary, "win", "centre") == 0
    assert value(summary, "best_of_all", "ablation_cam") == 50
    assert value(summary, "drop_of_sums", "grad_cam") == pytest.approx(100 * 3 / 11)
    assert value(summary, "median_drop", "grad_cam") == 20
    counted = summary[(summary.metric == "average_drop") & (summary.score == "activation")].n
    assert (counted == 3).all() and run.counts()["logit_not_positive"] == 1
    assert win_matrix(run, run.points[0], "activation").loc["grad_cam", "ablation_cam"] == 25


def test_published_values_stand_beside(tmp_path):
    summary = summarise(make_run(tmp_path / "run", FULL, MASKED))
    chosen = summary[(summary.metric == "average_drop") & (summary.score == "confidence")].set_index("method").reference
    assert chosen["ablation_cam"] == 41.52 and chosen["grad_cam"] == 45.15 and np.isnan(chosen["centre"])
    soft = make_run(tmp_path / "soft", FULL, MASKED, select="soft", top=float("nan"), fill="mean", paper=None, layer="features.30")
    chosen = summarise(soft).query("metric == 'increase' and score == 'confidence'").set_index("method").reference
    assert chosen["grad_cam"] == 29.65
    assert len(published("paper")) == 24


def test_excluded_for_all_methods_alike(tmp_path):
    status = {(0, "grad_cam"): "nonfinite", (1, "ablation_cam"): "degenerate"}
    run = make_run(tmp_path / "run", FULL, MASKED, status=status)
    assert value(summarise(run), "average_drop", "ablation_cam") == 0
    counts = run.counts()
    assert (counts["scored"], counts["nonfinite"], counts["degenerate"]["ablation_cam"]) == (3, 1, 1)
    assert any("1 with non-finite maps or scores (grad_cam 1)" in line for line in caption(run))


def test_paired_comparisons(tmp_path):
    rng = np.random.default_rng(0)
    full = rng.uniform(5, 9, 300)
    worse = full - rng.uniform(2, 3, 300)
    run = make_run(tmp_path / "run", full, {"ablation_cam": worse + 0.5, "grad_cam": worse})
    table = compare(run).query("score == 'activation'").set_index("metric")
    assert table.loc["average_drop"].high < 0 and table.loc["average_drop"].p <= 0.001
    assert table.loc["win"].difference == 100 and table.loc["win"].p < 1e-50
    assert table.loc["increase"].p == 1


def test_every_method_is_tested_against_the_first(tmp_path):
    rng = fresh()
    names = ("ablation_cam", "grad_cam", "mine", "centre", "random")
    run = make_run(tmp_path / "run", rng.uniform(5, 9, 20), {name: rng.uniform(1, 5, 20) for name in names})
    pairs = [line[0] for line in comparison_table(evaluate_run(run), run.points[0])[1:]]
    assert list(dict.fromkeys(pairs)) == ["ablation_cam - grad_cam", "ablation_cam - mine", "ablation_cam - centre"]
    many = make_run(tmp_path / "many", rng.uniform(5, 9, 20), {f"m{i}": rng.uniform(1, 5, 20) for i in range(MANY + 1)})
    assert {line[0] for line in comparison_table(evaluate_run(many), many.points[0])[1:]} == {"m0 - m1"}


def test_whose_published_values_stand_beside(tmp_path):
    for table, network in (("table1", "VGG16"), ("table2", "Inception-v3")):
        run = make_run(tmp_path / table, FULL, MASKED, paper=table)
        assert f"grad_cam ({network})" in cells(evaluate_run(run), run.points[0])[0] and title(run).startswith(f"Table {table[-1]}: ")
        assert any(f"of {network} on ImageNet val" in line for line in caption(run))
    others = {"select": "soft", "top": float("nan"), "fill": "mean", "layer": "features.30"}
    run = make_run(tmp_path / "soft", FULL, MASKED, paper="table1", **others)  # values that are not the paper's
    assert "grad_cam (published)" in cells(evaluate_run(run), run.points[0])[0]
    run = make_run(tmp_path / "none", FULL, MASKED, paper=None)
    assert not any("paper's own" in line for line in caption(run)) and not title(run).startswith("Table")


def test_removing_turns_every_direction(tmp_path):
    """What takes most away when removed is the better explanation."""
    run = make_run(tmp_path / "run", FULL, MASKED, select="remove_top", top=25.0, paper=None)
    summary = summarise(run)
    assert value(summary, "win", "grad_cam") == 50 and value(summary, "win", "ablation_cam") == 25
    assert value(summary, "best_of_all", "centre") == 100
    text = markdown([evaluate_run(run)])
    assert "Average drop %, activation (higher is better)" in text and "Increase %, activation (lower is better)" in text
    assert "Win %, activation (higher is better)" in text


def test_a_method_that_lacks_images_does_not_count_as_losing(tmp_path):
    make_run(tmp_path / "a", FULL, {"grad_cam": MASKED["grad_cam"]})
    part = make_run(tmp_path / "b", FULL[:2], {"ablation_cam": MASKED["ablation_cam"][:2]})
    assert len(part.rows) == 2
    (merged,) = load_runs([tmp_path / "a", tmp_path / "b"])
    assert merged.counts()["scored"] == 2
    assert value(summarise(merged), "increase", "ablation_cam") == 50


def test_nothing_left_to_score(tmp_path):
    status = {(i, m): "error" for i in range(4) for m in METHODS}
    with pytest.raises(UserError, match="no image could be scored"):
        summarise(make_run(tmp_path / "run", FULL, MASKED, status=status))


def test_one_image_and_one_method(tmp_path):
    run = make_run(tmp_path / "run", FULL[:1], {"grad_cam": np.array([3.0])})
    assert "25.00 [no interval: too few images]" in markdown([evaluate_run(run)])


def test_runs_that_differ_in_their_methods_become_one_paired_table(tmp_path):
    whole = make_run(tmp_path / "whole", FULL, MASKED)
    make_run(tmp_path / "a", FULL, {m: MASKED[m] for m in ("ablation_cam", "centre")})
    make_run(tmp_path / "b", FULL, {"grad_cam": MASKED["grad_cam"]})
    (merged,) = load_runs([tmp_path / "a", tmp_path / "b"])
    keys = ["score", "metric", "method"]
    found, expected = (summarise(run).sort_values(keys).drop(columns=["run"]).reset_index(drop=True) for run in (merged, whole))
    pd.testing.assert_frame_equal(found, expected)
    make_run(tmp_path / "c", FULL, {"grad_cam": MASKED["grad_cam"]}, fingerprint="other images")
    assert len(load_runs([tmp_path / "a", tmp_path / "c"])) == 2
    assert len(load_runs([tmp_path / "a", tmp_path / "whole"])) == 2  # ablation_cam occurs twice
    make_run(tmp_path / "d", FULL, {"grad_cam": MASKED["grad_cam"]}, code={"model.factory": "another network"})
    assert len(load_runs([tmp_path / "a", tmp_path / "d"])) == 2
    make_run(tmp_path / "e", FULL, {"grad_cam": MASKED["grad_cam"]}, code={"method.grad_cam": "of somebody"})
    assert len(load_runs([tmp_path / "a", tmp_path / "e"])) == 1


def test_a_run_named_twice_is_one_run(tmp_path, monkeypatch):
    make_run(tmp_path / "many" / "one", FULL, MASKED)
    monkeypatch.chdir(tmp_path)
    assert len(load_runs([tmp_path / "many", Path("many/one"), Path("many")])) == 1


def test_nothing_was_right(tmp_path):
    run = make_run(tmp_path / "run", FULL, MASKED)
    nothing = holding(run, rows=run.rows[:0], shards=[{**run.shards[0], "left_out": 4}])
    with pytest.raises(UserError, match="4 left out by images=correct"):
        summarise(nothing)


def test_files_without_rows_have_the_header_of_those_with(tmp_path):
    full = fresh().uniform(1, 9, 40)
    write_all([evaluate_run(make_run(tmp_path / "one", full, {"mine": full - 1}))], tmp_path / "out", None)
    several = evaluate_run(make_run(tmp_path / "two", full, {"mine": full - 1, "grad_cam": full - 2}))
    maps = several.run.rows.drop_duplicates(["index", "method"])[["index", "target", "method", "status"]].assign(complexity=0.5)
    measured = evaluate_run(holding(several.run, maps=maps))
    for name, table in (("comparisons", several.comparisons), ("maps", measured.measures)):
        empty = pd.read_csv(tmp_path / "out" / f"{name}.csv")
        assert empty.empty and list(empty) == list(table) and len(table)


def test_a_run_that_lacks_images_of_another(tmp_path):
    full = fresh().uniform(1, 9, 40)
    make_run(tmp_path / "a", full[:25], {"mine": full[:25] - 1}, images=40)
    make_run(tmp_path / "b", full, {"grad_cam": full - 2})
    (run,) = load_runs([tmp_path / "a", tmp_path / "b"], allow_incomplete=True)
    assert any("25 of its 40 images are in finished shards" in line for line in cautions(run))


def test_no_shard_is_finished(tmp_path):
    make_run(tmp_path / "run", FULL, MASKED)
    (tmp_path / "run" / "rows" / "shard-00000.parquet").unlink()
    (run,) = load_runs([tmp_path / "run"], allow_incomplete=True)
    with pytest.raises(UserError, match=r"of 0 images \(0 unreadable, .* 1 shards missing\)"):
        summarise(run)


def test_files(tmp_path):
    run = make_run(tmp_path / "run", FULL, MASKED, model="a_b|c&[red]")
    write_all([evaluated := evaluate_run(run)], tmp_path / "out", None)
    assert len(pd.read_csv(tmp_path / "out" / "summary.csv")) == len(evaluated.summary)
    tex = latex([evaluated])
    assert r"a\_b" in tex and r"c\&" in tex and r"\toprule" in tex
    assert tex.count("\\\\") == 2 + 3 + 3 + 2 and r"\itshape 41.52" in tex and r"\caption{Table 1" not in tex
    header, *lines = cells(evaluated, run.points[0])
    assert header[1:4] == list(METHODS) and header[4].endswith("(VGG16)") and len(lines) == 12
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["images"] == 4


def test_one_path_is_one_run(tmp_path):
    run = make_run(tmp_path / "run", FULL, MASKED)
    assert [loaded.path for loaded in load_runs(str(tmp_path / "run"))] == [loaded.path for loaded in load_runs(run.path)] == [run.path]


def test_what_tables_wrote_beside_run_folders_is_skipped(tmp_path):
    make_run(tmp_path / "run", FULL, MASKED)
    for name in ("comparisons.csv", "tables.md", "maps.csv"):
        (tmp_path / name).write_text("x")
    (tmp_path / "figures").mkdir()
    (loaded,) = load_runs(sorted(map(str, tmp_path.iterdir())))
    assert loaded.path.name == "run"
    with pytest.raises(UserError, match=r"maps\.csv is not a run folder"):
        load_runs([str(tmp_path / "maps.csv")])
    (tmp_path / "other.csv").write_text("x")
    with pytest.raises(UserError, match=r"other\.csv is not a run folder"):
        load_runs([str(tmp_path / "run"), str(tmp_path / "other.csv")])
