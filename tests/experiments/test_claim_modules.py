"""Each claim's module: hand-made values with known answers, loops, and the whole on tiny networks and pictures."""

from pathlib import Path

import claim_bias
import claim_cost
import claim_discrimination
import claim_instances
import claim_protocols
import claim_regions
import claim_runs
import claim_variants
import claims
import coco_statistics as cs
import numpy as np
import pandas as pd
import pytest
import torch
from builders import HALF, TinyFC, TinyGAP, fresh, tiny_overrides
from claim_report import read
from scipy.stats import spearmanr

from evalkit import Probe, SplitModel, methods
from evalkit.analysis import stats
from evalkit.bench.timing import BenchNetwork
from evalkit.config.compose import compose_jobs
from evalkit.evaluation.session import Session, open_session
from evalkit.models.settings import ModelConfig
from evalkit.pixels import in_unit_range


def overrides(folder: Path, out: Path, factory: str) -> list[str]:
    """The overrides of a tiny network and its pictures, without methods and protocol."""
    return [
        one
        for one in tiny_overrides(folder, out, factory)
        if not one.startswith(("method=", "protocol", "out=", "workers", "batch", "shard"))
    ]


def opened(folder: Path, tmp_path: Path, factory: str) -> Session:
    (job,) = compose_jobs([*overrides(folder, tmp_path / "run", factory), "method=[grad_cam]", f"out={tmp_path}/run"])
    return open_session(job.config)


@pytest.fixture
def settings(folder, tmp_path, monkeypatch):
    """Two tiny networks that classify every picture correctly, with boxes."""
    boxes = ["file,w,h,x1,y1,x2,y2", *(f"{path.relative_to(folder).as_posix()},20,16,1,1,12,15" for path in sorted(folder.rglob("*.png")))]
    (tmp_path / "boxes.csv").write_text("\n".join(boxes) + "\n")
    found = []
    for factory in ("TinyFC", "TinyGAP"):
        session = opened(folder, tmp_path, f"builders.{factory}")
        lines = ["file,class"]
        for position in session.positions:
            predicted = int(Probe(session.model.net, session.model.preprocess(session.source.load(position))[None]).logits.argmax())
            lines.append(f"{session.source.image_id(position)},{'abcde'[predicted]}")
        (tmp_path / f"{factory}.csv").write_text("\n".join(lines) + "\n")
        given = [
            *overrides(folder, tmp_path / "run", f"builders.{factory}"),
            f"data.labels={tmp_path}/{factory}.csv",
            f"data.boxes={tmp_path}/boxes.csv",
        ]
        chosen = claim_runs.METHODS if factory == "TinyFC" else ("cam", *claim_runs.METHODS)
        found.append(claim_runs.Setting(factory, "twelve pictures", lambda _, given=given: given, chosen))
    for module in (claim_protocols, claim_variants, claim_regions, claim_discrimination):
        monkeypatch.setattr(module, "SETTINGS", found)
    return found


def test_shared_runs_end_to_end(settings, tmp_path):
    chosen = ["regions", "protocols", "softmax", "ablated_input"]
    claims.main(tmp_path, tmp_path / "out", chosen)
    table = read(tmp_path / "out" / "claims.csv")
    assert list(dict.fromkeys(table.module)) == chosen and set(table.network) == {"TinyFC", "TinyGAP"}
    assert (table[table.module != "regions"].images <= 12).all() and table[table.expects != ""].verdict.ne("").all()
    _, run = claim_runs.shared_run(settings[0], tmp_path, tmp_path / "out")
    rows = run.rows[(run.rows["select"] == "keep_top")].set_index(["index", "method"])
    drop = ((rows.prob_full - rows.prob_masked).clip(lower=0) / rows.prob_full * 100).unstack()
    row = table[(table.module == "softmax") & (table.network == "TinyFC")].iloc[0]
    assert row.measure == "ablation_cam_softmax less ablation_cam: drop in confidence, points of the average drop"
    assert row.value == pytest.approx((drop.ablation_cam_softmax - drop.ablation_cam).mean(), rel=1e-3, abs=1e-3)
    wins = table[(table.module == "ablated_input") & (table.network == "TinyFC") & table.measure.str.contains("less grad_cam: wins")].iloc[
        0
    ]
    lost = (rows.prob_full - rows.prob_masked).clip(lower=0).unstack()
    assert wins.value == pytest.approx(100 * np.sign(lost.grad_cam - lost.ablated_input_cam).mean(), rel=1e-3)
    regions = table[(table.module == "regions") & table.measure.str.startswith("Grad-CAM: of the box in")]
    assert len(regions) == 2 and regions.images.between(1, 12).all()


def test_superiority_against_a_loop():
    table = pd.DataFrame(fresh().integers(0, 4, (30, 4)), columns=["grad_cam", "grad_cam_pp", "ablation_cam", "centre"]).astype(float)
    table.loc[3, "grad_cam"] = np.nan
    for larger in (False, True):
        for i, found in enumerate(claim_protocols.superiority(table, "centre", larger)):
            own = [table.loc[i, name] for name in ("grad_cam", "grad_cam_pp", "ablation_cam")]
            points = [50 if one == table.centre[i] else 100 * ((one > table.centre[i]) == larger) for one in own]
            assert np.isnan(found) if i == 3 else found == pytest.approx(np.mean(points))


def test_protocols_by_hand():
    flat = {name: [1.0] * 4 for name in claim_protocols.CONTROLS}
    soft = pd.DataFrame({"grad_cam": [0.0, 2, 0, 2], "ablation_cam": [0.0, 2, 0, 2], **flat})
    rows = claim_protocols.compared(claim_protocols.CLAIM, soft, soft.assign(grad_cam=2.0, ablation_cam=2.0), "confidence")
    assert [row["value"] for row in rows[:3]] == [50, 100, 50] and rows[2]["expects"] == "> 0" and len(rows) == 9


def test_shares_of_a_region_against_loops():
    maps, region = torch.randn(1, 6, 5).double(), torch.rand(6, 5) > 0.5
    region[0, 0] = True
    found, highest = claim_regions.shares(maps, region), float(maps.max())
    kept = sorted(maps.flatten().tolist(), reverse=True)[:6]  # 20 % of 30 pixels
    inside = [float(value) for value, within in zip(maps.flatten(), region.flatten(), strict=True) if within]
    assert found[claim_regions.ABOVE] == pytest.approx(100 * sum(value > 0.2 * highest for value in inside) / len(inside))
    assert found[claim_regions.TOP] == pytest.approx(100 * sum(value in kept for value in inside) / len(inside))
    assert np.isnan(list(claim_regions.shares(-maps.abs(), region).values())).all()


def test_bias_against_the_network_without_it(folder, tmp_path):
    session = opened(folder, tmp_path, "builders.TinyGAP")
    logits, labels, bias = claim_bias.outputs(session)
    images = torch.cat(list(claim_bias.images_of(session, 5)))
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 and len(images) == 12
    with_bias = Probe(session.model.net, images).logits
    session.model.module.fc.bias.data.zero_()
    net = session.model.net
    without = session.model.module.eval()((in_unit_range(images, net.dtype) - net.mean) / net.std).detach()
    assert torch.allclose(logits.float(), with_bias, atol=1e-5) and torch.allclose((logits - bias).float(), without, atol=1e-5)


def test_bias_by_hand():
    labels = torch.arange(200) % 2
    logits = torch.nn.functional.one_hot(labels, 2).double()
    logits[:10] = torch.tensor([[0.0, 1.0]])  # ten images where the bias decides for the second class
    top, still, change, moved, _ = claim_bias.compared(claim_bias.CLAIM, logits, labels, torch.tensor([0.0, 2.0]).double())
    assert (top["value"], still["value"], moved["value"]) == (97.5, 50, 52.5) and change["value"] == -47.5
    right, kept = logits.argmax(1) == labels, labels == 0
    assert change["p"] == stats.mcnemar(kept.numpy(), right.numpy()) and change["verdict"] == "does not hold"


def test_maps_of_two_classes(folder, tmp_path):
    session = opened(folder, tmp_path, "builders.TinyFC")
    image = claim_discrimination.read(session, 3)
    maps = claim_discrimination.absolute_maps(session, image, [4, 1])
    assert tuple(maps) == claim_discrimination.METHODS
    for name, found in maps.items():
        for i, target in enumerate((4, 1)):
            alone = getattr(methods, name)(Probe(session.model.net, image, [target]))
            alone = claim_discrimination.protocol.upsample(alone, (16, 16))[0].abs()
            assert torch.allclose(found[i], alone, atol=1e-6 * float(alone.max()) + 1e-12), name
    expected = spearmanr(maps["gradient"][0].flatten(), maps["gradient"][1].flatten()).statistic
    assert claim_discrimination.correlations(session, image, [4, 1])["gradient"] == pytest.approx(expected)
    assert np.isnan(claim_discrimination.spearman(torch.zeros(1, 2, 2), torch.rand(1, 2, 2)))
    table = claim_discrimination.two_highest(session)
    assert len(table) == 12 and table.guided_backprop.between(-1, 1).all()


def test_categories_shown_together(folder, tmp_path):
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    listed = ["file,class", *(f"{names[0]},{name}" for name in "abd"), f"{names[1]},a", f"{names[2]},b", f"{names[2]},e"]
    (tmp_path / "labels.csv").write_text("\n".join(listed) + "\n")
    given = [*overrides(folder, tmp_path / "run", "builders.TinyFC"), f"data.labels={tmp_path}/labels.csv", "method=[grad_cam]"]
    session = open_session(compose_jobs([*given, f"out={tmp_path}/run"])[0].config)
    table = claim_discrimination.shown_together(session)
    assert table.image.to_list() == [0, 0, 0, 2]
    expected = claim_discrimination.correlations(session, claim_discrimination.read(session, 2), [4, 1])
    assert table.iloc[3].drop("image").to_dict() == pytest.approx(expected, nan_ok=True)


def test_discrimination_by_hand():
    alike = {"image": range(30), "guided_backprop": np.full(30, 0.95), "gradient": np.full(30, 0.5)}
    other = {name: np.full(30, 0.1) for name in claim_discrimination.METHODS if name not in alike}
    rows = claim_discrimination.compared("net", "pictures", pd.DataFrame({**alike, **other}))
    assert {row["verdict"] for row in rows if row["expects"]} == {"holds"} and sum(bool(row["expects"]) for row in rows) == 5


def test_discrimination_end_to_end(settings, folder, tmp_path, monkeypatch):
    (tmp_path / "coco256").mkdir()
    monkeypatch.setattr(claim_discrimination, "IMAGES", 6)
    monkeypatch.setattr(claim_discrimination, "write_lists", lambda data, out: None)
    monkeypatch.setattr(claim_discrimination, "shown_together", claim_discrimination.two_highest)
    given = [*overrides(folder, tmp_path / "run", "builders.TinyFC"), "method=[grad_cam]", f"out={tmp_path}/run"]
    monkeypatch.setattr(claim_discrimination, "run_overrides", lambda *_: given)
    rows = claim_discrimination.measure(tmp_path, tmp_path / "out")
    assert len(rows) == 3 * 10 and {(row["network"], row["images"]) for row in rows if row["measure"] == "gradient"} == {
        ("TinyFC", 6), ("TinyGAP", 6), ("mobilenet_v2", 12),
    }  # fmt: skip


def test_instances_by_hand():
    noise = fresh().normal(0, 1, 40)
    gains = {1: noise, 3: 5 + noise[::-1]}
    rows = [
        {
            "network": network, "index": i, "target": count, "instances": count, "method": method, "prob_full": 0.5,
            **dict.fromkeys((cs.HIT, cs.ENERGY, cs.IOU), 50 + gain * (method == "ablation_cam")),
        }
        for network in ("one", "two") for count, values in gains.items() for i, gain in enumerate(values)
        for method in (*claim_instances.PAIR, "centre")
    ]  # fmt: skip
    found = claim_instances.compared(claim_instances.CLAIM, pd.DataFrame(rows))
    tested = [row for row in found if row["expects"]]
    assert len(tested) == 6 and {(row["network"], row["verdict"]) for row in tested} == {("all networks", "holds")}
    gain = {(row["network"], row["measure"]): row for row in found}
    assert gain["all networks", f"gain, several less one: {cs.HIT}"]["value"] == pytest.approx(5)
    assert gain["two", f"gain, one instance: {cs.HIT}"]["value"] == pytest.approx(noise.mean())
    assert gain["all networks", f"centre, one instance: {cs.HIT}"]["value"] == 50


@pytest.mark.parametrize("network", [TinyFC, TinyGAP])
def test_drops_by_loops(network):
    module = network().eval()
    net = SplitModel(module, "features", mean=HALF, std=HALF)
    image = torch.rand(1, 3, 16, 16)
    bench = BenchNetwork(ModelConfig.model_construct(), "random", module, net, image, (image - net.mean) / net.std)
    probe = Probe(net, image)
    assert torch.allclose(claim_cost.head_drops(net, image), probe.drops[0], atol=1e-5)
    assert torch.allclose(claim_cost.whole_drops(bench, 5), probe.drops[0, :5], atol=1e-5)
    assert torch.allclose(claim_cost.weighted(probe, probe.drops[0]), methods.ablation_cam(probe), atol=1e-6)
    assert not module.features._forward_hooks
    seconds = claim_cost.times(bench)
    assert {len(turns) for turns in seconds.values()} == {claim_cost.TURNS} and len(claim_cost.compared("net", seconds)) == 13


def test_running_times_by_hand():
    names = (claim_cost.FORWARD, claim_cost.GRAD, claim_cost.EXACT, claim_cost.HEAD, claim_cost.WHOLE, claim_cost.BLANK)
    rows = claim_cost.compared("net", {name: [time, 2 * time, 3.0 * time] for name, time in zip(names, (1, 2, 2, 7, 90, 3), strict=True)})
    found = {row["measure"]: row for row in rows}
    assert [found[f"{claim_cost.HEAD} : Grad-CAM"][key] for key in ("value", "low", "high", "verdict", "n")] == [3.5, 3.5, 3.5, "holds", 3]
    assert found[f"{claim_cost.EXACT} : Grad-CAM"]["verdict"] == "cannot be told"
    assert found[f"{claim_cost.BLANK} : {claim_cost.EXACT}"]["verdict"] == "does not hold"
    assert [found[f"{claim_cost.GRAD}, seconds"][key] for key in ("value", "low", "high")] == [4, 2, 6]
