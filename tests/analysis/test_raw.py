"""Runs without confidences: every number by a plain loop over the rows, and no word of a confidence in what is written."""

import re

import numpy as np
import pandas as pd
import pytest
from builders import fresh, make_run

from evalkit.analysis.cautions import cautions
from evalkit.analysis.evaluated import evaluate_run
from evalkit.analysis.metrics import relative_drop
from evalkit.output.latex import latex
from evalkit.output.markdown import markdown
from evalkit.output.plots import figures
from evalkit.output.tables import caption
from evalkit.output.write import write_all
from evalkit.photos.gallery_choice import select

METHODS = ("ablation_cam", "grad_cam", "centre")
RAW = {"model": {"name": "net", "layer": "l", "weights_hash": "h", "output": "raw"}}
NAMES = {"class_names": ["age", "-age"]}


@pytest.fixture
def run(tmp_path):
    """Scores of both signs, some of them 0, some changed by nothing; the columns of confidences are empty."""
    rng = fresh()
    full = rng.normal(size=40).round(1)
    full[:3] = 0
    masked = {method: (full + rng.normal(size=40) * rng.integers(0, 2, 40)).round(1) for method in METHODS}
    made = make_run(tmp_path / "run", full, masked, asked=RAW, paper=None, record=NAMES)
    made.rows["prob_full"] = made.rows["prob_masked"] = np.nan
    return made


def by_loop(rows: pd.DataFrame, method: str, other: str) -> dict[str, float]:
    """The metrics from the rows alone."""
    own, theirs = ({row.Index: row for row in rows[rows.method == name].set_index("index").itertuples()} for name in (method, other))
    drops, ups, wins, lost, size, changes = [], [], [], 0.0, 0.0, []
    for at, row in own.items():
        y, o, rival = row.logit_full, row.logit_masked, theirs[at].logit_masked
        if y != 0:
            drops.append(100 * max(0, y - o) / abs(y))
            lost, size = lost + max(0, y - o), size + abs(y)
        ups.append(100 * (o > y))
        wins.append(100 * (max(0, y - o) < max(0, y - rival)))
        changes.append(o - y)
    mean = {"average_drop": drops, "increase": ups, "win": wins, "score_change": changes}
    return {key: sum(values) / len(values) for key, values in mean.items()} | {
        "drop_of_sums": 100 * lost / size,
        "median_drop": float(np.median(drops)),
    }


def test_metrics_equal_a_plain_loop(run):
    summary = evaluate_run(run).summary
    assert set(summary.score) == {"score"} and "average_gain" not in set(summary.metric)
    for method, other in (("ablation_cam", "grad_cam"), ("grad_cam", "ablation_cam"), ("centre", "ablation_cam")):
        found = summary[summary.method == method].set_index("metric").value
        for metric, expected in by_loop(run.rows, method, other).items():
            assert found[metric] == pytest.approx(expected, rel=1e-9), metric
    assert (summary[summary.metric == "average_drop"].n == (run.rows.groupby("index").logit_full.first() != 0).sum()).all()


def test_differences_equal_a_plain_loop(run):
    tests = evaluate_run(run).comparisons
    first, second = by_loop(run.rows, "ablation_cam", "grad_cam"), by_loop(run.rows, "grad_cam", "ablation_cam")
    pair = tests[(tests["first"] == "ablation_cam") & (tests.second == "grad_cam")].set_index("metric")
    for metric in ("average_drop", "increase", "win"):
        assert pair.difference[metric] == pytest.approx(first[metric] - second[metric], rel=1e-9, abs=1e-9)


def test_the_sign_of_a_drop():
    found = relative_drop(np.array([2.0, -2, 2, -2, 0, -2]), np.array([1.0, -3, 3, -1, -1, 2]), raw=True)
    np.testing.assert_array_equal(found, [50, 50, 0, 0, np.nan, 0])
    assert np.isnan(relative_drop(np.array([-2.0]), np.array([-3.0]))).all()  # as ever for logits


def test_nothing_that_is_written_speaks_of_a_confidence(run, tmp_path):
    evaluated = evaluate_run(run)
    lines = caption(run)
    zeros = int((run.rows.groupby("index").logit_full.first() == 0).sum())
    rule = next(line for line in lines if "max(0, Y - O) / |Y|" in line)
    assert rule.endswith(f"Left out of the drops because Y = 0: {zeros}.") and "-z where it is negative" in rule
    for text in (*lines, markdown([evaluated]), latex([evaluated])):
        assert not re.search(r"confidence(?!s or top-1| intervals)|activation|logit|top-1(?!\.)", text.lower()), text
    assert rule.replace("|", "x")[:60] in latex([evaluated]).replace("|", "x")
    for _, figure in figures(evaluated):
        texts = [part.get_text() for part in figure.findobj(lambda part: hasattr(part, "get_text"))]
        assert any("score" in text for text in texts) and not any("confidence" in text or "activation" in text for text in texts)
    write_all([evaluated], tmp_path / "written", plot=None)


def test_labels_make_no_top1(run):
    assert run.counts()["top1_percent"] is None and not any("top-1" in caution for caution in cautions(run))


def test_the_gallery_chooses_by_the_score(run):
    point = run.points[0]
    rows = run.rows.set_index(["index", "method"])
    for entry in select(run, point, 5):
        losses = {}
        for method in ("ablation_cam", "grad_cam"):
            row = rows.loc[entry.index, method]
            losses[method] = max(0, row.logit_full - row.logit_masked)
        best = min(losses.values())
        winners = [method for method, loss in losses.items() if loss == best]
        assert entry.winner == (winners[0] if len(winners) == 1 else "tie")
