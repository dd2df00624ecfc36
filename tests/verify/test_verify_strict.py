"""Scores altered within the tolerances so that strict metrics move: found where that is more than rounding, or leans to one side."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from alterations import Folder
from builders import fresh, tiny_overrides

from evalkit.config.compose import compose_jobs
from evalkit.evaluation.columns import MAPS, ROWS
from evalkit.launch.run import run_job
from evalkit.protocol import Ranking, upsample
from evalkit.verify.compare import Comparison
from evalkit.verify.reopen import reopened
from evalkit.verify.sample import drawn
from evalkit.verify.strict import Leanings
from evalkit.verify.ties import variations
from evalkit.verify.verify import open_run, verify

METHODS = ("first", "second", "third")
IMAGES = 40


@pytest.fixture
def rows(folder, tmp_path):
    """Rows of 40 images and three methods whose masked scores are a little below the whole image's."""
    (job,) = compose_jobs([*tiny_overrides(folder, tmp_path / "run"), "limit=1", "method=[centre]", "protocol.top_percent=[50]"])
    row, rng = run_job(job).rows().iloc[:1], fresh()
    frame = pd.concat([row.assign(index=i, image_id=str(i), method=name) for i in range(IMAGES) for name in METHODS], ignore_index=True)
    frame["rank_gap"] = 1.0  # no near ties
    frame["prob_full"] = np.repeat(rng.uniform(0.2, 0.8, IMAGES), len(METHODS))
    frame["logit_full"] = np.repeat(rng.uniform(5, 9, IMAGES), len(METHODS))
    frame["prob_masked"] = frame["prob_full"] * np.tile([1 - 2e-4, 0.6, 0.3], IMAGES)
    frame["logit_masked"] = frame["logit_full"] * np.tile([0.9, 0.6, 0.3], IMAGES)
    return frame


def compared(recorded, computed):
    comparison, maps = Comparison(), MAPS.empty_table()
    tables = (pa.Table.from_pandas(frame, schema=ROWS, preserve_index=False) for frame in (recorded, computed))
    comparison.add(*((table, maps) for table in tables))
    return comparison


def test_a_score_within_its_tolerance_differs_where_it_turns_a_comparison(rows):
    rng = fresh()
    frame, first = rows.copy(), rows["method"] == "first"
    up = first & (rng.random(len(rows)) < 0.5)
    frame.loc[up, "prob_masked"] *= 1 + 4e-4  # above the whole image's
    frame.loc[first & ~up, "prob_masked"] *= 1 - 4e-4
    found = compared(frame, rows)
    assert found.shares["prob_masked"] < 0.5 and found.differing_images == set(rows.loc[up, "index"])
    assert found.differing_rows == up.sum() and "turns a comparison" in found.differences[0].column


def test_a_near_saturated_confidence_has_no_room(rows):
    rows["prob_full"], rows["prob_masked"] = 1 - 1e-7, 1 - 2e-7
    frame = rows.assign(prob_masked=rows["prob_masked"].where(rows["method"] != "first", 1.0))
    found = compared(frame, rows)
    assert found.shares["prob_masked"] < 1e-3 and found.differing_rows == IMAGES


@pytest.mark.parametrize("select", ["keep_top", "remove_top"])
def test_turns_within_rounding_differ_where_they_lean_to_one_side(rows, select):
    rng = fresh()
    rows["select"] = select
    rows["prob_masked"] = rows["prob_full"] * np.tile([1.0, 0.6, 0.3], IMAGES)
    first, noise = rows["method"] == "first", 1e-9 * rng.uniform(0.1, 1, len(rows))
    sides = rng.permutation(np.repeat([-1, 1], IMAGES // 2))
    both, up = rows.copy(), rows.copy()
    both.loc[first, "prob_masked"] += sides * noise[first]
    up.loc[first, "prob_masked"] += noise[first]
    fair, forged = compared(both, rows), compared(up, rows)
    assert fair.differing_rows == forged.differing_rows == 0
    assert fair.leanings.comparisons == forged.leanings.comparisons == IMAGES
    assert fair.leanings.one_sided() == {} and fair.leanings.images["first"] == (IMAGES // 2, IMAGES // 2)
    assert forged.leanings.one_sided() == {"first": (IMAGES, 0) if select == "keep_top" else (0, IMAGES)}


def test_the_level_is_that_of_the_exact_sign_test():
    for for_it, methods, found in ((10, 1, False), (11, 1, True), (11, 2, False), (12, 2, True)):  # 2 * 0.5**11 = 0.00098
        leanings = Leanings(images={"mine": (for_it, 0), **{str(i): (0, 0) for i in range(methods - 1)}})
        assert bool(leanings.one_sided()) == found


def test_equal_values_of_a_map_stay_equal_when_it_is_varied():
    rng = fresh()
    flat = torch.full((7, 7), float(rng.uniform(0.1, 9)))
    assert all(map_.unique().numel() == 1 for map_ in variations(flat, (56, 56), 1e-5, rng))
    steps = torch.ones(7, 7)
    steps[2:6, 1:5] = 3.0  # a plateau: its inner pixels move together, but for the last place, as the interpolation rounds
    varied = variations(steps, (56, 56), 1e-5, rng)
    assert all(inner.max() - inner.min() < 1e-6 for inner in varied[:, 24:40, 16:32])
    assert (varied[0] == upsample(steps[None], (56, 56))[0]).all() and len({float(map_[30, 20]) for map_ in varied}) > 10
    ring = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])  # twins change places
    orders = {tuple(Ranking(map_[None]).sorted[1][0, :20].tolist()) for map_ in variations(ring, (12, 12), 1e-5, rng)}
    assert len(orders) > 10
    assert (variations(torch.zeros(3, 3), (6, 6), 1e-5, rng) == 0).all()


def test_scores_of_a_constant_map_have_no_room(folder, tmp_path):
    (job,) = compose_jobs([*tiny_overrides(folder, tmp_path / "run"), "method=[constant]", "protocol.top_percent=[30]"])
    run, altered = run_job(job), Folder(tmp_path / "run", fresh())
    opened = open_run(reopened(run, ["batch_size=3"], ["builders"]))
    assert verify(run, opened, drawn(12, 12)).verified
    rows, maps, about = altered.read(0)
    rows["logit_masked"] += 1e-3 * rows["logit_full"].abs().median() + 1e-3 * rows["logit_masked"].abs()
    altered.write(0, rows, maps, about)
    outcome = verify(run, opened, drawn(12, 12))
    assert outcome.comparison.near_ties == 12 and outcome.comparison.differing_images == set(rows["index"])
