"""Measures of maps as they arrive in a run's files."""

import io
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from builders import tiny_overrides
from PIL import Image
from rich.console import Console
from scipy import stats as scipy_stats

from evalkit import Probe, methods, protocol
from evalkit.analysis.evaluated import evaluate_run
from evalkit.analysis.load import load_runs
from evalkit.analysis.map_summary import summarise_maps
from evalkit.config.compose import compose_jobs
from evalkit.evaluation.columns import AGAINST_BOXES
from evalkit.launch.run import run_job
from evalkit.models import zoo
from evalkit.output.terminal import print_tables
from evalkit.output.write import write_all


@pytest.fixture
def boxed(folder, tmp_path):
    """Every picture of 20x16 has a box of its own class, x 5..15, y 4..12, and one of class b on the right border."""
    lines = ["file,w,h,class,x1,y1,x2,y2"]
    for name in "abc":
        for i in range(4):
            lines += [f"{name}/{i}.png,20,16,{name},5,4,15,12", f"{name}/{i}.png,20,16,b,15,4,20,12"]
    (tmp_path / "boxes.csv").write_text("\n".join(lines) + "\n")
    return [*tiny_overrides(folder, tmp_path / "run"), f"data.boxes={tmp_path / 'boxes.csv'}", "target=label"]


def measured(overrides, path) -> pd.DataFrame:
    (job,) = compose_jobs(overrides)
    run_job(job)
    return load_runs([path])[0].maps


def test_localisation_against_the_map_itself(boxed, folder, tmp_path):
    maps = measured([*boxed, "maps=store"], tmp_path / "run").set_index(["image_id", "method"])
    (job,) = compose_jobs(boxed)
    net = zoo.load(job.config.model, torch.device("cpu")).net
    for image_id, target, right in (("a/2.png", 0, 12), ("b/0.png", 1, 16)):  # of 16 columns; b's boxes join
        image = Image.open(folder / image_id).resize((16, 16), Image.Resampling.BILINEAR)
        probe = Probe(net, torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255, [target])
        heat = protocol.upsample(methods.grad_cam(probe), (16, 16))[0].numpy()
        row = maps.loc[image_id, "grad_cam"]
        inside = np.zeros((16, 16), bool)
        inside[4:12, 4:right] = True
        assert row.region_fraction == pytest.approx(inside.mean())
        assert row.others_fraction == (pytest.approx(8 * 4 / 256) if target == 0 else pytest.approx(np.nan, nan_ok=True))
        if heat.max() > 0:
            assert row.energy_inside == pytest.approx(heat[inside].sum() / heat.sum(), abs=1e-5)
            assert row.pointing == inside[np.unravel_index(heat.argmax(), heat.shape)]
        assert np.isnan(row.energy_others) == (target == 1 or heat.max() == 0)
    assert maps.xs("constant", level="method").pointing.round(6).isin([round(64 / 256, 6), round(96 / 256, 6)]).all()


def test_what_boxes_tell_is_printed(boxed, tmp_path):
    (job,) = compose_jobs(boxed)
    run_job(job)
    runs = load_runs([tmp_path / "run"])
    write_all(evaluated := [evaluate_run(run) for run in runs], tmp_path / "out", None)
    console = Console(file=io.StringIO(), width=120)
    print_tables(console, evaluated)
    lines = console.file.getvalue().partition("maps against boxes")[2]
    lines = [line.strip() for line in lines.splitlines()]
    measures = evaluated[0].measures
    found = measures.set_index(["method", "metric"]).value
    for method in runs[0].methods:
        shown = next(line for line in lines if line.startswith(method))
        numbers = [float(cell.split("[")[0]) for cell in shown.removeprefix(method).split("]") if cell.strip()]
        expected = [found[method, metric] for metric in ("pointing", "energy_inside", "best_iou") if np.isfinite(found[method, metric])]
        assert numbers == pytest.approx(expected, abs=0.006) and numbers
    without = measures[~measures.metric.isin(["pointing", "energy_inside", "best_iou"])]
    print_tables(console := Console(file=io.StringIO(), width=120), [replace(evaluated[0], measures=without)])
    assert "boxes" not in console.file.getvalue()


def test_a_class_without_boxes_has_no_localisation(boxed, tmp_path):
    maps = measured([*boxed, "target=4"], tmp_path / "run")
    assert maps.pointing.isna().all() and maps.complexity.notna().any()


def test_other_classes_boxes_count_in_a_batch_without_own_boxes(folder, tmp_path):
    lines = ["file,w,h,class,x1,y1,x2,y2", *(f"{name}/{i}.png,20,16,{name},5,4,15,12" for name in "abc" for i in range(4))]
    (tmp_path / "boxes.csv").write_text("\n".join(lines) + "\n")
    key, found = ["image_id", "method"], {}
    for size in (1, 12):
        out = tmp_path / f"batches-{size}"
        overrides = [*tiny_overrides(folder, out), f"data.boxes={tmp_path / 'boxes.csv'}", "target=0", f"batch_size={size}"]
        found[size] = measured(overrides, out).set_index(key).sort_index()[list(AGAINST_BOXES)]
    pd.testing.assert_frame_equal(found[1], found[12], rtol=1e-4, atol=1e-6)
    without_own = found[1][found[1].region_fraction.isna()]
    assert without_own.index.get_level_values("image_id").str[0].isin(["b", "c"]).all()
    assert without_own.others_fraction.tolist() == pytest.approx([8 * 8 / 256] * len(without_own)) and len(without_own)


def test_coherency_is_the_correlation_of_both_maps(boxed, folder, tmp_path):
    maps = measured([*boxed, "measures=coherency", "protocol.select=[soft,keep_top]"], tmp_path / "run").set_index(["image_id", "method"])
    (job,) = compose_jobs(boxed)
    net = zoo.load(job.config.model, torch.device("cpu")).net
    image = Image.open(folder / "c" / "1.png").resize((16, 16), Image.Resampling.BILINEAR)
    x = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
    first = protocol.upsample(methods.ablation_cam(Probe(net, x, [2])), (16, 16))
    again = protocol.upsample(methods.ablation_cam(Probe(net, x * protocol.soft_mask(first), [2])), (16, 16))
    row = maps.loc["c/1.png", "ablation_cam"]
    if first.amax() > first.amin() and again.amax() > again.amin():
        rho = scipy_stats.pearsonr(first.flatten(), again.flatten()).statistic
        assert row.coherency == pytest.approx((1 + rho) / 2, abs=1e-4)
    assert row.complexity == pytest.approx(float(protocol.soft_mask(first).mean()), abs=1e-5)
    found = summarise_maps(load_runs([tmp_path / "run"])[0])
    assert {"adcc", "coherency", "complexity", "pointing"} <= set(found.metric)


def test_areas_come_from_the_rows_of_a_sweep(boxed, tmp_path):
    (job,) = compose_jobs([*boxed, "protocol.top_percent=[0,40,100]", "protocol.select=[keep_top,remove_top]"])
    run_job(job)
    (run,) = load_runs([tmp_path / "run"])
    found = summarise_maps(run)
    area = found[(found.metric == "area") & (found.method == "grad_cam") & (found.score == "confidence")].set_index("select")
    rows = run.rows[run.rows.method == "grad_cam"].pivot(index="index", columns=["select", "top_percent"], values="prob_masked")
    for select in ("keep_top", "remove_top"):
        at = rows[select]
        expected = (0.4 * (at[0] + at[40]) / 2 + 0.6 * (at[40] + at[100]) / 2) * 100
        assert area.value[select] == pytest.approx(expected.mean())
    assert not area.lower_is_better["keep_top"] and area.lower_is_better["remove_top"]
    write_all([evaluate_run(run)], tmp_path / "out", None)
    text = (tmp_path / "out" / "tables.md").read_text()
    assert "Insertion AUC, confidence, black fill (higher is better)" in text and "The same maps under every protocol" in text
    assert "Deletion AUC, activation, black fill (lower is better)" in text
    took = run.seconds_per_map()
    for method in run.methods:
        assert any(line.startswith(f"| {method} ") and line.endswith(f"| {took[method]:.2g} |") for line in text.splitlines())


def gain_by_hand(run, method: str, column: str, fill: str, percents: list[float]) -> np.ndarray:
    """The gain of each image from its rows: trapezoids over 0, the percentages removed, and 100, with no difference at the ends."""
    gains = []
    for _, rows in run.rows[(run.rows.method == method) & (run.rows.fill == fill)].groupby("index"):
        at = rows.set_index(["select", "top_percent"])[column]
        steps = [(0.0, 0.0), *((x, at["keep_top", 100 - x] - at["remove_top", x]) for x in percents), (100.0, 0.0)]
        gains.append(sum((b - a) / 100 * (u + v) / 2 for (a, u), (b, v) in pairwise(steps)))
    return np.array(gains)


def test_the_relevance_gain_comes_from_complementary_rows(boxed, tmp_path):
    """Keeping the top 70 % removes the least relevant 30 %. Under blur the thresholds do not fit, so there is none."""
    points = [f"{{select: {s}, top_percent: {x}, fill: {f}}}" for f in ("black", "road") for s, *xs in
              (("keep_top", 70, 60, 15), ("remove_top", 85, 30, 40)) for x in xs]  # fmt: skip
    points += ["{select: keep_top, top_percent: 20, fill: blur}", "{select: remove_top, top_percent: 20, fill: blur}"]
    empty = ["protocol.select=[]", "protocol.top_percent=[]", "protocol.fill=[]"]
    (job,) = compose_jobs([*boxed, *empty, f"protocol.points=[{', '.join(points)}]"])
    run_job(job)
    (run,) = load_runs([tmp_path / "run"])
    found = summarise_maps(run)
    gains = found[found.metric == "srg"].set_index(["fill", "score", "method"])
    assert set(gains.index.get_level_values("fill")) == {"black", "road"} and not gains.lower_is_better.any()
    for fill, score, method in gains.index:
        values = gain_by_hand(run, method, {"confidence": "prob_masked", "activation": "logit_masked"}[score], fill, [30, 40, 85])
        row = gains.loc[fill, score, method]
        assert row.value == pytest.approx(values.mean() * (100 if score == "confidence" else 1), abs=1e-9)
        assert row.low <= row.value <= row.high and row.n == len(values)
    write_all([evaluate_run(run)], tmp_path / "out", None)
    assert "SRG, confidence, road fill (higher is better)" in (tmp_path / "out" / "tables.md").read_text()


def test_the_relevance_gain_is_insertion_minus_deletion(boxed, tmp_path):
    """Where the thresholds reach from 0 to 100, at the same fill, also under road, whose image without kept pixels is defined."""
    sweep = ["protocol.top_percent=[0,25,75,100]", "protocol.select=[keep_top,remove_top]", "protocol.fill=[blur,road]"]
    (job,) = compose_jobs([*boxed, *sweep])
    run_job(job)
    (run,) = load_runs([tmp_path / "run"])
    found = summarise_maps(run).set_index(["metric", "fill", "score", "method"])
    for fill in ("blur", "road"):
        for score in ("confidence", "activation"):
            area = found.loc["area", fill, score].reset_index().pivot(index="method", columns="select", values="value")
            gain = found.loc["srg", fill, score].value
            assert np.allclose(gain, (area["keep_top"] - area["remove_top"])[gain.index], atol=1e-5)
