"""Verdicts of hand-made runs, tau and corrections by brute force."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from builders import fresh, make_run, run_of, steady

from evalkit.analysis.agreement import EXCESS, agreement, mean_taus, tau_matrix
from evalkit.analysis.friedman import Friedman, friedman
from evalkit.analysis.judged import judge_run
from evalkit.analysis.judgements import judgements_of
from evalkit.analysis.verdict import ALWAYS, EQUAL, LEADS, OPEN, TURNS, claims, standings, verdict
from evalkit.errors import UserError

FILLS = ("black", "mean", "blur")


def random_run(folder, n=40, methods=("a", "b", "c", "d"), **options):
    rng = fresh()
    full = rng.uniform(2, 9, n)
    points = [("keep_top", 20.0, fill) for fill in FILLS] + [("remove_top", 25.0, fill) for fill in FILLS[:2]]
    skill = dict(zip(methods, rng.uniform(0, 1, len(methods)), strict=True))
    drawn = {point: {m: full * (skill[m] + rng.normal(0, 0.5, n)).clip(0, 1.3) for m in methods} for point in points}
    return run_of(folder, full, drawn, **options)


def test_differences_and_directions_by_loops(tmp_path):
    run = random_run(tmp_path)
    tests = judge_run(run).tests
    assert len(tests) == 6 * 5 * 2 * 3
    for row in tests.itertuples():
        rows = run.rows[(run.rows["select"] == row.select) & (run.rows["fill"] == row.fill)]
        column = {"confidence": "prob", "activation": "logit"}[row.score]
        pairs = [
            [(y, o) for y, o in zip(of[f"{column}_full"], of[f"{column}_masked"], strict=True)]
            for of in (rows[rows.method == row.first].sort_values("index"), rows[rows.method == row.second].sort_values("index"))
        ]
        removed = row.select == "remove_top"
        each = []
        for (y, o), (_, other) in zip(*pairs, strict=True):
            drops = [max(0, y - x) for x in (o, other)]
            if row.metric == "average_drop":
                each.append(100 * (drops[0] - drops[1]) / y)
            elif row.metric == "increase":
                each.append(100 * ((o > y) - (other > y)))
            else:
                won, lost = (drops[0] > drops[1], drops[0] < drops[1]) if removed else (drops[0] < drops[1], drops[0] > drops[1])
                each.append(100 * (won - lost))
        assert row.difference == pytest.approx(sum(each) / len(each), abs=1e-9)
        higher = row.metric == "win" or (row.metric == "increase") != removed
        assert row.sign == np.sign(round(row.difference, 9)) * (1 if higher else -1)
        assert row.low <= row.difference <= row.high


def test_ranks_of_win_are_net_wins_over_the_others(tmp_path):
    judged = judge_run(random_run(tmp_path))
    for i in judged.judgements.index[judged.judgements.metric == "win"]:
        key = judged.judgements.loc[i]
        at = judged.tests[(judged.tests.metric == "win") & (judged.tests.score == key.score)]
        at = at[(at["select"] == key["select"]) & (at["fill"] == key["fill"])]
        for m, name in enumerate(judged.methods):
            net = at[at["first"] == name].difference.sum() - at[at["second"] == name].difference.sum()
            assert judged.means[i, m] == pytest.approx(net / 3, abs=1e-9)


@pytest.mark.parametrize("between", ["all", "fill", "select", "metric", "score"])
def test_tau_is_the_mean_of_scipys(tmp_path, between):
    judged = judge_run(random_run(tmp_path))
    table = judged.judgements
    common = {
        "fill": ["metric", "select", "score"],
        "select": ["metric", "fill", "score"],
        "metric": ["select", "fill", "score"],
        "score": ["metric", "select", "fill"],
    }
    pairs = [
        (i, j)
        for i, j in itertools.combinations(table.index, 2)
        if between == "all"
        or (all(table.loc[i, c] == table.loc[j, c] for c in common[between]) and table.loc[i, between] != table.loc[j, between])
    ]

    def mean(better):
        taus = [scipy.stats.kendalltau(better[i], better[j]).statistic for i, j in pairs]
        return np.nanmean(taus), np.isfinite(taus).sum()

    found = agreement(judged).query("between == @between and metric == '' and not with_controls").iloc[0]
    tau, number = mean(judged.better)
    assert (found.tau, found.pairs) == (pytest.approx(tau, abs=1e-9), number)
    resampled = [mean(judged.resampled[:, :, b])[0] for b in range(5)]
    ((_, ours, _),) = mean_taus(judged, [[[[i], [j]] for i, j in pairs]], judged.methods)
    np.testing.assert_allclose(ours[:5], resampled, atol=1e-9)
    low, high = np.nanquantile(ours, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((min(low, tau), max(high, tau)))


def test_gain_and_drop_are_compared_on_the_same_resamples_without_soft_masks_and_without_what_is_set_aside(tmp_path):
    rng = fresh()
    full, methods = rng.uniform(2, 9, 40), ("a", "b", "c", "d")
    points = [(select, top, fill) for fill in FILLS for select in ("keep_top", "remove_top") for top in (20.0, 80.0)]
    points += [("soft", None, fill) for fill in FILLS]
    drawn = {point: {m: full * rng.uniform(0, 1.3, 40) for m in methods} for point in points}
    judged = judge_run(run_of(tmp_path, full, drawn))
    first = int(judged.judgements.index[judged.judgements.metric == "average_drop"][0])
    judged = replace(judged, aside={first: "random"})
    table = judged.judgements.drop(index=first)
    table = table[table["select"] != "soft"]

    def between_fills(metric, better):
        part = table[table.metric == metric]
        common = part[["select", "top_percent", "score"]].astype(object).where(part[["select", "top_percent", "score"]].notna(), "")
        pairs = [(i, j) for i, j in itertools.combinations(part.index, 2) if (common.loc[i] == common.loc[j]).all()]
        return np.mean([scipy.stats.kendalltau(better[i], better[j]).statistic for i, j in pairs])

    found = agreement(judged).query("between == 'fill' and not with_controls").set_index("metric")
    for metric in ("srg", "average_drop"):
        assert found.loc[metric].tau == pytest.approx(between_fills(metric, judged.better))
    excess = found.loc[EXCESS]
    assert excess.tau == pytest.approx(found.loc["srg"].tau - found.loc["average_drop"].tau)
    of = [
        between_fills("srg", better) - between_fills("average_drop", better) for better in np.moveaxis(judged.resampled[:, :, :200], 2, 0)
    ]
    low, high = np.quantile(of, [0.025, 0.975])  # of 200 resamples, not 2,000
    spread = high - low
    assert abs(excess.low - min(low, excess.tau)) < spread / 4 and abs(excess.high - max(high, excess.tau)) < spread / 4


def test_tau_of_ties_is_tau_b(tmp_path):
    judged = judge_run(random_run(tmp_path))
    better = np.round(fresh().normal(size=judged.better.shape))
    judged = replace(judged, better=better)
    matrix = tau_matrix(judged, range(len(better)), controls=True)
    for i, j in itertools.product(range(5), repeat=2):
        assert matrix[i, j] == pytest.approx(scipy.stats.kendalltau(better[i], better[j]).statistic, nan_ok=True)


def test_controls_are_left_out_of_tau_and_counted_beside(tmp_path):
    judged = judge_run(random_run(tmp_path, methods=("a", "b", "random", "centre")))
    found = agreement(judged).query("between == 'all'").set_index("with_controls")
    a, b = judged.better[:, 0], judged.better[:, 1]
    signs = np.sign(a - b)[np.sign(a - b) != 0]
    expected = np.mean([s * t for s, t in itertools.combinations(signs, 2)])
    with_controls = np.nanmean([scipy.stats.kendalltau(*two).statistic for two in itertools.combinations(judged.better, 2)])
    assert found.loc[False].tau == pytest.approx(expected) and found.loc[True].tau == pytest.approx(with_controls)


def holm_by_definition(p):
    order, corrected, highest = sorted(range(len(p)), key=lambda i: p[i]), [0.0] * len(p), 0.0
    for step, i in enumerate(order):
        highest = max(highest, min(1.0, p[i] * (len(p) - step)))
        corrected[i] = highest
    return corrected


def test_all_runs_are_one_family(tmp_path):
    runs = [random_run(tmp_path / "x", model="x"), random_run(tmp_path / "y", model="y")]
    found = verdict(runs)
    assert found.families == {"faithfulness": 2 * 180}
    np.testing.assert_allclose(found.tests.corrected, holm_by_definition(list(found.tests.p)), rtol=1e-9)
    assert (found.tests.found == np.where(found.tests.corrected < 0.05, found.tests.sign, 0)).all()
    plain, bh = verdict(runs, "none").tests, verdict(runs, "bh").tests
    assert (plain.corrected == plain.p).all()
    assert ((plain.p <= bh.corrected + 1e-12) & (bh.corrected <= found.tests.corrected + 1e-12)).all()


def test_kinds_of_pairs(tmp_path):
    full = fresh().uniform(3, 8, 60)
    black, blur = ("keep_top", 20.0, "black"), ("keep_top", 20.0, "blur")
    always = run_of(tmp_path / "always", full, {black: steady(full, 1.1), blur: steady(full, 1.2)})
    (one,) = standings(verdict([always]), 0)
    assert (one.kind, one.first, one.better, one.worse, one.total) == (ALWAYS, "ablation_cam", 12, 0, 12)
    equal = {"ablation_cam": full / 2, "grad_cam": full / 2}
    (one,) = standings(verdict([run_of(tmp_path / "leads", full, {black: steady(full, 0.6, 0.9), blur: equal})]), 0)
    assert (one.kind, one.first, one.better, one.worse) == (LEADS, "grad_cam", 4, 0)
    (one,) = standings(verdict([run_of(tmp_path / "turns", full, {black: steady(full), blur: steady(full, 0.6, 0.9)})]), 0)
    assert (one.kind, one.better, one.worse) == (TURNS, 4, 4)
    rng = fresh()
    noise = {name: full * rng.uniform(0.45, 0.55, 60) for name in equal}
    (one,) = standings(verdict([run_of(tmp_path / "open", full, {black: equal, blur: noise})]), 0)
    assert (one.kind, one.better, one.worse) == (OPEN, 0, 0)
    (one,) = standings(verdict([run_of(tmp_path / "equal", full, {black: equal, blur: equal})]), 0)
    assert (one.kind, one.better, one.worse) == (EQUAL, 0, 0)


def test_removal_reverses_what_is_better(tmp_path):
    full = fresh().uniform(3, 8, 60)
    removed = run_of(tmp_path, full, {("remove_top", 25.0, "black"): steady(full)})
    (one,) = standings(verdict([removed]), 0)
    assert (one.first, one.kind, one.better) == ("grad_cam", LEADS, 4)


def test_claims_over_networks(tmp_path):
    full, black = fresh().uniform(3, 8, 60), ("keep_top", 20.0, "black")
    with_centre = steady(full) | {"centre": full * 0.6}
    runs = [
        run_of(tmp_path / "x", full, {black: with_centre}, model="x"),
        run_of(tmp_path / "y", full, {black: steady(full, 0.6, 0.9) | {"centre": full * 0.5}}, model="y"),
        run_of(tmp_path / "z", full, {black: {"ablation_cam": full / 2}}, model="z"),
    ]
    found = {(one.first, one.second): one.kind for one in claims(verdict(runs))}
    assert found == {("ablation_cam", "grad_cam"): TURNS, ("ablation_cam", "centre"): ALWAYS, ("grad_cam", "centre"): LEADS}


def test_altered_versions_are_no_competitors(tmp_path):
    full, black = fresh().uniform(3, 8, 60), ("keep_top", 20.0, "black")
    judged = judge_run(run_of(tmp_path, full, {black: steady(full) | {"grad_cam+blurred": full}}))
    assert judged.methods == ["ablation_cam", "grad_cam"] and judged.means.shape[1] == 2
    assert judged.means[list(judged.judgements.metric).index("average_drop")] == pytest.approx([10, 40])


def test_points_that_do_not_depend_on_the_map_are_no_judgements(tmp_path):
    full = fresh().uniform(3, 8, 30)
    curve = {("keep_top", top, "black"): steady(full) for top in (0.0, 50.0, 100.0)}
    run = run_of(tmp_path, full, curve)
    found = [(one.metric, one.top_percent) for one in judgements_of(run)]
    assert {top for _, top in found if not math.isnan(top)} == {50.0} and ("area", 50.0) not in found
    assert [metric for metric, top in found if math.isnan(top)] == ["area", "area"]


def test_small_runs(tmp_path):
    one_image = make_run(tmp_path / "image", np.array([5.0]), {"a": np.array([4.0]), "b": np.array([3.0])}, paper=None)
    found = verdict([one_image])
    assert found.tests.p.isna().all() and (found.tests.found == 0).all() and found.families == {"faithfulness": 0}
    one_method = verdict([make_run(tmp_path / "method", np.array([5.0, 6.0]), {"a": np.array([4.0, 5.0])}, paper=None)])
    assert one_method.tests.empty and standings(one_method, 0) == [] and one_method.agreements[0].empty
    unread = make_run(tmp_path / "none", np.array([5.0]), {"a": np.array([4.0])}, status={(0, "a"): "nonfinite"}, paper=None)
    with pytest.raises(UserError, match="no image could be scored"):
        verdict([unread])


def test_friedman_is_that_of_scipy(tmp_path):
    run = random_run(tmp_path)
    (point, *_), methods = run.points, run.methods
    found = friedman(run, methods, point, "activation")
    rows = run.rows[(run.rows["fill"] == point.fill) & (run.rows["select"] == point.select)]
    drops = [(rows[rows.method == m].logit_full - rows[rows.method == m].logit_masked).clip(lower=0).to_numpy() for m in methods]
    assert found.p == pytest.approx(scipy.stats.friedmanchisquare(*drops).pvalue)
    assert found.ranks == pytest.approx(scipy.stats.rankdata(drops, axis=0).mean(1)) and found.n == 40
    assert found.difference == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 40)), rel=1e-3)  # Demšar, table 5


def test_cliques_by_brute_force():
    ranks = fresh().uniform(1, 8, 7)
    found = Friedman(ranks, 0.0, 1.5, 10).cliques()
    ordered = np.sort(ranks)
    alike = [set(range(i, j + 1)) for i in range(7) for j in range(i + 1, 7) if ordered[j] - ordered[i] < 1.5]
    assert sorted(map(sorted, (one for one in alike if not any(one < other for other in alike)))) == sorted(found)
