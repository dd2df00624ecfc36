"""Claims on changed pictures and networks: geometry by hand, attacks against captum, units against a loop, and all on tiny networks."""

import claim_absent as absent
import claim_adversarial as adversarial
import claim_images as pictures
import claim_occluded as occluded
import claim_units as units
import numpy as np
import pandas as pd
import pytest
import torch
import unit_ablation
from builders import fresh, tiny_overrides
from captum.robust import FGSM, PGD
from claim_images import Pictures
from claim_rows import COLUMNS
from scipy.stats import binomtest, spearmanr
from torch.nn.functional import cross_entropy

from evalkit import Probe, methods
from evalkit.config.compose import compose_jobs
from evalkit.data.boxes import Box
from evalkit.evaluation.localisation import region
from evalkit.evaluation.session import open_session


def boxed(x1, y1, x2, y2):
    return Box(None, x1, y1, x2, y2, 40, 30)


@pytest.mark.parametrize("percent", [25, 50, 100])
def test_an_occluder_lies_in_the_box_and_covers_its_share(percent):
    rng = fresh()
    for _ in range(30):
        x1, y1 = rng.uniform(-0.4, 20), rng.uniform(-0.4, 12)
        box = boxed(x1, y1, rng.uniform(x1 + 8, 40.4), rng.uniform(y1 + 8, 30.4))
        mask = occluded.occluder(box, percent, rng).mask(30, 40)
        inside = region([box], 30, 40)
        assert not (mask & ~inside).any()
        width, height = (int(inside.any(axis).sum()) for axis in (0, 1))
        assert int(mask.sum()) == round(width * (percent / 100) ** 0.5) * round(height * (percent / 100) ** 0.5)


def test_occluders_reach_every_place_and_the_largest_box_is_taken():
    rng = fresh()
    box = occluded.largest([boxed(0, 0, 5, 5), boxed(10, 10, 16, 15), boxed(0, 0, 4, 6)])
    assert (box.x1, box.y1) == (10, 10)
    places = {(place.left, place.top) for place in (occluded.occluder(box, 25, rng) for _ in range(400))}
    assert places == {(x, y) for x in range(10, 14) for y in range(10, 14)}  # 3 of 6 columns and 2 of 5 rows


def test_fills_change_the_rectangle_alone():
    rng = fresh()
    image, other = (torch.from_numpy(rng.integers(0, 127, (3, 9, 8), dtype=np.uint8)) for _ in range(2))
    place, given = occluded.Occluder(2, 6, 1, 4), image.clone()
    found = {fill: occluded.pasted(image, other, place, fill, rng) for fill in occluded.FILLS}
    inside = place.mask(9, 8)
    assert torch.equal(image, given) and all(torch.equal(one[:, ~inside], image[:, ~inside]) for one in found.values())
    assert (found["grey"][:, inside] == 128).all() and torch.equal(found["another photograph"][:, inside], other[:, inside])
    assert len(found["noise"][:, inside].unique()) > 10 and int(inside.sum()) == 12
    labels = torch.tensor([0, 0, 1, 0])
    assert {occluded.another(labels, 0, rng) for _ in range(20)} == {2} and {occluded.another(labels, 2, rng) for _ in range(60)} == {
        0,
        1,
        3,
    }


def changes(ablation, grad):
    """Rows of one measure in three images and all fills, the third image not right afterwards; before is 50."""
    rows = [
        {
            "method": method, "percent": percent, "fill": fill, "image": i, "right": i < 2, "measure": name, "before": 50.0,
            "after": 50.0 + {"ablation_cam": ablation, "grad_cam": grad}.get(method, 0.0) * (1 if i < 2 else 10),
        }
        for percent in occluded.COVERED for fill in occluded.FILLS for name in occluded.MEASURES for method in occluded.METHODS
        for i in range(3)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_occluded_rows_by_hand():
    table = pd.DataFrame(occluded.rows(changes(-8.0, -5.0))).set_index("measure")
    right = f"25 % covered, {occluded.RIGHT}: {occluded.INSIDE}"
    assert table.value[f"{right}: ablation_cam"] == 42 and table.value[f"{right}: ablation_cam, less before"] == -8
    assert table.value[f"{right}: change of ablation_cam less that of grad_cam"] == -3
    assert table.value[f"{right}: change of ablation_cam less that of grad_cam, noise"] == -3
    assert table.value[f"25 % covered: images {occluded.RIGHT}, %"] == pytest.approx(200 / 3)
    assert table.value[f"50 % covered, {occluded.ALL}: {occluded.INSIDE}: change of ablation_cam less that of grad_cam"] == -12
    judged = table[table.expects != ""]
    assert set(judged.verdict[judged.index.str.contains("energy")]) == {"holds"}
    assert set(judged.verdict[judged.index.str.contains("drop")]) == {"does not hold"} and len(judged) == 8
    assert table.images[f"{right}: ablation_cam"] == 2 and table.n[f"{right}: ablation_cam"] == 6


def test_attacks_are_those_of_captum(tiny_fc):
    net, labels = tiny_fc, torch.randint(5, (4,))
    images = torch.rand(4, 3, 16, 16)

    def loss(outputs, target):
        return cross_entropy(outputs, target, reduction="none")

    def forward(given):
        return net.whole((given - net.mean) / net.std)

    fgsm, pgd = (kind(forward, loss_func=loss, lower_bound=0.0, upper_bound=1.0) for kind in (FGSM, PGD))
    fgsm.zero_thresh = pgd.fgsm.zero_thresh = 0.0
    one = adversarial.attacked(net, images, labels, 0.1, 0.1, 1)
    torch.testing.assert_close(one, fgsm.perturb(images, 0.1, labels), atol=1e-6, rtol=0)
    several = adversarial.attacked(net, images, labels, 0.1, 0.03, 5)
    expected = pgd.perturb(images, 0.1, 0.03, 5, labels)
    assert ((several - expected).abs() > 1e-5).float().mean() < 0.02  # a gradient near 0 may change its sign by rounding
    assert float((several - images).abs().max()) == pytest.approx(0.1, abs=1e-6) and several.min() >= 0 and several.max() <= 1
    assert (loss(net(several), labels) > loss(net(images), labels)).all() and not torch.equal(one, images)


def test_the_attack_knows_a_direction_where_the_cross_entropy_is_flat():
    logits = torch.tensor([[200.0, 3.0, 1.0]], requires_grad=True)
    label = torch.tensor([0])
    (flat,) = torch.autograd.grad(cross_entropy(logits, label), logits)
    (steep,) = torch.autograd.grad(adversarial.others_less_own(logits, label).sum(), logits)
    assert (flat == 0).all() and steep[0, 0] == -1 and float(steep[0, 1:].sum()) == pytest.approx(1)
    wide, some = torch.randn(6, 7).double().requires_grad_(), torch.randint(7, (6,))
    (given,) = torch.autograd.grad(adversarial.others_less_own(wide, some).sum(), wide)
    (entropy,) = torch.autograd.grad(cross_entropy(wide, some, reduction="sum"), wide)
    confidence = wide.softmax(1).gather(1, some[:, None])
    torch.testing.assert_close(given * (1 - confidence), entropy)


@pytest.fixture
def tiny(folder, tmp_path, monkeypatch):
    """The overrides of a tiny network on twelve pictures in three classes, with boxes, in place of every network."""
    lines = [f"{path.relative_to(folder).as_posix()},20,16,{2 + i % 3},1,15,14" for i, path in enumerate(sorted(folder.rglob("*.png")))]
    (folder / "boxes.csv").write_text("\n".join(["file,w,h,x1,y1,x2,y2", *lines]) + "\n")
    given = [*tiny_overrides(folder, tmp_path / "run"), f"data.boxes={folder}/boxes.csv"]
    monkeypatch.setattr(pictures, "overrides", lambda network, data: given)
    return given


def predicted(read: Pictures) -> Pictures:
    """The same pictures, labelled as the network classifies them."""
    return Pictures(read.net, read.images, pictures.logits_of(read.net, read.images).argmax(1), read.boxes, read.positions)


def test_occluded_end_to_end(tiny, tmp_path, monkeypatch):
    read = pictures.read(tiny)
    assert read.images.shape == (12, 3, 16, 16) and read.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    table = occluded.measured(read)
    assert len(table) == 12 * 2 * 3 * 4 * 4
    centre = table[(table.method == "centre") & (table.measure == occluded.INSIDE)]
    assert (centre.before == centre.after).all() and centre.before.between(1, 99).all()
    parts = table.pivot_table(index=["method", "percent", "fill", "image"], columns="measure", values="after")
    whole = (parts[occluded.VISIBLE] + parts[occluded.ON] - parts[occluded.INSIDE]).dropna()
    assert len(whole) > 150 and (whole.abs() < 1e-6).all()  # occluders lie in the boxes

    (_, _, images, places), *_ = occluded._occluded(read)
    net, i = read.net, 5
    low = methods.grad_cam(Probe(net, images[[i]], read.labels[[i]]))
    large = torch.nn.functional.interpolate(low[None].double(), (16, 16), mode="bilinear", align_corners=False)[0, 0]
    row = (
        table[(table.method == "grad_cam") & (table.percent == 25) & (table.fill == "grey") & (table.image == i)].set_index("measure").after
    )
    assert row[occluded.ON] == pytest.approx(float(100 * large[places[i]].sum() / large.sum()), nan_ok=True)
    keep = torch.zeros(256, dtype=torch.bool)
    flat = torch.nn.functional.interpolate(low[None], (16, 16), mode="bilinear", align_corners=False).flatten()
    keep[flat.sort(descending=True, stable=True).indices[:51]] = True
    whole = images[[i]] / 255
    full, left = (float(net(seen).double().softmax(1)[0, read.labels[i]]) for seen in (whole, whole * keep.view(16, 16)))
    assert row[occluded.DROP] == pytest.approx(100 * max(0, full - left) / full, abs=1e-3)

    monkeypatch.setattr(pictures, "read", lambda given: predicted(read))
    rows = occluded.measure(tmp_path, tmp_path)
    assert all(tuple(row) == COLUMNS for row in rows) and len({(row["claim"], row["measure"]) for row in rows}) == len(rows)


def test_adversarial_end_to_end(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(adversarial, "EVERY", {"squeezevgg10": 1})
    monkeypatch.setattr(adversarial, "ATTACKS", {"FGSM": (1, 1.0, (8, 64)), "PGD": (7, 0.25, (128,))})
    read = predicted(pictures.read(tiny))
    monkeypatch.setattr(pictures, "read", lambda given: read)
    others = adversarial.two_others(read)
    assert (others != read.labels[:, None]).all() and (others[:, 0] != others[:, 1]).all() and len(others.unique()) > 2
    rows = pd.DataFrame(adversarial.measure(tmp_path, tmp_path)).set_index("measure")
    assert tuple(rows.reset_index()[list(COLUMNS)].columns) == COLUMNS and rows.index.is_unique
    assert rows.value["PGD 128/255: class changed, %"] == 100
    changed = adversarial.attacked(read.net, read.batch(torch.arange(12)), read.labels, 128 / 255, 32 / 255, 7)
    new = pictures.logits_of(read.net, changed).argmax(1)
    before, after = (
        pictures.explained(read.net, *given, ["grad_cam"], read.positions)[1] for given in ((read.images, read.labels), (changed, new))
    )
    wanted = [np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in zip(before["grad_cam"], after["grad_cam"], strict=True)]
    assert rows.value[f"PGD 128/255: correlation, {adversarial.OWN_NEW}: grad_cam"] == pytest.approx(np.nanmean(wanted), abs=1e-6)
    assert rows.value[f"PGD 128/255: {adversarial.INSIDE}, new class after less own class before: centre"] == pytest.approx(0, abs=1e-9)


def test_units_against_a_loop_with_a_hook(tiny):
    read = predicted(pictures.read(tiny))
    units_of = unit_ablation.ablated(read)
    module, at = read.net.module, torch.arange(12)
    normalised = (read.batch(at) - read.net.mean) / read.net.std
    with torch.no_grad():
        intact, maps = module(normalised), module.features(normalised)
        for k in range(8):

            def ablate(_module, _given, output, k=k):
                output = output.clone()
                output[:, k] = 0
                return output

            handle = module.features.register_forward_hook(ablate)
            logits = module(normalised)
            handle.remove()
            drop = (intact - logits)[at, read.labels]
            np.testing.assert_allclose(units_of.drop[:, k], drop, atol=1e-5)
            np.testing.assert_allclose(units_of.activity[:, k], maps[:, k].mean((1, 2)), atol=1e-6)
            close = (logits.topk(2).values.diff(dim=1)[:, 0].abs() < 1e-5).numpy()
            assert ((units_of.kept[:, k] == (logits.argmax(1) == read.labels).numpy()) | close).all()
    assert units_of.right.all() and set(np.unique(units_of.loss)) <= {0.0, 100.0}


def scripted(seed: np.random.Generator, each: int = 40) -> unit_ablation.Units:
    """Three classes and four units: unit 0 is active for class 0 and loses it, unit 1 has no effect, 2 and 3 lose every tenth image."""
    labels = np.repeat(np.arange(3), each)
    kept = np.ones((3 * each, 4))
    kept[labels == 0, 0] = 0
    kept[np.arange(3 * each) % 10 < 2, 2:] = 0
    drop = np.where(kept == 0, 5.0, 0.0) + seed.uniform(0, 0.1, kept.shape)
    activity = np.array([[9.0, 1, 1, 1], [1, 1, 1, 2], [1, 1, 2, 1]])[labels]
    return unit_ablation.Units(labels, np.ones(3 * each), kept, drop, activity)


def test_unit_rows_by_hand():
    given = scripted(fresh())
    table = pd.DataFrame(units.rows(given, "net", "set")).set_index("measure")
    assert table.index.is_unique and table.value["overall loss, the unit where it is largest"] == pytest.approx(100 / 3)
    assert table.value["overall loss, mean over all units"] == pytest.approx((100 / 3 + 20 + 20) / 4)
    assert table.value["loss of the class, unit and class where it is largest"] == 100
    assert table.verdict["loss of the class, unit and class where it is largest"] == "holds"
    assert table.verdict["overall loss, the unit where it is largest"] == "does not hold"
    assert table.value["loss of the unit's class, mean over the selective units"] == 100  # a tenth of four units is one: unit 0
    assert "at least 20 images" in table.how.iloc[-1] and "up to 5 points" in table.how.iloc[-1]
    assert 0.5 < table.value["rank correlation of drop and loss, units and classes"] <= 1
    negative = unit_ablation.Units(given.labels, given.right, given.kept, given.drop, given.activity - 2)
    assert not any("selectivity" in row["measure"] for row in units.rows(negative, "net", "set"))
    for each in (1, 18):  # one image of a class is in neither half but the first
        few = given.of(np.where(given.labels == 2, np.arange(120) % 40 < each, True))
        assert {row["claim"] for row in units.rows(few, "net", "set")} == {units.OVERALL.claim}


def test_statistics_of_units_by_hand():
    means = np.array([[4.0, 1, 0], [1, 1, 0], [1, 1, 0]])
    assert unit_ablation.selectivity(means)[:2].tolist() == pytest.approx([0.6, 0]) and np.isnan(unit_ablation.selectivity(means)[2])
    values, labels = np.array([[1.0], [3.0], [10.0]]), np.array([4, 4, 7])
    assert unit_ablation.by_class(values, labels).ravel().tolist() == [2, 10]
    assert unit_ablation.by_class(values, labels, np.array([3.0, 1.0, 1.0])).ravel().tolist() == [1.5, 10]
    first, second = fresh().normal(size=30), fresh().normal(size=30)
    first[3] = np.nan
    expected = spearmanr(np.delete(first, 3), np.delete(second, 3)).statistic
    assert unit_ablation.rank_correlation(first, second) == pytest.approx(expected)
    assert np.isnan(unit_ablation.rank_correlation(first, np.ones(30)))
    row = unit_ablation.resampled(units.DROPS, "mean", lambda weights: float(weights @ second / weights.sum()), 30)
    deviation = second.std() / 30**0.5
    assert row["value"] == pytest.approx(second.mean()) and row["high"] - row["value"] == pytest.approx(1.96 * deviation, rel=0.2)
    nothing = unit_ablation.lost(units.CLASSES, "loss", np.zeros(13), expects="> 10")
    upper = binomtest(0, 13).proportion_ci(0.95, "exact").high
    assert nothing["high"] == -nothing["low"] == pytest.approx(100 * upper) and nothing["verdict"] == "cannot be told"
    assert unit_ablation.lost(units.CLASSES, "loss", np.array([0.0, 100.0]))["value"] == 50


def test_the_closest_absent_category():
    logits, outputs = torch.tensor([0.0, 3.0, 1.0, 2.0]), {"cat": 1, "dog": 2, "cow": 3, "bowl": 0}
    assert absent.closest_absent(outputs, logits, {"cat"}, "animal") == "cow"
    assert absent.closest_absent(outputs, logits, {"bowl"}, "kitchen") is None and len(sum(absent.KINDS.values(), ())) == 79


def test_absent_end_to_end(folder, tmp_path, monkeypatch):
    lines = ["file,w,h,class,x1,y1,x2,y2"]
    for i, path in enumerate(sorted(folder.rglob("*.png"))):
        name = path.relative_to(folder).as_posix()
        lines += [f"{name},20,16,a,1,1,11,15", f"{name},20,16,b,{8 if i else 0},0,20,16", f"{name},20,16,someone,0,0,7,9"]
    (folder / "boxes.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(absent, "KINDS", {"one": ("a", "c"), "two": ("b", "d", "e"), "three": ("f",)})
    monkeypatch.setattr(absent, "TEDDY", "e")
    monkeypatch.setattr(absent, "PERSON", "someone")
    monkeypatch.setattr(absent, "TOP", 3)
    given = [*tiny_overrides(folder, tmp_path / "run"), f"data.labels={folder}/boxes.csv", "target=label"]
    (job,) = compose_jobs(given)
    session = open_session(job.config)
    kinds, persons, unexpected = absent.tables(session)
    assert len(kinds) == 11 * 2 * 3 and 0 not in set(kinds.image) and len(persons) == 12 * 3  # on the first picture b covers a
    assert (kinds[kinds.method == "centre"].groupby("image").right.mean() == 50).all()

    image = (session.model.preprocess(session.source.load(5)) / 255.0)[None]
    logits = session.model.net(image)[0]
    other = 3 if logits[3] > logits[4] else 4
    seen = kinds[(kinds.image == 5) & (kinds.method == "grad_cam")]
    assert seen.category.to_list() == ["c", "abcde"[other]]
    maps = {c: methods.grad_cam(Probe(session.model.net, image, [c])).double()[None] for c in (2, other)}
    large = {c: torch.nn.functional.interpolate(m, (16, 16), mode="bilinear", align_corners=False)[0, 0] for c, m in maps.items()}
    columns = torch.arange(16)[None].expand(16, 16) + 0.5
    rows_of = torch.arange(16)[:, None].expand(16, 16) + 0.5
    a, b = (columns >= 0.8) & (columns < 8.8) & (rows_of >= 1) & (rows_of < 15), columns >= 6.4
    wanted = []
    for c, own, rest in ((2, a & ~b, b & ~a), (other, b & ~a, a & ~b)):
        inside, outside = (float(large[c][part].mean()) for part in (own, rest))
        wanted.append(50.0 if inside == outside else 100.0 * (inside > outside))
    assert seen.right.to_list() == wanted
    low = set(logits.topk(2, largest=False).indices.tolist())
    assert set(unexpected[unexpected.image == 5].category) == {name for name, c in (("a", 0), ("b", 1)) if c in low}
    found = pd.DataFrame(absent.rows(kinds, persons, unexpected))
    assert len(found) == 14 and found.value.notna().all() and found.measure.is_unique
    assert found.set_index("measure").value["right kind, %: centre"] == 50
