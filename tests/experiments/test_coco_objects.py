"""Maps against boxes: hand-made rows with known answers, and the experiment end to end on small pictures."""

from pathlib import Path

import coco_objects as coco
import coco_report
import coco_statistics as cs
import numpy as np
import pandas as pd
import pytest
import torch
from builders import fresh, tiny_overrides

from evalkit import protocol
from evalkit.analysis.summary import SCORES
from evalkit.data.boxes import to_input
from evalkit.point import Point


def test_density_against_loops():
    maps, regions = torch.randn(3, 5, 4).double(), torch.rand(4, 5, 4) > 0.5
    regions[3] = False
    maps[2] = -maps[2].abs()
    found = coco.density(maps, regions)
    for n in range(2):
        for r in range(3):
            kept = [max(float(v), 0) for v, inside in zip(maps[n].flatten(), regions[r].flatten(), strict=True) if inside]
            whole = sum(max(float(v), 0) for v in maps[n].flatten())
            assert float(found[n, r]) == pytest.approx(sum(kept) / whole / (len(kept) / 20))
    assert found[2, :3].tolist() == [0, 0, 0] and found[:, 3].isnan().all()
    assert (coco.density(torch.full((1, 5, 4), 0.1).double(), regions)[:, :3] == 1).all()  # exactly, so that ties are ties


@pytest.mark.parametrize(
    ("own", "other", "right", "share"), [(3.0, 1.0, 100, 75), (1.0, 3.0, 0, 25), (2.0, 2.0, 50, 50), (0.0, 0.0, 50, 50)]
)
def test_verdicts(own, other, right, share):
    assert coco.verdict(own, other) == right and coco.share(own, other) == share


def test_no_verdict_without_a_region():
    assert np.isnan(coco.verdict(1.0, float("nan"))) and np.isnan(coco.verdict(float("nan"), 1.0))


def pairs(right: dict[str, list[float]]) -> pd.DataFrame:
    """Rows of images with two categories each, recognised in turn."""
    rows = [
        {
            "network": network, "index": i // 2, "target": i % 2, "other": 1 - i % 2, "method": method, "categories": 2,
            "prob_full": 0.5 if i % 2 else 0.001, "other_prob": 0.001 if i % 2 else 0.5, cs.RIGHT: value, cs.LIKENESS: 0.1 * value,
        }
        for network in ("one", "two") for method, values in right.items() for i, value in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_pairs_by_hand(monkeypatch):
    monkeypatch.setattr(cs, "PAIR_TESTS", (("sees", "blind"),))
    monkeypatch.setattr(cs, "CENTRE_TESTS", ())
    blind = [100.0, 0.0] * 4
    found = pd.DataFrame(cs.pair_statistics(pairs({"sees": [100.0, 100, 100, 0, 100, 100, 0, 100], "blind": blind})))
    level = found[(found.against == "") & (found["items"] == cs.TWO)].set_index(["network", "method", "measure"])
    assert level.loc[("one", "blind", cs.RIGHT), ["value", "low", "high", "p"]].tolist() == [50, 50, 50, 1]
    assert level.loc[("one", "sees", cs.RIGHT), ["value", "images", "n"]].tolist() == [75, 4, 8]
    assert level.loc[("all", "sees", cs.RIGHT), ["value", "images", "n"]].tolist() == [75, 4, 16]  # twice the rows, no image more
    assert level.loc[("all", "sees", cs.RIGHT)].low == level.loc[("one", "sees", cs.RIGHT)].low
    gained = found[(found.against == "blind") & (found["items"] == cs.TWO) & (found.network == "one")].set_index("measure").value
    assert gained[cs.RIGHT] == 25 and gained[cs.LIKENESS] == pytest.approx(-2.5)  # there less is better
    own = found[(found["items"] == cs.OWN) & (found.against == "") & (found.measure == cs.RIGHT) & (found.network == "one")]
    assert own.set_index("method").value.to_dict() == {"sees": 75, "blind": 0} and own.p.isna().all()
    assert cs.BOTH not in set(found["items"])


def instances(gains: dict[int, list[float]]) -> pd.DataFrame:
    """Grad-CAM at 50 and Grad-CAM++ that much higher, by number of instances: each image shows one kind after the other."""
    rows = [
        {
            "network": "one", "index": i, "target": count, "instances": count, "method": method, "prob_full": 0.5,
            cs.ENERGY: 50 + gain * (method == "grad_cam_pp"), cs.DROPS[cs.KEEP, "confidence"]: 50 - gain * (method == "grad_cam_pp"),
        }
        for count, values in gains.items() for i, gain in enumerate(values) for method in ("grad_cam_pp", "grad_cam")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_contrast_by_hand(monkeypatch):
    monkeypatch.setattr(cs, "INSTANCE_TESTS", (("grad_cam_pp", "grad_cam"),))
    noise = fresh().normal(0, 1, 40)
    table = instances({1: [*noise], 3: [*(5 + noise[::-1])]})
    unseen = table.assign(prob_full=0.001, target=9, **{cs.ENERGY: 1e6 * table.instances})
    found = pd.DataFrame(cs.instance_statistics(pd.concat([table, unseen]))).query("against == 'grad_cam'")
    for measure in (cs.ENERGY, cs.DROPS[cs.KEEP, "confidence"]):  # higher and lower is better
        at = found[found.measure == measure].set_index("items")
        assert at.value[cs.ONE] == pytest.approx(noise.mean()) and at.value[cs.SEVERAL] == pytest.approx(5 + noise.mean())
        assert at.value[cs.BETWEEN] == pytest.approx(5) and at.low[cs.BETWEEN] < 5 < at.high[cs.BETWEEN]
        assert at.high[cs.BETWEEN] - at.low[cs.BETWEEN] < 2 and at.n.to_list() == [40, 40, 80] and at.images.to_list() == [40] * 3
        assert cs.claim(*(at.loc[items].to_dict() for items in (cs.SEVERAL, cs.BETWEEN))) == "holds"


@pytest.mark.parametrize(
    ("several", "between", "says"),
    [
        ((1, 2), (1, 2), "holds"),
        ((-1, 2), (1, 2), "cannot be told"),
        ((1, 2), (-1, 2), "cannot be told"),
        ((1, 2), (-2, -1), "does not hold"),
        ((-2, -1), (-1, 1), "does not hold"),
    ],
)
def test_the_claims_verdict(several, between, says):
    assert cs.claim(*({"low": low, "high": high} for low, high in (several, between))) == says


@pytest.fixture
def boxed(folder: Path) -> Path:
    """The pictures with boxes: a left, b right of the middle and overlapping; on one of the pictures b covers a."""
    lines = ["file,w,h,class,x1,y1,x2,y2"]
    for i, path in enumerate(sorted(folder.rglob("*.png"))):
        name = path.relative_to(folder).as_posix()
        lines += [f"{name},20,16,a,1,1,11,15", f"{name},20,16,b,{0 if i == 2 else 9},0,20,16"]
        lines += [f"{name},20,16,a,0,0,3,16"] if i % 2 else []
    (folder / "boxes.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_end_to_end(boxed, tmp_path):
    given = [*tiny_overrides(boxed, tmp_path / "run"), f"data.labels={boxed}/boxes.csv", "target=label", "maps=store", *coco.POINTS]
    session, run = coco.finished([one for one in given if not one.startswith("protocol.top")])
    beside, seen = coco.pair_table(session, run), coco.instance_table(session, run)
    assert len(beside) == 11 * 2 * 5 and not beside[[cs.RIGHT, cs.SHARE]].isna().any().any()
    halves = beside.groupby(["method", "index"])[[cs.RIGHT, cs.SHARE]].mean()
    for control in ("random", "constant", "centre"):
        assert np.allclose(halves.loc[control], 50) and (beside[beside.method == control][cs.LIKENESS] > 1 - 1e-9).all()
    assert seen.groupby("target").instances.unique().map(sorted).to_dict() == {0: [1, 2], 1: [1]}
    flat = seen[seen.method == "constant"].set_index(["index", "target"])[cs.HIT]
    assert np.isnan(flat.pop((2, 1))) and (flat == 50).all()  # no pixel is left outside a box that covers the picture

    stored = pd.read_parquet(run.path / "maps").query("index == 5 and method == 'grad_cam' and target == 0").iloc[0]
    low = torch.tensor(stored["map"]).view(1, stored.height, stored.width)
    energy = protocol.upsample(low.double(), session.size)[0].clamp(min=0)
    a, b = np.zeros((16, 16), bool), np.zeros((16, 16), bool)
    for box in session.source.boxes(5):
        shown = to_input(box, session.model.preprocess)
        for y, x in np.ndindex(16, 16):
            (a if box.key == "a" else b)[y, x] |= shown.x1 <= x + 0.5 < shown.x2 and shown.y1 <= y + 0.5 < shown.y2
    own, other = (float(energy[torch.from_numpy(mask)].mean()) for mask in (a & ~b, b & ~a))
    row = beside.query("index == 5 and method == 'grad_cam' and target == 0").iloc[0]
    assert row[cs.RIGHT] == (50 if own == other else 100 * (own > other))
    assert row[cs.SHARE] == pytest.approx(100 * own / (own + other) if own + other else 50)
    inside = seen.query("index == 5 and method == 'grad_cam' and target == 0").iloc[0]
    assert inside[cs.ENERGY] == pytest.approx(100 * float(energy[torch.from_numpy(a)].sum() / energy.sum()), nan_ok=True)


def test_scores_are_those_of_the_rows(boxed, tmp_path):
    given = [*tiny_overrides(boxed, tmp_path / "run"), f"data.labels={boxed}/boxes.csv", "target=label", "maps=store", *coco.POINTS]
    _, run = coco.finished([one for one in given if not one.startswith("protocol.top")])
    table = coco.scored(run).set_index(["index", "target", "method"])
    for row in run.rows.sample(20).to_dict("records"):
        for score, column in SCORES.items():
            full, masked = row[f"{column}_full"], row[f"{column}_masked"]
            point = Point(row["select"], None if pd.isna(row["top_percent"]) else row["top_percent"], row["fill"])
            name = cs.drop_name(point, score)
            expected = max(0, full - masked) / full * 100 if full > 0 else float("nan")
            assert table.loc[(row["index"], row["target"], row["method"]), name] == pytest.approx(expected, nan_ok=True)


def test_the_tables_say_what_was_measured(boxed, tmp_path, monkeypatch):
    tests = {"PAIR_TESTS": ("ablation_cam", "grad_cam"), "CENTRE_TESTS": ("grad_cam", "centre"), "INSTANCE_TESTS": ("grad_cam", "random")}
    for name, pair in tests.items():
        monkeypatch.setattr(cs, name, (pair,))
    given = [*tiny_overrides(boxed, tmp_path / "run"), f"data.labels={boxed}/boxes.csv", "target=label", "maps=store", *coco.POINTS]
    session, run = coco.finished([one for one in given if not one.startswith("protocol.top")])
    rows = [*cs.pair_statistics(coco.pair_table(session, run)), *cs.instance_statistics(coco.instance_table(session, run))]
    found, text = pd.DataFrame(rows), coco_report.markdown(pd.DataFrame(rows), [run, run])
    right = found[(found.measure == cs.RIGHT) & (found["items"] == cs.TWO) & (found.method == "grad_cam") & (found.against == "")].iloc[0]
    assert f"| grad_cam | {right.value:.1f} [{right.low:.1f}, {right.high:.1f}], p" in text and "two categories (11 images, n = 22)" in text
    assert "12 images show 24 categories" in text and "| grad_cam over centre |" in text and text.count("Levels, ") == 2
    assert all(len({line.count("|") for line in part.splitlines()}) == 1 for part in text.split("\n\n") if part.startswith("|"))
