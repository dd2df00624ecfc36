"""The paper's scores from answers whose scores are known."""

import itertools
import json

import krippendorff
import numpy as np
import pytest
from builders import HOSTILE, fresh
from commands import through_main as command
from studies import make_key, sheet

from evalkit.analysis import resampling
from evalkit.errors import UserError
from evalkit.study.records import KEY, read_answers, read_key
from evalkit.study.report import sentences, write
from evalkit.study.score import agreement, answers_as_numbers, score

BETTER = ("ablation_cam", "grad_cam", "same")


def value(found, quantity, of):
    rows = found.table[(found.table.quantity == quantity) & (found.table.of == of)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_the_papers_worked_example():
    key = make_key("better", 1)
    said = ["grad_cam"] * 3 + ["ablation_cam"] * 5 + ["same"] * 2
    found = score(key, [sheet(key, str(i), lambda _, one=one: one) for i, one in enumerate(said)])
    assert [value(found, "score", name).value for name in BETTER] == [0.5, 0.3, 0.2]
    assert value(found, "score", "difference").value == pytest.approx(0.2)
    assert np.isnan(value(found, "score", "same").low)  # one image has no interval


@pytest.mark.parametrize("images", [1, 250])
def test_the_published_scores_stand_beside(images):
    key = make_key("better", images)
    found = score(key, [sheet(key, "one", lambda _: "same"), sheet(key, "two", lambda _: "ablation_cam")])
    assert value(found, "score", "same").value == images / 2 and value(found, "score", "grad_cam").value == 0
    published = [value(found, "score", name).published for name in (*BETTER, "difference")]
    assert published == [130.8, 62.8, 56.4, pytest.approx(68)] and sum(published[:3]) == pytest.approx(250)
    assert np.isnan(score(make_key("better", 1, ("cam", "edges")), [sheet(key, "one", lambda _: "same")]).table.published[0])


def alpha_by_definition(said, distance):
    """1 - D_o / D_e over all pairs of answers, in plain loops: Krippendorff's own definition."""
    units = [[v for v in column if not np.isnan(v)] for column in said.T]
    units = [unit for unit in units if len(unit) > 1]
    every = [v for unit in units for v in unit]
    observed = sum(sum(distance(a, b) for a, b in itertools.permutations(unit, 2)) / (len(unit) - 1) for unit in units) / len(every)
    expected = sum(distance(a, b) for a, b in itertools.permutations(every, 2)) / (len(every) * (len(every) - 1))
    return 1 - observed / expected


@pytest.mark.parametrize(("level", "distance"), [("nominal", lambda a, b: a != b), ("interval", lambda a, b: (a - b) ** 2)])
def test_alpha_against_its_definition(level, distance):
    rng = fresh()
    truth = rng.integers(-2, 3, 30)
    said = np.clip(truth + rng.integers(-1, 2, (6, 30)), -2, 2).astype(float)
    said[rng.random(said.shape) < 0.3] = np.nan
    said[1:, 0] = np.nan
    assert agreement(said, level) == (pytest.approx(alpha_by_definition(said, distance)), "")
    assert krippendorff.alpha(reliability_data=said, level_of_measurement=level) == pytest.approx(alpha_by_definition(said, distance))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([[1.0, 2, 0]], "there is one rater"),
        ([[1, np.nan], [np.nan, 1]], "no item has"),
        ([[1, 1], [1, np.nan]], "all answers are the same"),
    ],
)
def test_alpha_is_undefined(said, why):
    alpha, undefined = agreement(np.array(said), "nominal")
    assert np.isnan(alpha) and undefined.startswith(why)


def simulated(images: int, raters: int, rng: np.random.Generator):
    """Images differ in what people think of them: each has its own chances, which average to the known preference."""
    key = make_key("better", images)
    chances = rng.dirichlet((2.5, 1.5, 1.0), images)
    sheets = [sheet(key, str(r), lambda item: BETTER[rng.choice(3, p=chances[item.index])]) for r in range(raters)]
    return key, sheets


def test_simulated_raters_give_the_shares_of_their_answers():
    key, sheets = simulated(30, 5, fresh())
    found = score(key, sheets)
    for name in BETTER:
        counted = [sum(one.answers[i] in (name, next((o for o, m in key.items[i].options.items() if m == name), "")) for one in sheets)
                   for i in key.items]  # fmt: skip
        assert value(found, "score", name).value == pytest.approx(sum(counted) / 5)
    assert sum(value(found, "score", name).value for name in BETTER) == pytest.approx(30)
    assert found.raters == 5 and found.answers == 150 and found.skipped == 0
    assert found.alpha == pytest.approx(alpha_by_definition(answers_as_numbers(key, sheets), lambda a, b: a != b))


def test_intervals_cover_the_true_preference(monkeypatch):
    """0.5, 0.3 and 0.2 of the people prefer each; 95 % of the intervals should hold that, of 120 studies at least 103."""
    monkeypatch.setattr(resampling, "RESAMPLES", 400)
    rng = np.random.default_rng(8)
    found = [score(*simulated(40, 4, rng)) for _ in range(120)]
    for name, truth in zip((*BETTER, "difference"), (20, 12, 8, 8), strict=True):
        rows = [value(one, "score", name) for one in found]
        assert 103 <= sum(row.low <= truth <= row.high for row in rows) < 120
        assert np.mean([row.value for row in rows]) == pytest.approx(truth, abs=1)


def test_ratings_turn_with_their_sides():
    key = make_key("trust", 40, ("vgg16", "alexnet"))
    rng = fresh()
    truth = rng.integers(-2, 3, (3, 40))
    sheets = [sheet(key, str(r), lambda item, r=r: int(truth[r, item.index])) for r in range(3)]
    assert (answers_as_numbers(key, sheets) == truth).all()
    row = value(score(key, sheets), "mean rating", "vgg16 over alexnet")
    assert row.value == pytest.approx(truth.mean()) and row.n == 120 and row.published == 1.31
    means = truth.mean(0)[rng.integers(0, 40, (4000, 40))].mean(1)  # plain bootstrap over images
    assert np.allclose([row.low, row.high], np.quantile(means, [0.025, 0.975]), atol=0.08)
    assert any(one.answers != other.answers for one, other in itertools.pairwise(sheets))


WHICH = ("guided_ablation_cam", "guided_grad_cam")


def test_both_is_wrong_and_methods_are_paired():
    key = make_key("which", 20, WHICH)
    other = {"cat": "dog", "dog": "cat"}
    right = fresh().random((4, 2, 2, 20)) < np.array([0.9, 0.6])[:, None, None]

    def say(rater):
        def one(item):
            if right[rater, WHICH.index(item.method), item.target, item.index]:
                return item.target_name
            return "both" if item.index % 2 else other[item.target_name]

        return one

    found = score(key, [sheet(key, str(r), say(r)) for r in range(4)])
    by_method = right.mean((0, 2, 3)) * 100
    for method, percent, published in zip(WHICH, by_method, (73.6, 65.4), strict=True):
        row = value(found, "correct %", method)
        assert row.value == pytest.approx(percent) and row.n == 160 and row.published == published
    gained = right.mean((0, 2))[0] - right.mean((0, 2))[1]  # by image
    drawn = gained[np.random.default_rng(0).integers(0, 20, (4000, 20))].mean(1) * 100
    row = value(found, "correct %", "difference")
    assert row.value == pytest.approx(by_method[0] - by_method[1]) and row.published == pytest.approx(8.2)
    assert np.allclose([row.low, row.high], np.quantile(drawn, [0.025, 0.975]), atol=2.5)
    assert not found.table.quantity.str.contains("energy").any()  # no boxes, no stand-in


def test_boxes_stand_in_for_people():
    key = make_key(
        "which", 2, WHICH, energy_inside=[0.5, 0.1, 0.4, 0.2, 0.3, 0.3, 0.6, None], energy_others=[0.2, 0.3, 0.4, 0.1, 0.1, 0.5, 0.3, 0.2]
    )
    found = score(key, [sheet(key, "one", lambda item: item.target_name)])
    more = "more energy in own boxes %"  # of items 0, 2, 4, 6 and of 1, 3, 5
    assert [value(found, more, method).value for method in WHICH] == [75, pytest.approx(100 / 3)]
    assert [value(found, "energy in own boxes %", method).value for method in WHICH] == [pytest.approx(45), pytest.approx(20)]
    assert [value(found, "energy in the other's boxes %", method).value for method in WHICH] == [pytest.approx(25), pytest.approx(30)]
    assert [value(found, more, method).n for method in WHICH] == [4, 3]


def test_incomplete_answers_are_used_and_counted():
    key = make_key("better", 10)
    half = sheet(key, "half", lambda item: "grad_cam" if item.index < 5 else None)
    whole = sheet(key, "whole", lambda item: "ablation_cam" if item.index < 9 else None)
    found = score(key, [half, whole])
    assert (found.answers, found.skipped) == (14, 6)
    assert [value(found, "score", name).value for name in BETTER] == [6.5, 2.5, 0]  # of the nine images that somebody judged
    assert "14 of 20 answers, 6 skipped" in sentences(found)[0] and "at most 9" in sentences(found)[1]
    with pytest.raises(UserError, match="no answer to any item"):
        score(key, [sheet(key, "none", lambda _: None)])


def saved(folder, key, **sheets):
    folder.mkdir(exist_ok=True)
    (folder / KEY).write_text(key.model_dump_json())
    for name, one in sheets.items():
        (folder / f"{name}.json").write_text(one.model_dump_json())
    return [folder / f"{name}.json" for name in sheets]


def test_the_command_writes_what_it_prints(tmp_path):
    key = make_key("better", 4)
    files = saved(tmp_path / "study", key, ann=sheet(key, "Ann", lambda _: "same"), bob=sheet(key, "Bob", lambda _: "grad_cam"))
    ended = command("study", "score", str(tmp_path / "study"), *map(str, files))
    assert ended.returncode == 0, ended.stderr
    text = (tmp_path / "study" / "scores.md").read_text()
    for shown in (ended.stdout, text):
        assert "2.00 [2.00, 2.00]" in shown and "130.80" in shown and "2 raters, 4 items of 4 images: 8 of 8 answers" in shown
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    table = (tmp_path / "study" / "scores.csv").read_text().splitlines()
    assert table[2].startswith("score,grad_cam,2,2,2,") and table[-3].startswith("raters,,2,") and table[-1].startswith("skipped,,0,")
    assert table[-4].startswith('"Krippendorff\'s alpha, nominal",,-0.75')  # two raters who never agree
    alone = command("study", "score", str(tmp_path / "study" / KEY), str(files[0]), "--out", str(tmp_path / "out"))
    assert "alpha, nominal): undefined, since there is one rater" in alone.stdout and (tmp_path / "out" / "scores.md").is_file()


def test_answers_that_cannot_count_end_in_one_sentence(tmp_path):
    key = make_key("better", 2)
    good = sheet(key, "Ann", lambda _: "same")
    first, second, other, odd, strange, turned = saved(
        tmp_path / "study", key, first=good, second=good.model_copy(update={"rater": " ann"}), other=good.model_copy(update={"study": "t"}),
        odd=good.model_copy(update={"answers": {"item-0": "item-1"}}), strange=good.model_copy(update={"answers": {"x": "same"}}),
        turned=good.model_copy(update={"shown": {name: (a, a) for name, (a, _) in good.shown.items()}}),
    )  # fmt: skip
    (tmp_path / "cut.json").write_bytes(first.read_bytes()[:40])
    (tmp_path / "list.json").write_text(json.dumps([1]))
    (tmp_path / "bytes.json").write_bytes(b"\xff\x00")
    for files, says in [
        ([first, second], "are both by the rater"),
        ([other], "answers another study"),
        ([odd], "'item-1' is no answer to item-0"),
        ([strange], "which is no item of this study with these options"),
        ([turned], "which is no item of this study with these options"),
        ([tmp_path / "cut.json"], "is no file of answers that the study's page saved, or damaged"),
        ([tmp_path / "list.json"], "is no file of answers"),
        ([tmp_path / "bytes.json"], "is no file of answers"),
        ([tmp_path / "nowhere.json"], "cannot read"),
        ([tmp_path / "study" / KEY], "is no file of answers"),
    ]:
        with pytest.raises(UserError, match=says):
            read_answers(key, files)
    with pytest.raises(UserError, match="is no key of a study"):
        read_key(first)
    with pytest.raises(UserError, match=r"cannot read .*key\.json"):
        read_key(tmp_path)
    ended = command("study", "score", str(tmp_path / "study"), str(other))
    assert ended.returncode == 2 and len(ended.stderr.strip().splitlines()) == 1 and "Traceback" not in ended.stderr


def test_a_key_that_lost_items_is_no_key(tmp_path):
    whole = make_key("which", 2, WHICH)
    (tmp_path / KEY).write_text(whole.model_dump_json())
    assert read_key(tmp_path) == whole
    lacking = json.loads(whole.model_dump_json())
    del lacking["items"]["item-3"]
    (tmp_path / KEY).write_text(json.dumps(lacking))
    with pytest.raises(UserError, match="its items do not fit its design"):
        read_key(tmp_path)


def test_names_are_only_text(tmp_path, capsys):
    key = make_key("better", 3, (HOSTILE, "grad_cam"))
    found = score(key, [sheet(key, HOSTILE[:90], lambda _: "same")])
    write(found, tmp_path)
    text = (tmp_path / "scores.md").read_text()
    assert "\x1b" not in text and "\n# title" not in text and "](" not in text and "alert(1)" in text and "\\<script" in text
