"""Metrics against known orders: the scores against scipy and by hand, the degraded maps, the network, and end to end."""

from collections import defaultdict
from itertools import pairwise, product

import numpy as np
import pandas as pd
import planted
import planted_maps
import planted_scores
import pytest
import torch
from planted_report import COLUMNS
from safetensors.torch import save_file
from scipy.stats import spearmanr
from train_digits import normalised
from train_planted import CHECKS, Removed, Replaced, confidences, dependence, targets, trained, training_set

from evalkit.config.compose import compose_jobs
from evalkit.data.planted import KINDS, Planted
from evalkit.launch.run import run_job
from evalkit.methods import grad_cam
from evalkit.models import zoo
from evalkit.models.digits_nets import DigitsGAP
from evalkit.point import Point
from evalkit.probe import Probe
from evalkit.protocol import soft_mask


@pytest.fixture(scope="module")
def packaged():
    config = compose_jobs(["model=planted"])[0].config.model
    return config, zoo.load(config, torch.device("cpu"))


@pytest.fixture(scope="module")
def probe(packaged):
    indices = torch.tensor([3, 796, 40])
    return Probe(packaged[1].net, torch.stack([planted_maps.pixels(int(i)) for i in indices]), indices=indices)


def test_the_packaged_network_depends_on_the_trigger_alone(packaged):
    """On a part of the canvases; results/planted_training.csv has all of them."""
    config, model = packaged
    found = dependence(model.net.module, count=160)
    assert found["top1"] >= 99 and found["unchanged"] >= 99
    assert found["removed_top1"] < 25 and abs(found["removed_confidence"] - 12.5) < 1
    assert found["confidence"] - found["replaced_confidence"] < 2
    assert config.expected_top1 >= 99


def test_the_checks_replace_and_remove_what_they_say():
    source, replaced, removed = Planted(count=30), Replaced(count=30), Removed(count=30)
    assert set(CHECKS.values()) == {Planted, Replaced, Removed} and torch.equal(targets(source), targets(replaced))
    for i in range(30):
        own, other = (np.asarray(of.load(i)).astype(int) for of in (source, replaced))
        _, (x, y) = source.trigger(i)
        assert np.abs(own - other).sum(2).astype(bool).mean() > 0.9
        assert np.array_equal(np.asarray(removed.load(i)), np.asarray(source.without_trigger(i)))
        assert np.abs(own - np.asarray(removed.load(i)))[y : y + 12, x : x + 12].mean() > 20


def test_a_quarter_of_the_training_canvases_is_bare_with_an_even_target():
    images, wanted = training_set(seed=4, count=10)
    source = Planted("train", seed=4, count=10)
    assert wanted[1:4].argmax(1).tolist() == targets(source)[1:4].tolist() and wanted.sum(1).tolist() == [1] * 10
    assert (wanted[::4] == 1 / 8).all()
    assert torch.equal(images[8], normalised(Removed("train", seed=4, count=10))[8]) and torch.equal(images[9], normalised(source)[9])


def test_spearman_is_scipys_and_handles_ties_and_constants():
    means = torch.randn(40, 5).double().numpy()
    means[::3, 1] = means[::3, 2]
    wanted = [spearmanr(row, [5, 4, 3, 2, 1]).statistic for row in means]
    np.testing.assert_allclose(planted_scores.spearman(means), wanted, atol=1e-12)
    np.testing.assert_allclose(planted_scores.spearman(means, False), -np.array(wanted), atol=1e-12)
    assert planted_scores.spearman(np.array([9.0, 7, 5, 2, 1])) == 1 and planted_scores.spearman(np.ones(5)) == 0
    assert np.isnan(planted_scores.spearman(np.array([1, 2, np.nan, 3, 4])))


def test_a_score_is_the_mean_over_seeds_and_its_interval_that_of_a_loop():
    steps = np.array([3.0, 2.5, 2.4, 1, 0])
    values = [steps[:, None] + 2 * torch.randn(5, 12).double().numpy() for _ in range(3)]
    values[1][2, 3] = np.nan
    found = planted_scores.score(values, True, 60)
    own = [spearmanr(np.nanmean(v, axis=1), [5, 4, 3, 2, 1]).statistic for v in values]
    np.testing.assert_allclose(found.seeds, own)
    assert found.value == pytest.approx(np.mean(own))
    counts, seeds = planted_scores._resamples(12, 3, 60)
    again = []
    for count, chosen in zip(counts, seeds, strict=True):
        drawn = np.repeat(np.arange(12), count.astype(int))
        again.append(np.mean([spearmanr(np.nanmean(values[s][:, drawn], axis=1), [5, 4, 3, 2, 1]).statistic for s in chosen]))
    np.testing.assert_allclose([found.low, found.high], np.percentile(again, [2.5, 97.5]), atol=1e-9)


def test_metrics_of_a_hand_made_case():
    """Two images, two maps: Y is 0.8 and 0.5."""
    soft, half = Point("soft", None, "black"), {p: Point("keep_top", p, "black") for p in (0.0, 50.0, 100.0)}
    full = np.array([0.8, 0.5])
    masked = {soft: np.array([[0.4, 0.6], [0.8, 0.1]]), half[50.0]: np.array([[0.4, 0.6], [0.6, 0.5]])}
    masked |= {half[0.0]: np.full((2, 2), 0.1), half[100.0]: np.stack([full] * 2)}
    masked |= {Point("remove_top", p, "black"): np.broadcast_to(full / (1 + p), (2, 2)) for p in (0.0, 100.0)}
    maps = {"coherency": np.ones((2, 2)), "complexity": np.full((2, 2), 0.5)}
    found = planted_scores.values_of(planted_scores.Measured({"confidence": full}, {"confidence": masked}, maps), tops=(50,))

    def of(name, select="keep_top", top=50, fill="black"):
        return found[planted_scores.Metric(name, select, top, fill, "confidence")]

    np.testing.assert_allclose(of("average_drop"), [[50, 0], [25, 0]])
    np.testing.assert_allclose(of("increase"), [[0, 100], [0, 0]])
    np.testing.assert_allclose(of("win"), [[0, 0], [100, 0]])
    np.testing.assert_allclose(of("score_change"), [[-40, 10], [-20, 0]])
    np.testing.assert_allclose(of("area", top=None)[1], [0.5 * (0.7 / 2 + 1.4 / 2), 0.5 * (0.6 / 2 + 1.0 / 2)])
    np.testing.assert_allclose(of("srg", None, None), of("area", top=None) - of("area", "remove_top", None))
    np.testing.assert_allclose(of("adcc", "soft", None)[0], [3 / (1 + 2 + 1 / 0.5), 3 / (1 + 2 + 1)])
    assert not any(metric.top_percent in (0, 100) for metric in found)


def test_the_oracle_is_the_share_of_each_cell_that_the_trigger_covers(probe):
    maps = planted_maps.oracle(probe)
    for i, index in enumerate(probe.indices.tolist()):
        _, (x, y) = Planted().trigger(index)
        inside = np.zeros((64, 64))
        inside[y : y + 12, x : x + 12] = 1
        np.testing.assert_allclose(maps[i], inside.reshape(16, 4, 16, 4).mean((1, 3)), atol=1e-6)


def test_another_map_is_that_of_the_next_canvas_whatever_the_batch(probe, packaged):
    after = planted_maps.next_canvases(probe)
    assert after.indices.tolist() == [4, 0, 41]
    assert torch.equal(after.images[1], planted_maps.pixels(0).float() / 255)
    maps, others = soft_mask(grad_cam(probe)), soft_mask(grad_cam(after))
    counts = []
    for share in (0, 0.1, 0.25, 0.5, 1):
        mixed = planted_maps.replaced_by(grad_cam(probe), grad_cam(after), probe, share)
        own, other = mixed == maps, mixed == others
        assert (own | other).all()
        counts.append((~own).flatten(1))
    assert torch.equal(mixed, others) and not counts[0].any()
    assert all((~a | b).all() for a, b in pairwise(counts)), "what is replaced stays replaced"
    alone = Probe(packaged[1].net, probe.images[2:], indices=probe.indices[2:])
    single = planted_maps.replaced_by(grad_cam(alone), grad_cam(planted_maps.next_canvases(alone)), alone, 0.5)
    both = planted_maps.replaced_by(grad_cam(probe), grad_cam(after), probe, 0.5)
    torch.testing.assert_close(single[0], both[2], atol=1e-4, rtol=1e-4)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(planted_scores, "RESAMPLES", 20)
    monkeypatch.setattr(planted, "CURVE", (5, 20))
    monkeypatch.setattr(planted, "FILLS", ("black", "road"))


def test_the_experiment_end_to_end(small, tmp_path):
    for seed in range(2):
        torch.manual_seed(seed)
        net = trained(seed, count=64, epochs=1) if seed else DigitsGAP(len(KINDS))
        save_file(net.state_dict(), tmp_path / f"planted_seed{seed}.safetensors")
    planted.main(tmp_path, tmp_path / "out", seeds=2, images=6)
    found = pd.read_csv(tmp_path / "out" / "planted.csv")
    points = (2 * 2 * 2 + 1) * 4 * 2  # (fills x keep and remove x two thresholds, and soft, not for road) x metrics x scores
    assert len(found) == len(COLUMNS) * (points + 2 * 2 * 2 + 2 * 2 + 7)
    assert found.images.eq(6).all() and found.spearman.between(-1, 1).all() and (found.low <= found.high).all()
    np.testing.assert_allclose(found.spearman, found[["seed_0", "seed_1"]].mean(axis=1), atol=1e-4)
    energy = found[(found["name"] == "energy_inside") & (found.base == "oracle")]
    assert (energy.spearman == 1).all() and (energy.mean_0 > 60).all(), "the oracle lies on its trigger, but for cells that jut out"
    text = (tmp_path / "out" / "planted_tables.md").read_text()
    assert "6 canvases, 2 training seeds" in text and "| average_drop, keep 20 %, road |" in text
    assert (tmp_path / "out" / "planted.png").stat().st_size > 10_000


def test_the_number_of_processes_changes_no_number(tmp_path, monkeypatch):
    monkeypatch.setattr(planted, "CANVASES", 1)
    for seed in range(2):
        torch.manual_seed(seed)
        save_file(DigitsGAP(len(KINDS)).state_dict(), tmp_path / f"planted_seed{seed}.safetensors")
    one, two = (planted.by_seed(tmp_path, 2, 2, processes) for processes in (1, 2))
    assert list(one) == list(two) == [0, 1] and list(one[0]) == planted.ORDERS
    for seed, order in product(one, planted.ORDERS):
        assert one[seed][order].keys() == two[seed][order].keys()
        for metric, values in one[seed][order].items():
            assert values.shape == (5, 2)
            np.testing.assert_array_equal(values, two[seed][order][metric])
    first, second = (one[seed]["oracle", "noise"][planted_scores.Metric("single_deletion")] for seed in (0, 1))
    assert not np.array_equal(first, second), "each seed has its own network"


def test_its_scores_are_those_of_a_run(packaged, tmp_path):
    """The same maps through `evalkit run`, for one method and the control `degraded`."""
    tops = (0, 5, 20, 50, 100)
    road = ", ".join(f"{{select: {select}, top_percent: {top}, fill: road}}" for select in ("keep_top", "remove_top") for top in tops)
    overrides = [
        "experiment=planted",
        "method=[grad_cam]",
        "sample=null",
        "limit=4",
        "workers=0",
        f"protocol.points=[{{select: soft, fill: black}}, {road}]",
        "measures=[coherency, single_deletion]",
        f"out={tmp_path / 'run'}",
    ]
    run_job(compose_jobs(overrides)[0])
    rows, maps = (pd.concat(pd.read_parquet(f) for f in (tmp_path / "run" / part).glob("*.parquet")) for part in ("rows", "maps"))
    names = ["grad_cam", *(f"grad_cam+degraded_{percent}" for percent in (10, 25, 50, 100))]
    assert sorted(rows.method.unique()) == sorted(names)
    rows["drop"] = 100 * (rows.prob_full - rows.prob_masked).clip(lower=0) / rows.prob_full
    found = planted.values(packaged[1].net, range(4))["grad_cam", "noise"]

    def of(name, select=None, top=None, fill=None, score=None):
        return found[planted_scores.Metric(name, select, top, fill, score)]

    for step, name in enumerate(names):
        own = {key: part.sort_values("index") for key, part in rows[rows.method == name].groupby(["select", "top_percent"], dropna=False)}
        assert len(own) == 11 and all(len(part) == 4 for part in own.values())
        soft = next(part for (select, _), part in own.items() if select == "soft")
        np.testing.assert_allclose(of("average_drop", "soft", None, "black", "confidence")[step], soft["drop"], atol=0.01)
        for select, top in product(("keep_top", "remove_top"), (5.0, 20.0)):
            part = own[select, top]
            np.testing.assert_allclose(of("average_drop", select, top, "road", "confidence")[step], part["drop"], atol=0.01)
            np.testing.assert_allclose(
                of("score_change", select, top, "road", "activation")[step], part.logit_masked - part.logit_full, atol=1e-3
            )
        heights = {select: np.stack([own[select, float(top)].prob_masked for top in tops]) for select in ("keep_top", "remove_top")}
        areas = {
            select: sum((b - a) / 100 * (y + z) / 2 for (a, b), (y, z) in zip(pairwise(tops), pairwise(of_select), strict=True))
            for select, of_select in heights.items()
        }
        np.testing.assert_allclose(of("srg", None, None, "road", "confidence")[step], areas["keep_top"] - areas["remove_top"], atol=1e-4)
        of_maps = maps[maps.method == name].sort_values("index")
        np.testing.assert_allclose(of("energy_inside")[step], 100 * of_maps.energy_inside, atol=0.01)
        np.testing.assert_allclose(of("single_deletion")[step], of_maps.single_deletion, atol=1e-6)
        np.testing.assert_allclose(of("coherency")[step], of_maps.coherency, atol=1e-3)


def test_road_and_single_deletion_of_the_oracle_are_those_of_a_dense_system_and_a_loop(packaged):
    net, index = packaged[1].net, int(torch.randint(797, ()))
    found = planted.values(net, [index])["oracle", "other"]
    image = planted_maps.pixels(index).double().numpy() / 255
    _, (x, y) = Planted().trigger(index)
    inside = torch.zeros(1, 1, 64, 64)
    inside[..., y : y + 12, x : x + 12] = 1
    upsampled = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(inside, 4), (64, 64), mode="bilinear")[0, 0].double().numpy()

    def logits(pixels):
        with torch.no_grad():
            return net.module(torch.from_numpy((pixels - 0.5) / 0.5)[None].float())[0].double().numpy()

    full = logits(image)
    target = full.argmax()

    kept = np.zeros(4096, bool)
    kept[np.argsort(-upsampled.ravel(), kind="stable")[:2048]] = True
    kept = kept.reshape(64, 64)
    places = {place: row for row, place in enumerate(zip(*np.nonzero(~kept), strict=True))}
    matrix, right = np.zeros((len(places), len(places))), np.zeros((len(places), 3))
    for (row, column), i in places.items():
        for dy, dx in product((-1, 0, 1), repeat=2):
            near = (row + dy, column + dx)
            if (dy or dx) and 0 <= near[0] < 64 and 0 <= near[1] < 64:
                weight = 1 / 12 if dy and dx else 1 / 6
                matrix[i, i] += weight
                if kept[near]:
                    right[i] += weight * image[:, near[0], near[1]]
                else:
                    matrix[i, places[near]] -= weight
    filled = image.copy()
    filled[:, ~kept] = (
        np.linalg.solve(matrix, right).T + 0.005 * np.random.default_rng([2022, index]).standard_normal((3, 64, 64))[:, ~kept]
    )
    masked = logits(filled)
    # of the thresholds only those in TOPS have values of their own: 50 % enters the areas
    point = Point("keep_top", 50.0, "road")
    parts = defaultdict(list)
    planted.measure(net, index, parts)
    assert float(parts["activation", point][0][1, 0]) == pytest.approx(masked[target], abs=1e-3)

    drops, sums = [], []
    for row, column in product(range(0, 64, 16), repeat=2):
        changed = image.copy()
        changed[:, row : row + 16, column : column + 16] = 0.5
        drops.append(full[target] - logits(changed)[target])
        sums.append(upsampled[row : row + 16, column : column + 16].sum())
    assert found[planted_scores.Metric("single_deletion")][0, 0] == pytest.approx(spearmanr(sums, drops).statistic, abs=0.01)


def test_confidences_are_softmaxes(packaged):
    net, images = packaged[1].net.module, normalised(Planted(count=3))
    with torch.no_grad():
        torch.testing.assert_close(confidences(net, images), net(images).double().softmax(1))
