"""What `until` asks: names, the order of the images, and the difference of each image, against the tables and a loop."""

import numpy as np
import pandas as pd
import pytest
from builders import fresh, make_run

from evalkit.analysis.summary import compare
from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.point import Point
from evalkit.until import Question, pair_of, shuffled, values

POINT = Point("keep_top", 20.0, "black")


@pytest.mark.parametrize("metric", ["average_drop", "win"])
@pytest.mark.parametrize("select", ["keep_top", "remove_top"])
def test_the_mean_of_the_values_is_the_difference_of_the_tables(tmp_path, metric, select):
    rng, n = fresh(), 40
    full = rng.uniform(0.5, 10, n)
    masked = {method: rng.choice([full, rng.uniform(0, 10, n)]) for method in ("centre", "grad_cam", "ablation_cam")}
    status = {(int(rng.integers(n)), "centre"): "nonfinite"}  # of a method that is not asked for
    run = make_run(tmp_path / "run", full, masked, status=status, select=select)
    table = compare(run)
    row = table[
        (table["first"] == "grad_cam") & (table["second"] == "ablation_cam") & (table.metric == metric) & (table.score == "confidence")
    ]
    found = values(run.rows, Question("grad_cam", "ablation_cam", metric, Point(select, 20.0, "black")), seed=3)
    assert len(found) == n - 1 and found.mean() == pytest.approx(row.difference.item(), abs=1e-9)


def test_each_value_is_its_images_in_the_random_order():
    """Several classes of an image are averaged; other points, unreadable images and confidences of 0 do not count."""
    rng, rows, expected = fresh(), [], {}
    for index in range(30):
        of_image = []
        for target in range(int(rng.integers(1, 4))):
            full, masked = rng.uniform(0.1, 1), rng.uniform(0, 1, 2)
            full = 0.0 if index == 4 else full
            status = "error" if index == 7 else "ok"
            for method, o in zip("ab", masked, strict=True):
                for top, shift in ((20.0, 0.0), (50.0, 0.3)):
                    row = {"index": index, "target": target, "method": method, "select": "keep_top", "top_percent": top, "fill": "black"}
                    rows.append({**row, "prob_full": full, "prob_masked": o + shift, "status": status})
            if full:
                of_image.append(100 * (max(0, full - masked[0]) - max(0, full - masked[1])) / full)
        if index not in (4, 7):
            expected[index] = sum(of_image) / len(of_image)
    order = shuffled(range(30), seed=5, shard_size=1)
    found = values(pd.DataFrame(rows).sample(frac=1), Question("a", "b", "average_drop", POINT), seed=5)
    assert np.allclose(found, [expected[index] for index in order if index in expected], atol=1e-9)


def test_the_order_is_random_seeded_and_ascending_within_shards():
    order = shuffled(range(1000), 0, 1)
    assert sorted(order) == list(range(1000)) and order != shuffled(range(1000), 1, 1)
    assert abs(np.corrcoef(order, range(1000))[0, 1]) < 0.1
    by_ten = shuffled(range(1000), 0, 10)
    assert all(by_ten[i : i + 10] == sorted(order[i : i + 10]) for i in range(0, 1000, 10))
    assert [index for index in order if index < 50] == shuffled(range(50), 0, 1)  # the order of fewer images is that of more


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("until=ablation_cam-grad_camm", "until=ablation_cam-grad_camm: no method 'grad_camm' is chosen; did you mean 'grad_cam'?"),
        ("until=ablation_cam", "until=ablation_cam must name two methods with a hyphen between them"),
        ("until=centre-centre", "until=centre-centre compares a method with itself"),
        ("until_metric=drop", "until_metric"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(override, says):
    with pytest.raises(UserError, match=says.replace("?", r"\?")):
        compose_jobs(["data.root=absent", "data=image_folder", override])


def test_the_point_is_the_first_that_depends_on_the_map():
    """protocol=curves begins where nothing is kept, which gives the same image for every map."""

    def point_of(*overrides):
        return compose_jobs(["until=ablation_cam-grad_cam", *overrides])[0].config.question().point

    assert point_of() == POINT
    curves = compose_jobs(["protocol=curves"])[0].config.protocol.all_points()
    assert point_of("protocol=curves") == next(p for p in curves if 0 < p.top_percent < 100) != curves[0]
    assert point_of("protocol.select=[soft]").select == "soft"
    named = "until_point={select: remove_top, top_percent: 50, fill: blur}"
    assert point_of("protocol=curves", named) == Point("remove_top", 50.0, "blur")
    with pytest.raises(
        UserError, match=r"until_point=\{select: remove_top, top_percent: 50, fill: blur\} is no protocol point of this run"
    ):
        point_of(named)
    with pytest.raises(UserError, match="top_percent: 0, fill: black} does not depend on the map, since"):
        point_of("protocol=curves", "until_point={select: keep_top, top_percent: 0, fill: black}")
    with pytest.raises(UserError, match="until needs a protocol point that depends on the map"):
        point_of("protocol.top_percent=[0,100]")
    with pytest.raises(UserError, match="selects keep_top needs a top_percent"):
        point_of("until_point={select: keep_top, fill: black}")


def test_a_control_version_may_be_named():
    controls = ["+control=[blurred]", "until=grad_cam - grad_cam+blurred"]
    question = compose_jobs(controls)[0].config.question()
    assert (question.first, question.second) == ("grad_cam", "grad_cam+blurred")
    with pytest.raises(UserError, match=r"no method 'grad_cam\+blurred' is chosen"):
        compose_jobs(controls[1:])


def test_scores_without_bounds_are_refused():
    with pytest.raises(UserError, match="until needs scores with bounds"):
        compose_jobs(["until=ablation_cam-grad_cam", "model.output=raw"])


def test_names_may_hold_hyphens():
    assert pair_of("a-b-c", ["a-b", "c"]) == ("a-b", "c")
    assert pair_of("m@x-1 - m@x-2", ["m@x-1", "m@x-2"]) == ("m@x-1", "m@x-2")


def test_a_shard_is_smaller_where_looks_depend_on_it():
    sizes = [compose_jobs(list(lines))[0].config.images_per_shard for lines in ([], ["until=ablation_cam-centre"], ["shard_size=7"])]
    assert sizes == [512, 128, 7]
