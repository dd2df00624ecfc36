"""The verdict's sentences say what the tests found, whatever was run."""

import io
import re

import numpy as np
import pandas as pd
import pytest
from builders import HOSTILE, fresh, make_run, run_of, steady
from commands import through_main
from rich.console import Console

from evalkit.analysis.agreement import EXCESS
from evalkit.analysis.verdict import standings, verdict
from evalkit.output.method_names import display
from evalkit.output.verdict_headline import headline
from evalkit.output.verdict_markdown import verdict_markdown
from evalkit.output.verdict_plots import CAPTIONS, verdict_figures
from evalkit.output.verdict_rule import rule
from evalkit.output.verdict_tables import (
    aside_table,
    claim_sentences,
    csv_table,
    over,
    pair_table,
    rank_tables,
    standing_table,
    tau_table,
)
from evalkit.output.verdict_terminal import print_verdict
from evalkit.output.verdict_words import agreement_lines, pair_sentence, places, srg_sentence, turn_sentence
from evalkit.point import Point

BLACK, MEAN, BLUR = (("keep_top", 20.0, fill) for fill in ("black", "mean", "blur"))
EVERY = [Point(*one) for one in (BLACK, MEAN, BLUR)] + [Point("soft", None, fill) for fill in ("black", "mean", "blur")]


@pytest.fixture
def full():
    return fresh().uniform(3, 8, 60)


def words(run, number=0):
    found = verdict([run])
    return [pair_sentence(one, "confidence") for one in standings(found, number)]


def test_points_that_hold_and_one_where_nothing_is_told(tmp_path, full):
    equal = {"ablation_cam": full / 2, "grad_cam": full / 2}
    (said,) = words(run_of(tmp_path, full, {BLACK: steady(full), BLUR: steady(full), MEAN: equal}))
    assert said == (
        "Ablation-CAM is better than Grad-CAM by 30.00 points under 2 of 3 protocol points (top 20 % kept, black fill; top 20 % kept, blur "
        "fill); under the others the two cannot be told apart (average drop in confidence, n = 60). Of all 18 judgements, Ablation-CAM is "
        "better in 8, worse in 0; not told apart in 10."
    )


def test_a_run_where_everything_turns(tmp_path, full):
    run = run_of(tmp_path, full, {BLACK: steady(full), BLUR: steady(full, 0.6, 0.9)})
    found = verdict([run])
    (one,) = standings(found, 0)
    assert pair_sentence(one, "confidence") == (
        "Ablation-CAM is better than Grad-CAM by 30.00 points under 1 of 2 protocol points (top 20 % kept, black fill), and worse than "
        "Grad-CAM by 30.00 points under 1 of 2 protocol points (top 20 % kept, blur fill) (average drop in confidence, n = 60). Of all 12 "
        "judgements, Ablation-CAM is better in 4, worse in 4 (average drop in confidence under top 20 % kept, "
        "blur fill; win in confidence under top 20 % kept, blur fill; average drop in activation under top 20 % kept, blur fill; win in "
        "activation under top 20 % kept, blur fill); not told apart in 4."
    )
    assert "worse in 4, by average drop in confidence under top 20 % kept, blur fill;" in turn_sentence(one)
    assert headline(found, 0) == ["No method is best: both methods are significantly worse than another in some judgement."]


def test_the_best_method_and_those_it_is_not_told_from(tmp_path, full):
    scores = steady(full) | {"cam": full * 0.9, "random": full * 0.1}
    found = verdict([run_of(tmp_path, full, {BLACK: scores})])
    said = headline(found, 0)
    assert said[0] == "Ablation-CAM and CAM are worse than no other method in any judgement; every other method is in some."
    assert said[1].startswith("Of 3 pairs of methods, controls aside: 0 in the same order in every judgement; 2 in one order in some")
    alone = verdict([run_of(tmp_path / "alone", full, {BLACK: steady(full) | {"random": full * 0.1}})])
    assert headline(alone, 0)[0] == "Ablation-CAM is better than Grad-CAM in some judgement and worse in none."
    assert headline(alone, 0)[-1] == "Every method is more often better than worse than each control."


def test_judgements_that_a_control_wins_are_set_aside(tmp_path, full):
    """Centre wins under black, by average drop and win of both scores; under blur the methods stand in the other order."""
    sound = steady(full, 0.6, 0.9) | {"centre": full * 0.5}
    found = verdict([run_of(tmp_path, full, {BLACK: steady(full) | {"centre": full * 0.95}, BLUR: sound})])
    said = headline(found, 0)
    assert said[:2] == [
        "4 of 12 judgements are set aside and count in nothing below, since a map that does not look at the network is significantly "
        "better there than every method: Centre (control) in 4.",
        "If they counted, 1 pair of methods would stand otherwise (better : worse): Grad-CAM against Ablation-CAM 4 : 4, not 4 : 0.",
    ]
    assert said[2] == "Grad-CAM is better than Ablation-CAM in some judgement and worse in none."
    assert aside_table(found.judged[0])[1:] == [
        ["top 20 % kept, black fill", f"{metric} in {score}", "Centre (control)"]
        for score in ("confidence", "activation")
        for metric in ("average drop", "win")
    ]
    names = [column for _, lines in rank_tables(found.judged[0]) for column in lines[0][1:]]
    assert names.count("top 20 % kept, black fill (set aside)") == 4 == sum("(set aside)" in name for name in names)
    assert tau_table(found.judged[0]) == ("", [])  # one protocol point is left
    assert {(one.better, one.worse, one.total) for one in standings(found, 0)} == {(4, 0, 8)}
    assert pair_table(found, 0)[1:] == [
        ["Ablation-CAM", "", "0 : 4", "4 : 0"],
        ["Grad-CAM", "4 : 0", "", "4 : 0"],
        ["Centre (control)", "0 : 4", "0 : 4", ""],
    ]
    table = csv_table(found)
    assert set(table[table.aside == "centre"]["fill"]) == {"black"} and (table.aside == "centre").sum() == 12 and len(table) == 36
    only = verdict([run_of(tmp_path / "one", full, {BLACK: {"grad_cam": full * 0.5, "centre": full * 0.95}})])
    assert not only.judged[0].aside  # one method: that it loses to a control is the finding
    assert headline(only, 0) == [
        "Grad-CAM does not beat Centre (control): better in 0 of 6 judgements, worse in 4.",
        "By the average drop in confidence, Centre (control) is better than Grad-CAM under top 20 % kept, black fill.",
    ]


def test_one_point_one_image_one_method(tmp_path, full):
    one_point = verdict([run_of(tmp_path / "point", full, {BLACK: steady(full)})])
    assert "There is one protocol point only, so nothing can be said about other fills and selections." in rule(one_point, 0)
    (said,) = words(run_of(tmp_path / "again", full, {BLACK: steady(full)}))
    assert said.startswith(
        "Ablation-CAM is better than Grad-CAM at the one protocol point, top 20 % kept, black fill: -30.00 points [-30.00, -30.00], "
        "lower is better (average drop in confidence, n = 60). Of all 6 judgements, Ablation-CAM is better in 4"
    )
    one_image = verdict([run_of(tmp_path / "image", full[:1], {BLACK: steady(full[:1])})])
    assert "Nothing can be tested: that takes two images or more." in rule(one_image, 0)
    one_method = verdict([run_of(tmp_path / "method", full, {BLACK: {"grad_cam": full / 2}})])
    assert headline(one_method, 0) == [
        "Grad-CAM is the only method, so nothing can be said about which is better: add one, or the controls."
    ]


def test_raw_outputs_and_layers(tmp_path, full):
    model = {"name": "m", "layer": ["x", "y"], "weights_hash": "h", "output": "raw"}
    scores = {"grad_cam@x": full * 0.9, "grad_cam@y": full * 0.5, "mine": full * 0.2}
    found = verdict([run_of(tmp_path, full, {BLACK: scores}, layer=["x", "y"], asked={"model": model})])
    said = pair_sentence(standings(found, 0)[0], "score")
    assert said.startswith("Grad-CAM@x is better than Grad-CAM@y at the one protocol point") and "(average drop, n = 60)" in said
    assert rule(found, 0)[0].startswith("A judgement is one protocol point (which pixels stay, and what fills the others) and one metric (")
    assert (display("mine"), display("centre")) == ("mine", "Centre (control)")


def test_control_versions_are_said_to_be_left_out(tmp_path, full):
    found = verdict([run_of(tmp_path, full, {BLACK: steady(full) | {"grad_cam+blurred": full}})])
    assert "1 control version of a method (with a + in its name) is left out: they are no competitors." in rule(found, 0)
    assert "blurred" not in verdict_markdown(found) and "blurred" not in csv_table(found).to_csv()


def test_places():
    keep, soft = EVERY[:3], EVERY[3:]
    assert places(EVERY, EVERY) == "every protocol point"
    assert places(EVERY[:5], EVERY) == "all but soft mask, blur fill"
    assert places(keep, EVERY) == "top 20 % kept with every fill"
    assert places([keep[1], soft[1]], EVERY) == "mean fill"
    assert places([*soft, keep[0]], EVERY) == "soft mask with every fill; top 20 % kept, black fill"
    assert places(keep[:1], keep[:1]) == "top 20 % kept, black fill"
    many = [Point("keep_top", float(top), "black") for top in range(1, 20)]
    assert places(many[:8], many).endswith("; 4 more")


def test_over_networks(tmp_path, full):
    runs = [
        run_of(tmp_path / "x", full, {BLACK: steady(full)}, model="x"),
        run_of(tmp_path / "y", full, {BLACK: steady(full)}, model="y"),
        run_of(tmp_path / "z", full, {BLACK: steady(full, 0.6, 0.9)}, model="z"),
    ]
    said = claim_sentences(verdict(runs))
    assert said == [
        "Ablation-CAM is better than Grad-CAM in 4 of 6 judgements on x and 4 of 6 on y, and worse in none; it is worse than Grad-CAM in 4 "
        "of 6 judgements on z, and better in none."
    ]
    both = claim_sentences(verdict(runs[:2]))
    assert both == ["Ablation-CAM is better than Grad-CAM in 4 of 6 judgements on x and 4 of 6 on y, and worse in none."]
    equal = {"ablation_cam": full / 2, "grad_cam": full / 2}
    same = [run_of(tmp_path / f"same-{i}", full, {BLACK: equal}, model="x") for i in range(2)]
    (said,) = claim_sentences(verdict(same))
    assert said.startswith("Ablation-CAM is equal to Grad-CAM on ")


def test_several_runs_of_one_network_are_no_networks(tmp_path, full):
    runs = [run_of(tmp_path / name, full, {BLACK: steady(full)}, model=name[0]) for name in ("x1", "x2", "y")]
    assert over(runs[1:]) == "2 networks" and over(runs) == "3 runs of 2 networks" and over(runs[:2]) == "2 runs of 1 network"


def test_equal_methods_and_too_few_images(tmp_path, full):
    (said,) = words(run_of(tmp_path / "equal", full, {BLACK: {"ablation_cam": full / 2, "grad_cam": full / 2}}))
    assert said == "Ablation-CAM and Grad-CAM are equal in all 6 judgements: every difference is 0 (n = 60)."
    few = verdict([run_of(tmp_path / "few", full[:8], {BLACK: steady(full[:8])})])
    (said,) = headline(few, 0)
    assert said == (  # 2^-7 x 6 tests = 0.047 would do with 8 images; 7 images have 2^-6 x 6 = 0.094
        "Ablation-CAM is better than Grad-CAM in some judgement and worse in none."
    )
    fewer = verdict([run_of(tmp_path / "fewer", full[:7], {BLACK: steady(full[:7])})])
    assert headline(fewer, 0) == [
        "Nothing can be told: with 7 images and 6 tests, no difference can be significant, however large; that takes 8 images or more."
    ]
    assert "with 80 % probability" not in " ".join(rule(fewer, 0)) and "> **Caution: only 7 images are scored" in verdict_markdown(fewer)
    assert fewer.tests.corrected.min() > 0.05 > few.tests.corrected.min()


def test_where_nothing_depends_on_the_map(tmp_path, full):
    everything = {("keep_top", top, "black"): steady(full, 0.5, 0.5) for top in (0.0, 100.0)}
    found = verdict([run_of(tmp_path, full, everything)])
    assert headline(found, 0) == ["No judgement counts, so nothing can be said about which method is better."]
    assert rule(found, 0) == [
        "There is no judgement: protocol points that keep or remove 0 or 100 % of the pixels do not depend on the map."
    ]


def test_fills_by_srg_and_by_average_drop():
    lines = [("fill", "average_drop", False, 3, 0.2, 0.1, 0.4), ("fill", "srg", False, 3, 0.7, 0.5, 0.9)]
    lines.append(("fill", EXCESS, False, 3, 0.5, 0.3, 0.6))
    table = pd.DataFrame(lines, columns=["between", "metric", "with_controls", "pairs", "tau", "low", "high"])
    numbers = "between fills, tau is 0.70 [0.50, 0.90] by the gain and 0.20 [0.10, 0.40] by the drop, a difference of 0.50 [{low}, 0.60]."
    than = "by symmetric relevance gain than by average drop: "
    assert srg_sentence(table) == [f"Fills agree more {than}" + numbers.format(low="0.30")]
    table.loc[2, "low"] = -0.1
    assert srg_sentence(table) == [f"It cannot be told whether fills agree more {than}" + numbers.format(low="-0.10")]
    assert srg_sentence(table[:2]) == [] == srg_sentence(pd.DataFrame())
    assert [line[0] for line in agreement_lines(table)[1:]] == [
        f"the fill, {name} alone, no soft masks" for name in ("average drop", "symmetric relevance gain")
    ]


def test_tables_have_the_numbers_of_the_tests(tmp_path, full):
    found = verdict([run_of(tmp_path, full, {BLACK: steady(full), BLUR: steady(full)})])
    assert standing_table(found, 0)[1:] == [
        ["Ablation-CAM", "1.0", "8 of 12", "0 of 12"],
        ["Grad-CAM", "1.7", "0 of 12", "8 of 12"],
    ]
    lowest_first = {"grad_cam": full * 0.4, "random": full * 0.1, "ablation_cam": full * 0.9}
    assert standing_table(verdict([run_of(tmp_path / "three", full, {BLACK: lowest_first})]), 0) == [
        ["", "mean rank", *(f"{verb} than a {of}" for of in ("method", "control") for verb in ("better", "worse"))],
        ["Ablation-CAM", "1.0", "4 of 6", "0 of 6", "4 of 6", "0 of 6"],
        ["Grad-CAM", "1.7", "0 of 6", "4 of 6", "4 of 6", "0 of 6"],
        ["Random (control)", "2.3", "0 of 12", "8 of 12", "", ""],
    ]
    heading, lines = rank_tables(found.judged[0])[0]
    assert heading == "average drop in confidence (lower is better)"
    assert lines[1:] == [["Ablation-CAM", "10.00 (1)", "10.00 (1)"], ["Grad-CAM", "40.00 (2)", "40.00 (2)"]]
    table = csv_table(found)
    assert len(table) == 12 and set(table.better) == {"ablation_cam", ""}


def test_one_screen_and_hostile_names(tmp_path, full):
    names = {f"method_{i}{HOSTILE if i == 3 else ''}": full * (0.2 + i / 20) for i in range(7)} | {"random": full * 0.1}
    found = verdict([run_of(tmp_path, full, {BLACK: names, BLUR: names})])
    terminal = io.StringIO()
    print_verdict(Console(width=120, file=terminal), found)
    shown = terminal.getvalue()
    assert len(shown.splitlines()) < 90 and "... and 16 more pairs in verdict.md" in shown and "\x1b]0" not in shown
    assert "<script>" not in verdict_markdown(found).replace("\\<script>", "")


def test_figures(tmp_path, full):
    scores = steady(full) | {"centre": full * 0.3}
    (judged,) = verdict([run_of(tmp_path, full, {BLACK: scores, BLUR: scores})]).judged
    assert [name for name, _ in verdict_figures(judged)] == list(CAPTIONS)
    assert list(verdict_figures(verdict([run_of(tmp_path / "one", full, {BLACK: {"a": full}})]).judged[0])) == []


def test_the_command_writes_beside_the_run_and_reads_past_it(tmp_path, full):
    make_run(tmp_path / "run", full, steady(full) | {"centre": full * 0.3}, paper=None)
    done = through_main("verdict", str(tmp_path / "run"))
    assert done.returncode == 0 and "Ablation-CAM is better than Grad-CAM" in re.sub(r"\s+", " ", done.stdout)
    table = pd.read_csv(tmp_path / "run" / "verdict.csv")
    assert len(table) == 18 and (table.p_corrected >= table.p - 1e-12).all()
    assert (tmp_path / "run" / "verdict.md").exists() and (tmp_path / "run/figures/verdict-run-critical-difference.png").exists()
    again = through_main("verdict", *map(str, (tmp_path / "run").parent.glob("*")), "--correct", "none", "--no-figures")
    plain = pd.read_csv(tmp_path / "run" / "verdict.csv")
    assert again.returncode == 0 and np.allclose(plain.p_corrected, plain.p, equal_nan=True)
    wrong = through_main("verdict", str(tmp_path / "run"), "--correct", "hulm")
    assert wrong.returncode == 2
