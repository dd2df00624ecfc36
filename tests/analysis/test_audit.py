"""The audit against tests by hand, its family-wise error on simulated nulls, and what it says."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from builders import fresh, holding, make_run
from commands import evalkit

from evalkit.analysis.audit import BLIND, CONTROL, FAILS, NO_VERDICT, PASSES, audit, improvements, verdicts
from evalkit.analysis.load import load_runs
from evalkit.errors import UserError
from evalkit.evaluation.columns import MEASURES
from evalkit.output.audit import markdown, terminal_lines, write_audit
from evalkit.output.audit_tables import audit_run
from evalkit.output.audit_words import sentence


def heavy(rng, *shape) -> np.ndarray:
    """Differences of drops in points as real runs have them: 28 % zeros, tails up to 100, symmetric about zero."""
    values = np.clip(rng.standard_t(1.2, shape) * 2, -100, 100)
    return np.where(rng.random(shape) < 0.28, 0.0, values)


@pytest.mark.parametrize("n", [30, 200])
def test_family_wise_error_of_a_verdict_on_simulated_nulls(n):
    """12 control versions that are no better, some of them much alike, as those of one method are: at most 5 % of verdicts fail."""
    rng, trials, rejected = fresh(), 400, 0
    for _ in range(trials):
        shared = heavy(rng, 3, n)
        differences = np.concatenate([shared + 0.1 * heavy(rng, 3, n) for _ in range(3)] + [heavy(rng, 3, n)])
        rejected += bool((improvements(differences, np.arange(n))[1] <= 0.05).any())
    assert 1 <= rejected <= 0.05 * trials + 3 * np.sqrt(0.05 * 0.95 * trials)


def test_an_improvement_of_one_control_is_found_and_a_loss_is_none():
    rng = fresh()
    differences = heavy(rng, 4, 200) * 0.1
    differences[1] += 3
    differences[2] -= 3
    p, corrected = improvements(differences, np.arange(200))
    assert corrected[1] < 0.01 and p[2] > 0.99
    assert (corrected >= p).all()


def test_p_is_the_share_of_sign_flips_that_are_as_good():
    differences = fresh().normal(0.4, 1, (1, 9))
    sums = [np.dot(signs, differences[0]) for signs in itertools.product([-1, 1], repeat=9)]
    exact = np.mean(np.array(sums) >= differences.sum() - 1e-12)
    p, _ = improvements(differences, np.arange(9))
    expected = exact if differences.sum() > 0 else 1 - np.mean(np.array(sums) <= differences.sum() + 1e-12)
    assert p[0] == pytest.approx(expected, abs=0.02)


@pytest.fixture
def scores():
    rng = fresh()
    full = rng.uniform(5, 9, 60)
    masked = {
        "a": full - rng.uniform(1, 3, 60),
        "b": full - rng.uniform(1, 3, 60),
    }
    masked["a+blurred"] = masked["a"] + rng.uniform(0.2, 0.9, 60)  # better on every image
    masked["a+shuffled"] = masked["a"] - rng.uniform(0.2, 0.9, 60)
    noise = rng.normal(0, 0.01, 60)
    masked["b+blurred"] = masked["b"] + noise - noise.mean()  # no better, not even by chance
    masked["b+shuffled"] = masked["b"] - rng.uniform(0.2, 0.9, 60)
    masked["centre"] = masked["a"] + 0.5
    return full, masked


def family(table, metric, score="activation") -> pd.DataFrame:
    return table[(table.metric == metric) & (table.score.isna() if score is None else table.score == score)]


def test_by_hand(tmp_path, scores):
    full, masked = scores
    run = make_run(tmp_path / "run", full, masked)
    tests = audit(run)
    drop = family(tests[tests.kind == CONTROL], "average_drop").set_index("control")
    assert list(drop.index) == ["a+blurred", "a+shuffled", "b+blurred", "b+shuffled"] and (drop.tests == 4).all() and (drop.n == 60).all()
    for control, row in drop.iterrows():
        of = control.partition("+")[0]
        lost = {name: np.maximum(0, full - masked[name]) / full * 100 for name in (control, of)}
        assert row.method == of and row.improvement == pytest.approx((lost[of] - lost[control]).mean())
        assert row.low <= row.improvement <= row.high
    change = family(tests, "score_change").set_index("control").improvement
    assert change["a+blurred"] == pytest.approx((masked["a+blurred"] - masked["a"]).mean())
    won = family(tests, "win").set_index("control").improvement
    assert won["a+blurred"] == 100 and won["b+shuffled"] == -100
    found = verdicts(tests)
    (verdict,) = family(found, "average_drop").itertuples()
    assert verdict.verdict == FAILS and (verdict.method, verdict.control, verdict.better) == ("a", "a+blurred", 1)
    (increase,) = family(found, "increase").itertuples()
    assert increase.verdict == NO_VERDICT and increase.most == 0  # no score increases


def test_where_pixels_are_removed_a_larger_drop_is_better(tmp_path, scores):
    run = make_run(tmp_path / "run", *scores, select="remove_top")
    tests = audit(run)
    (verdict,) = family(verdicts(tests), "average_drop").itertuples()
    found = family(tests[tests.kind == CONTROL], "average_drop")
    assert verdict.verdict == FAILS and verdict.control in ("a+shuffled", "b+shuffled")
    assert (found[found.control.str.endswith("shuffled")].p_corrected < 0.001).all()  # of the others, one in twenty may be by chance
    assert (family(verdicts(tests), "win").control.str.endswith("shuffled")).all()


def test_maps_that_ignore_the_network_are_listed_apart(tmp_path, scores):
    run = make_run(tmp_path / "run", *scores)
    tests = audit(run)
    blind = family(tests[tests.kind == BLIND], "average_drop")
    assert list(zip(blind.control, blind.method, strict=True)) == [("centre", "a"), ("centre", "b")]
    (verdict,) = family(verdicts(tests, BLIND), "average_drop").itertuples()
    assert verdict.verdict == FAILS and verdict.control == "centre"
    assert not (tests[tests.kind == CONTROL].control == "centre").any()


def test_words(tmp_path, scores):
    one = audit_run(make_run(tmp_path / "run", *scores))
    (failing,) = family(one.verdicts, "average_drop").itertuples()
    assert ": ".join(sentence(failing)) == (
        f"top 20 % kept, black fill, average drop in activation FAILS: a+blurred is better than a by {failing.improvement:.2f} points "
        f"[{failing.low:.2f}, {failing.high:.2f}] (p < 0.001 corrected for 4 tests, < 0.001 uncorrected; n = 60)."
    )
    page, decided = markdown([one]), (one.verdicts.verdict != NO_VERDICT).sum()
    assert f"{(one.verdicts.verdict == FAILS).sum()} of {len(one.verdicts)} combinations of protocol point, score and metric fail" in page
    assert "1 of 1 protocol points fail in at least one metric. 60 of 60 images scored; methods: a, b; controls: blurred, shuffled." in page
    assert f"| shuffled | 0 of {decided} | 0 of {decided} | nowhere |" in page and "beats a method" in page
    printed = "\n".join(terminal_lines(one))
    assert "top 20 % kept, black fill: FAILS in" in printed and "centre, which does not look at the network, beats a" in printed


def test_what_passes_passes(tmp_path, scores):
    full, masked = scores
    run = make_run(tmp_path / "run", full, {name: masked[name] for name in ("a", "a+shuffled")})
    one = audit_run(run)
    assert one.blind.empty and set(one.verdicts.verdict) == {PASSES, NO_VERDICT}
    unchanged = one.verdicts[one.verdicts.verdict == NO_VERDICT]
    assert set(unchanged.metric) == {"increase", "average_gain"} and (unchanged.most == 0).all()
    passing = len(one.verdicts) - len(unchanged)
    assert (
        f"None of 9 combinations of protocol point, score and metric fails, {passing} pass, and {len(unchanged)} cannot fail and have no "
        "verdict (too few images differ); 0 of 1" in markdown([one])
    )
    printed = "\n".join(terminal_lines(one))
    assert f"passes in {passing} of 9 metrics; cannot fail with n = 60, at most 0 images that differ and 1 test: no verdict in" in printed


@pytest.mark.parametrize(("images", "decided"), [(6, False), (7, True)])
def test_where_no_test_can_fail_there_is_no_verdict(tmp_path, images, decided):
    """4 tests: 4 / 2^6 is above 5 % and 4 / 2^7 below, whatever the differences."""
    full = fresh().uniform(5, 9, images)
    masked = {"a": full - 2, "b": full - 2}
    for name in ("a+blurred", "a+shuffled", "b+blurred", "b+shuffled"):
        masked[name] = full - fresh().uniform(1, 1.9, images)  # better on every image, so p is the smallest
    one = audit_run(make_run(tmp_path / "run", full, masked))
    (drop,) = family(one.verdicts, "average_drop").itertuples()
    assert drop.p == pytest.approx(0.5**images) and drop.verdict == (FAILS if decided else NO_VERDICT)
    stored = family(one.tests, "average_drop")
    assert (stored.differing == images).all() and set(stored.verdict) == {drop.verdict}
    printed, page = "\n".join(terminal_lines(one)), markdown([one])
    said = "What cannot fail, and has no verdict"
    if decided:
        assert "FAILS in" in printed
    else:
        assert (
            "FAILS" not in printed
            and f"cannot fail with n = {images}, at most {images} images that differ and 4 tests: no verdict" in printed
        )
        assert said in page and f"| average drop in activation | {images} | {images} | 4 | 7 |" in page
        assert "| pass |" not in page and "pass" not in page.partition("combinations")[2].partition(" pass,")[0]


def with_maps(run, **measures):
    """The run with measures of its maps, each {method: (n,)}."""
    values = next(iter(measures.values()))
    columns = {name: [value for given in of.values() for value in given] for name, of in measures.items()}
    keys = [{"index": i, "target": 0, "method": method} for method, given in values.items() for i in range(len(given))]
    return holding(run, maps=pd.DataFrame(keys).assign(**dict.fromkeys(MEASURES, np.nan)).assign(**columns))


@pytest.mark.parametrize(("relative", "verdict"), [(1e-14, NO_VERDICT), (1e-6, FAILS)])
def test_rounding_is_no_difference(tmp_path, scores, relative, verdict):
    full, masked = scores
    stable = fresh().uniform(0.5, 0.9, 60)
    better = stable * (1 + relative)  # on every image
    assert (better > stable).all()
    run = make_run(tmp_path / "run", full, {name: masked[name] for name in ("a", "a+shuffled")})
    (one,) = family(verdicts(audit(with_maps(run, stability={"a": stable, "a+shuffled": better}))), "stability", None).itertuples()
    assert one.verdict == verdict and (one.p == 1) == (verdict == NO_VERDICT)


def test_an_interval_that_holds_zero_beside_a_small_p_says_why(tmp_path):
    full = np.full(40, 8.0)
    gained = fresh().uniform(0.001, 0.01, 40)
    gained[3] = 1.5  # all differences are positive, and one carries the mean
    one = audit_run(make_run(tmp_path / "run", full, {"a": full - 2, "a+blurred": full - 2 + gained}))
    (drop,) = family(one.verdicts, "average_drop").itertuples()
    assert drop.verdict == FAILS and drop.p_corrected < 0.001 and drop.low <= 0 < drop.high
    share = round(100 * gained.max() / gained.sum())
    why = f"The interval holds 0 all the same: it is of the mean, and one image has {share} % of all differences' size; the test asks"
    assert sentence(drop)[1].count(why) == 1
    (won,) = family(one.verdicts, "win").itertuples()
    assert won.low > 0 and "holds 0" not in sentence(won)[1]


def test_measures_of_maps_fail_in_a_list_of_their_own(tmp_path, scores):
    full, masked = scores
    run = make_run(tmp_path / "run", full, {name: masked[name] for name in ("a", "a+blurred")})
    one = audit_run(with_maps(run, complexity={"a": [0.5] * 60, "a+blurred": [0.2] * 60}))
    page = markdown([one])
    asking, _, alone = page.partition("### What fails among measures of the maps alone")
    assert "of the maps, complexity FAILS" in alone and "of the maps, complexity FAILS" not in asking
    assert "a reason not to rank methods by the measure" in alone and "average drop in activation FAILS" in asking


def test_a_run_that_until_ended_says_so(tmp_path, scores):
    run = make_run(tmp_path / "run", *scores)
    end = {"settled": True, "shards": 1, "n": 60, "difference": 1, "low": 0.5, "high": 2, "level": 0.95, "first": "a", "second": "b"}
    stopped = replace(
        run, provenance={**run.provenance, "shard_size": 60, "end": {**end, "metric": "average_drop", "point": ["keep_top", 20, "black"]}}
    )
    for said in (markdown([audit_run(stopped)]), "\n".join(terminal_lines(audit_run(stopped)))):
        assert (
            said.count("Stopped after 60 of 60 images") == 1 == said.count("The other intervals and the p values of this run do not allow")
        )
    assert "until" not in markdown([audit_run(run)])


def test_several_classes_of_an_image_flip_together():
    differences = np.repeat(fresh().normal(0.3, 1, (1, 12)), 2, axis=1)
    together, _ = improvements(differences, np.repeat(np.arange(12), 2))
    assert together[0] == improvements(differences[:, ::2], np.arange(12))[0][0]


def test_a_run_without_controls_and_one_without_images(tmp_path, scores):
    full, masked = scores
    run = make_run(tmp_path / "plain", full, {name: masked[name] for name in ("a", "b", "centre")})
    with pytest.raises(UserError, match=r"has no control versions.*'\+control=\[blurred,dilated,mixed,shuffled\]'"):
        audit(run)
    nothing = {(i, "a"): "nonfinite" for i in range(60)}
    with pytest.raises(UserError, match="no image could be scored by every method, so there is nothing to audit"):
        audit(make_run(tmp_path / "nothing", full, masked, status=nothing))


def test_command(tmp_path, scores):
    full, masked = scores
    run = make_run(tmp_path / "run", full, masked)
    done = evalkit("audit", run.path)
    assert done.returncode == 0 and "FAILS" in done.stdout and "written:" in done.stderr
    table = pd.read_csv(tmp_path / "run" / "audit.csv")
    assert set(table.kind) == {CONTROL, BLIND} and (table.p_corrected >= table.p).all()
    assert "# Audit of protocol points and metrics" in (tmp_path / "run" / "audit.md").read_text()
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["identity"]
    assert load_runs([tmp_path / "run", tmp_path / "run" / "audit.md"])  # as a shell's * names it
    plain = make_run(tmp_path / "plain", full, {"a": masked["a"]})
    refused = evalkit("audit", plain.path)
    assert refused.returncode == 2 and refused.stderr.startswith("error: ") and "has no control versions" in refused.stderr


def test_several_runs_have_a_section_each(tmp_path, scores):
    full, masked = scores
    first = make_run(tmp_path / "first", full, masked)
    second = make_run(tmp_path / "second", full, masked, model="other", paper=None)
    write_audit([audit_run(first), audit_run(second)], tmp_path / "out")
    page = (tmp_path / "out" / "audit.md").read_text()
    assert page.count("\n## ") == 2 and len(pd.read_csv(tmp_path / "out" / "audit.csv").model.unique()) == 2


@pytest.mark.parametrize("command", ["audit", "tables", "verdict"])
def test_a_folder_without_runs(tmp_path, command):
    (tmp_path / "notes").mkdir()
    refused = evalkit(command, tmp_path)
    assert refused.returncode == 2 and f"no run folder was found in {tmp_path} or directly below it" in refused.stderr
