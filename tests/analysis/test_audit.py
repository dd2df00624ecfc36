"""The audit against tests by hand, its family-wise error on simulated nulls, and what it says."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from builders import fresh, make_run
from commands import evalkit

from evalkit.analysis.audit import BLIND, CONTROL, audit, improvements, verdicts
from evalkit.analysis.load import load_runs
from evalkit.errors import UserError
from evalkit.output.audit import audit_run, markdown, sentence, terminal_lines, write_audit


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
    masked["b+blurred"] = masked["b"] + rng.normal(0, 0.01, 60)
    masked["b+shuffled"] = masked["b"] - rng.uniform(0.2, 0.9, 60)
    masked["centre"] = masked["a"] + 0.5
    return full, masked


def family(table, metric, score="activation") -> pd.DataFrame:
    return table[(table.metric == metric) & (table.score == score)]


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
    assert verdict.fails and (verdict.method, verdict.control, verdict.better) == ("a", "a+blurred", 1)
    assert not family(found, "increase").fails.any()


def test_where_pixels_are_removed_a_larger_drop_is_better(tmp_path, scores):
    run = make_run(tmp_path / "run", *scores, select="remove_top")
    tests = audit(run)
    (verdict,) = family(verdicts(tests), "average_drop").itertuples()
    found = family(tests[tests.kind == CONTROL], "average_drop")
    assert verdict.fails and verdict.control in ("a+shuffled", "b+shuffled")
    assert (found[found.control.str.endswith("shuffled")].p_corrected < 0.001).all()  # of the others, one in twenty may be by chance
    assert (family(verdicts(tests), "win").control.str.endswith("shuffled")).all()


def test_maps_that_ignore_the_network_are_listed_apart(tmp_path, scores):
    run = make_run(tmp_path / "run", *scores)
    tests = audit(run)
    blind = family(tests[tests.kind == BLIND], "average_drop")
    assert list(zip(blind.control, blind.method, strict=True)) == [("centre", "a"), ("centre", "b")]
    (verdict,) = family(verdicts(tests, BLIND), "average_drop").itertuples()
    assert verdict.fails and verdict.control == "centre"
    assert not (tests[tests.kind == CONTROL].control == "centre").any()


def test_words(tmp_path, scores):
    one = audit_run(make_run(tmp_path / "run", *scores))
    (failing,) = family(one.verdicts, "average_drop").itertuples()
    assert sentence(failing) == (
        f"**top 20 % kept, black fill, average drop in activation FAILS**: a+blurred is better than a by {failing.improvement:.2f} points "
        f"[{failing.low:.2f}, {failing.high:.2f}] (p < 0.001 corrected for 4 tests, < 0.001 uncorrected; n = 60)."
    )
    page = markdown([one])
    assert f"{one.verdicts.fails.sum()} of {len(one.verdicts)} combinations of protocol point, score and metric fail" in page
    assert "1 of 1 protocol points fail in at least one metric. 60 of 60 images scored; methods: a, b; controls: blurred, shuffled." in page
    assert f"| shuffled | 0 of {len(one.verdicts)} | 0 of {len(one.verdicts)} | nowhere |" in page and "beats a method" in page
    printed = "\n".join(terminal_lines(one))
    assert "top 20 % kept, black fill: FAILS in" in printed and "centre, which does not look at the network, beats a" in printed


def test_what_passes_passes(tmp_path, scores):
    full, masked = scores
    run = make_run(tmp_path / "run", full, {name: masked[name] for name in ("a", "a+shuffled")})
    one = audit_run(run)
    assert not one.verdicts.fails.any() and one.blind.empty
    assert "None of 9 combinations of protocol point, score and metric fails; 0 of 1" in markdown([one])
    assert "passes in all 9 metrics" in "\n".join(terminal_lines(one))


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
