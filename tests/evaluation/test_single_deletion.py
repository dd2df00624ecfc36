"""The single-deletion score against a loop over patches, images and scipy, and the number of passes it takes."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
import torch
from builders import TinyGAP, fresh, tiny_overrides
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor

from evalkit import Probe, SplitModel, methods, protocol
from evalkit.analysis.evaluated import evaluate_run
from evalkit.analysis.load import load_runs
from evalkit.config.compose import compose_jobs
from evalkit.data.loader import Batch
from evalkit.errors import UserError
from evalkit.evaluation.batch_split import BatchSplitter
from evalkit.evaluation.loop import evaluate
from evalkit.evaluation.rows import ShardRows
from evalkit.evaluation.session import Session, open_session
from evalkit.evaluation.single_deletion import patch_drops, patch_sums, patches, rank_correlation
from evalkit.evaluation.stopwatch import Stopwatch
from evalkit.launch.run import run_job
from evalkit.output.markdown import markdown
from evalkit.runs.folder import RunFolder
from evalkit.runs.provenance import identify

CHOSEN = "measures=[single_deletion]"


@pytest.mark.parametrize(("height", "width", "grid"), [(16, 16, 4), (17, 22, 4), (5, 7, 5), (225, 299, 7), (3, 3, 3)])
def test_patches_cover_every_pixel_once_and_are_of_nearly_one_size(height, width, grid):
    count, found = np.zeros((height, width), int), patches(height, width, grid)
    for rows, columns in found:
        count[rows, columns] += 1
    assert (count == 1).all() and len(found) == grid**2
    for side, spans in ((height, [rows for rows, _ in found]), (width, [columns for _, columns in found])):
        assert {span.stop - span.start for span in spans} <= {side // grid, -(-side // grid)}
    assert found == sorted(found, key=lambda patch: (patch[0].start, patch[1].start))  # row by row


@pytest.mark.parametrize(("n", "ties"), [(1, False), (5, False), (7, True)])
def test_the_rank_correlation_is_scipys(n, ties):
    rng = fresh()
    first, second = (torch.from_numpy(rng.integers(0, 4, (n, 16)) / 3 if ties else rng.normal(size=(n, 16)) * 1e-9) for _ in range(2))
    found = rank_correlation(first, second)
    assert found.numpy() == pytest.approx([spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)], abs=1e-12)
    assert rank_correlation(first, first.exp()).numpy() == pytest.approx(1)


def test_what_has_no_rank_correlation():
    varied, flat = torch.rand(3, 9), torch.full((3, 9), 0.1)
    assert rank_correlation(varied, flat).isnan().all() and rank_correlation(flat, varied).isnan().all()
    varied[0, 2], varied[1, 3] = torch.nan, torch.inf
    found = rank_correlation(varied, torch.rand(3, 9))
    assert found[:2].isnan().all() and found[2].isfinite()
    constant = torch.full((2, 17, 17), 0.1)
    assert patch_sums(constant, 4).isnan().all()  # although the patches' sizes differ, and so would the sums
    constant[1, 3, 3] = 0.2
    assert patch_sums(constant, 4)[1].isfinite().all()


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("fill", ["mean", "black", "blur"])
def test_drops_and_sums_are_those_of_a_loop(n, fill):
    net = SplitModel(TinyGAP().double().eval(), "features", mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3))
    images = torch.rand(n, 3, 17, 22, dtype=torch.float64)
    probe = Probe(net, images)
    maps = protocol.upsample(methods.grad_cam(probe).double(), (17, 22))
    filler = protocol.filling(images, fill, net.mean)
    calls = []

    def score(changed: Tensor) -> Tensor:
        calls.append(len(changed))
        return net(changed).gather(1, probe.targets[:, None])[:, 0]

    drops, sums = patch_drops(images, filler, 4, probe.scores, score), patch_sums(maps, 4)
    assert calls == [n] * 16
    for i in range(n):
        drop, total, replaced = [], [], filler.expand_as(images)[i].numpy()
        for row in range(4):
            for column in range(4):
                inside = np.zeros((17, 22), bool)
                for y in range(17):
                    for x in range(22):
                        inside[y, x] = row * 17 // 4 <= y < (row + 1) * 17 // 4 and column * 22 // 4 <= x < (column + 1) * 22 // 4
                changed = images[i].numpy().copy()
                changed[:, inside] = replaced[:, inside]
                one = torch.from_numpy((changed - np.array([0.4, 0.5, 0.6])[:, None, None]) / np.array([0.2, 0.2, 0.3])[:, None, None])
                with torch.no_grad():
                    drop.append(float(probe.scores[i] - net.module(one[None])[0, probe.targets[i]]))
                total.append(float(maps[i].numpy()[inside].sum()))
        assert drops[i].numpy() == pytest.approx(drop, abs=1e-10) and sums[i].numpy() == pytest.approx(total, abs=1e-10)


def batch_of(session: Session) -> Batch:
    """Return all images of a session as one batch."""
    images = torch.stack([session.model.preprocess(session.source.load(position)) for position in session.positions])
    return Batch(0, True, {position: session.source.class_keys(position) for position in session.positions}, session.positions, images, {})


def rows_and_passes(overrides: list[str]) -> tuple[pd.DataFrame, int]:
    """Evaluate all images as one batch; return the maps' rows, and how many images passed the trunk."""
    session, rows, seen = open_session(compose_jobs(overrides)[0].config), ShardRows(), 0
    net = session.model.net
    trunk = net.trunk

    def counted(images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        nonlocal seen
        seen += len(images)
        return trunk(images)

    net.trunk = counted  # type: ignore[method-assign]
    evaluate(session, batch_of(session), rows, Stopwatch(), BatchSplitter())
    return rows.tables()[1].to_pandas(), seen


@pytest.mark.parametrize("methods", ["[grad_cam]", "[grad_cam,ablation_cam,hires_cam,random,centre,constant]"])
def test_all_methods_together_take_one_pass_for_each_patch(folder, tmp_path, methods):
    base = [*tiny_overrides(folder, tmp_path / "run"), f"method={methods}", "limit=5"]
    _, without = rows_and_passes(base)
    points = 2
    assert without == 5 * (1 + points * (methods.count(",") + 1))
    for grid in (2, 3):
        _, seen = rows_and_passes([*base, CHOSEN, f"single_deletion.grid={grid}"])
        assert seen - without == 5 * grid**2


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("settings", [[], ["single_deletion.grid=3", "single_deletion.fill=black", "single_deletion.score=confidence"]])
def test_a_run_holds_what_a_loop_gives(folder, tmp_path, batch_size, settings):
    overrides = [
        *tiny_overrides(folder, tmp_path / "run", "builders.TinyDouble"),
        CHOSEN,
        "maps=store",
        f"batch_size={batch_size}",
        "target=label",
        *settings,
    ]
    (job,) = compose_jobs(overrides)
    run_job(job)
    (run,) = load_runs([tmp_path / "run"])
    session, grid = open_session(job.config), 3 if settings else 4
    stored = RunFolder(tmp_path / "run").stored_maps(1)
    assert stored is not None
    for row in stored[0].to_pylist():
        image = session.model.preprocess(session.source.load(row["index"])).double() / 255
        low = torch.tensor(row["map"], dtype=torch.float32).view(1, row["height"], row["width"])
        heat = protocol.upsample(low, (16, 16))[0].double().numpy()
        variants = [image]
        totals = []
        for rows, columns in itertools.product(range(grid), range(grid)):
            ys, xs = (slice(place * 16 // grid, (place + 1) * 16 // grid) for place in (rows, columns))
            variants.append(image.clone())
            for channel, mean in enumerate(job.config.model.mean):
                variants[-1][channel, ys, xs] = 0 if settings else mean
            totals.append(heat[ys, xs].sum())
        with torch.no_grad():
            logits = session.model.net(torch.stack(variants))
        scores = (logits.softmax(1) if settings else logits)[:, row["target"]].numpy()
        if heat.max() > heat.min():
            assert row["single_deletion"] == pytest.approx(spearmanr(totals, scores[0] - scores[1:]).statistic, abs=1e-6), row["method"]
        else:
            assert np.isnan(row["single_deletion"])
    constant = run.maps[run.maps.method == "constant"]
    assert constant.single_deletion.isna().all() and len(constant)
    assert run.maps[run.maps.method == "centre"].single_deletion.notna().all()
    evaluated = evaluate_run(run)
    found = evaluated.measures[evaluated.measures.metric == "single_deletion"].set_index("method")
    values = run.maps[run.maps.method == "random"].single_deletion
    assert found.value["random"] == pytest.approx(values.mean()) and found.n["random"] == values.notna().sum()
    assert found.low["random"] < found.value["random"] < found.high["random"] and not found.lower_is_better.any()
    assert found.n["constant"] == 0 and np.isnan(found.value["constant"])
    text = markdown([evaluated])
    assert "Single-deletion score (higher is better)" in text and f"over {grid} x {grid} patches" in text
    assert ("what the confidence loses when black fill" if settings else "what the logit loses when mean fill") in text


def test_only_a_chosen_measure_is_measured_and_part_of_the_identity(folder, tmp_path):
    base = tiny_overrides(folder, tmp_path / "run")

    def facts(*more: str) -> dict[str, object]:
        return dict(identify(open_session(compose_jobs([*base, *more])[0].config)).facts)

    plain = facts()
    assert plain["measures"] == [] and "single_deletion" not in plain
    assert facts("single_deletion.grid=7") == plain  # not chosen: it changes no number
    assert facts(CHOSEN)["single_deletion"] == {"grid": 4, "fill": "mean", "score": "logit"}
    assert facts(CHOSEN, "single_deletion.grid=7") != facts(CHOSEN) != plain
    maps, _ = rows_and_passes(base)
    assert maps.single_deletion.isna().all()


def test_settings_that_do_not_fit_are_refused(folder, tmp_path):
    base = [*tiny_overrides(folder, tmp_path / "run"), CHOSEN]
    for wrong, said in (
        ("single_deletion.grid=1", "single_deletion.grid=1 is not valid"),
        ("single_deletion.fill=soft", "single_deletion.fill=soft is not valid"),
        ("single_deletion.size=3", "no key 'single_deletion.size'"),
        ("measures=[single_deletoin]", "did you mean 'single_deletion'"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            compose_jobs([*base, wrong])
    with pytest.raises(UserError, match=r"model\.output=raw has no confidence: set single_deletion\.score=logit"):
        compose_jobs([*base, "model.output=raw", "single_deletion.score=confidence"])
    with pytest.raises(UserError, match=r"single_deletion\.grid=17 patches do not fit a side of 16 pixels: choose at most 16"):
        open_session(compose_jobs([*base, "single_deletion.grid=17"])[0].config)
    open_session(compose_jobs([*base, "single_deletion.grid=16"])[0].config)


def test_an_image_without_scores_when_a_patch_is_gone_has_no_score(tmp_path):
    (tmp_path / "pictures" / "a").mkdir(parents=True)
    for name, lit in (("one", 8), ("all", 16)):  # where a single patch is lit, the network sees black without it, and puts out NaN
        pixels = np.zeros((16, 16, 3), np.uint8)
        pixels[:lit, :lit] = fresh().integers(100, 256, (lit, lit, 3))
        Image.fromarray(pixels).save(tmp_path / "pictures" / "a" / f"{name}.png")
    overrides = [
        *tiny_overrides(tmp_path / "pictures", tmp_path / "run", "builders.NaNNet"),
        "model.mean=[0.5,0.5,0.5]",
        "model.std=[0.5,0.5,0.5]",
    ]
    maps, _ = rows_and_passes([*overrides, CHOSEN, "single_deletion.grid=2", "single_deletion.fill=black", "method=[centre,random]"])
    found = maps[maps.method == "random"].set_index("image_id").single_deletion
    assert np.isnan(found["a/one.png"]) and np.isfinite(found["a/all.png"])
