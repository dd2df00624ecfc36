"""Arrays of a run's rows are those of the rows as one table, whatever the shards, the order and the number of points read at once."""

import numpy as np
import pandas as pd
import pytest
from builders import Tables, fresh, make_run

from evalkit.analysis import rows as module
from evalkit.analysis.load import load_runs
from evalkit.analysis.rows import Rows, read_part
from evalkit.evaluation.columns import MAPS
from evalkit.point import Point

METHODS = ["ablation_cam", "grad_cam", "random"]
POINTS = [Point("keep_top", 20.0, "black"), Point("soft", None, "mean"), Point("remove_top", 20.0, "black"), Point("keep_top", 5.0, "blur")]


def table(images=40, targets=2):
    """Rows with unreadable images, scores that are not finite, missing and repeated rows, in no order but that of the index."""
    rng = fresh()
    lines = [
        {
            "index": 3 * i, "image_id": f"{i}.png", "label": int(rng.integers(3)), "predicted": int(rng.integers(3)), "target": int(t),
            "method": method, "select": point.select, "top_percent": point.top_percent, "fill": point.fill,
            "prob_full": i / images, "logit_full": i - 3.5 + t, "prob_masked": rng.random(), "logit_masked": rng.normal(),
            "status": rng.choice(["ok", "degenerate", "nonfinite"], p=[0.9, 0.097, 0.003]),
        }
        for i in range(images) for t in rng.permutation(5)[:targets] for method in METHODS for point in POINTS
    ]  # fmt: skip
    rows = pd.DataFrame(lines)
    lost = rows["index"] == 9
    rows.loc[lost, ["predicted", "target", "prob_full", "logit_full", "prob_masked", "logit_masked"]] = np.nan
    rows.loc[lost, ["status", "error"]] = "error", "cannot be read"
    gone = rows.index[rows["index"] == 12][5]
    twice = rows[rows["index"] == 15].iloc[[3]]
    exchanged = pd.concat([rows[rows["index"] == 18].iloc[1:], rows[rows["index"] == 18].iloc[[1]]])
    rows = pd.concat([rows[rows["index"] != 18].drop(index=gone), twice, exchanged])
    return rows.sample(frac=1, random_state=int(rng.integers(1000))).sort_values("index", kind="stable", ignore_index=True)


def parts_of(rows, cuts):
    return [read_part(Tables(rows[rows["index"].isin(cut)], pd.DataFrame(columns=MAPS.names))) for cut in cuts]


@pytest.mark.parametrize("together", [1, 2**28])
@pytest.mark.parametrize("targets", [1, 2])
def test_arrays_are_those_of_one_table(together, targets, monkeypatch):
    monkeypatch.setattr(module, "TOGETHER", together)
    rows = table(targets=targets)
    indices = fresh().permutation(rows["index"].unique())
    found = Rows(parts_of(rows, np.array_split(indices, 3)), METHODS)
    bad = rows.loc[rows.status.isin(["error", "nonfinite"]), "index"].unique()
    sizes = rows.groupby(["index", "target"]).size()
    distinct = rows.drop_duplicates(["index", "target", "method", "select", "top_percent", "fill"]).groupby(["index", "target"]).size()
    whole = sizes[(sizes == 12) & (distinct == 12) & ~sizes.index.get_level_values(0).isin(bad)].index
    assert list(zip(found.scored_items["index"], found.scored_items.target, strict=True)) == list(whole) and len(whole) > 10
    assert set(found.points) == set(POINTS)
    for point in [*POINTS, *POINTS[::-1]]:
        tops = rows.top_percent.isna() if point.top_percent is None else rows.top_percent == point.top_percent
        here = rows[(rows["select"] == point.select) & (rows["fill"] == point.fill) & tops].set_index(["index", "target"]).loc[whole]
        for column in ("prob", "logit"):
            expected = here.reset_index().pivot(index="method", columns=["index", "target"], values=f"{column}_masked")
            np.testing.assert_array_equal(found.masked(point, column), expected.sort_index(axis=1).loc[METHODS])
            expected = here.reset_index().pivot(index="method", columns=["index", "target"], values=f"{column}_full")
            np.testing.assert_array_equal(found.full(column), expected.sort_index(axis=1).loc[METHODS])
    np.testing.assert_array_equal(sorted(bad), found.excluded["index"])
    assert found.excluded.set_index("index").error[9] == "cannot be read"
    chosen = {int(whole[0][0]), int(whole[3][0])}
    some = found.rows_of(chosen, POINTS[1])
    assert set(some["index"]) == chosen and set(some["select"]) == {"soft"} and len(some) == 2 * targets * 3


def test_a_merged_run_has_the_rows_of_both(tmp_path):
    rng = fresh()
    full = rng.uniform(1, 9, 30)
    make_run(tmp_path / "a", full, {"ablation_cam": full - 1}, status={(3, "ablation_cam"): "nonfinite"})
    make_run(tmp_path / "b", full, {"grad_cam": full - 2, "random": full - 3}, status={(5, "random"): "error"})
    (run,) = load_runs([tmp_path / "a", tmp_path / "b"])
    masked = run.table.masked(run.points[0], "logit")
    kept = np.delete(full, [3, 5])
    np.testing.assert_array_equal(masked, [kept - 1, kept - 2, kept - 3])
    assert run.counts()["nonfinite_of"] == {"ablation_cam": 1} and run.counts()["scored"] == 28
    assert len(run.rows) == 90 and len(run.scored) == 84 and list(run.items["index"]) == [i for i in range(30) if i not in (3, 5)]
