"""What makes a run's numbers misleading is said, and nothing else is."""

import numpy as np
import pytest
from builders import holding, make_run

from evalkit.analysis.cautions import cautions
from evalkit.analysis.load import load_runs

N = 60
FULL = np.linspace(1, 9, N)
MASKED = {name: FULL / part for part, name in enumerate(("ablation_cam", "grad_cam", "constant"), 2)}
TEN = {"class_names": list("0123456789")}


def said(path, **options):
    return cautions(make_run(path, FULL, MASKED, **options))


def right(run, number):
    """The run with `number` correctly predicted images."""
    return holding(run, rows=run.rows.assign(label=np.where(run.rows["index"] < number, 0, 1)))


def test_a_run_that_can_be_trusted_has_none(tmp_path):
    constant = {(i, "constant"): "degenerate" for i in range(N)} | {(i, "grad_cam"): "degenerate" for i in range(12)}
    assert said(tmp_path / "run", status=constant, record=TEN) == []


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ("random (seed 3)", ["has random weights"]),
        ("random in part (fc.weight, seed 0), the rest set by archs.net", ["weights are random in part (fc.weight, seed 0), the rest"]),
        ("random.pth", []),
        ("set by archs.net", []),
    ],
)
def test_random_weights(tmp_path, weights, says):
    found = said(tmp_path / "run", record={"weights": weights})
    assert len(found) == len(says) and all(part in one for part, one in zip(says, found, strict=True))


def test_constant_maps(tmp_path):
    constant = {(i, "ablation_cam"): "degenerate" for i in range(N)}
    (one,) = said(tmp_path / "one", status=constant)
    assert one == (
        "Caution: 100 % of ablation_cam's maps are constant (60 of 60): its drop compares the threshold's choice among equal pixels, "
        "not an explanation."
    )
    (both,) = said(tmp_path / "both", status=constant | {(i, "grad_cam"): "degenerate" for i in range(13)})
    assert "21.7 % of grad_cam's maps are constant (13 of 60): their drops compare" in both


def test_a_control_of_another_name_may_be_constant(tmp_path):
    masked = {"grey": FULL / 2, "grad_cam": FULL / 3}
    options = {"status": {(i, "grey"): "degenerate" for i in range(N)}, "settings": {"_target_": "evalkit.methods.constant"}}
    assert cautions(make_run(tmp_path / "run", FULL, masked, **options)) == []


def test_one_output(tmp_path):
    (one,) = said(tmp_path / "run", record={"class_names": ["tumour"]})
    assert "the network has one output" in one


def test_a_top_1_near_guessing(tmp_path):
    run = make_run(tmp_path / "run", FULL, MASKED, record=TEN)
    (one,) = cautions(right(run, 6))
    assert "the top-1 of 10.00 % on 60 images is near the 10 % of guessing among 10 classes" in one
    assert cautions(right(run, 30)) == []
    two = make_run(tmp_path / "two", FULL, MASKED, record={"class_names": ["cat", "dog"]})
    assert len(cautions(right(two, 33))) == 1 and cautions(right(two, 54)) == []
    correct = make_run(tmp_path / "correct", FULL, MASKED, record=TEN, asked={"images": "correct"})
    assert cautions(right(correct, 6)) == []
    assert cautions(holding(run, rows=run.rows.assign(label=None))) == []


def test_an_unfinished_run(tmp_path):
    (one,) = said(tmp_path / "run", images=200)
    assert one == "Caution: the run is not finished: 60 of its 200 images are in finished shards, and the numbers will change."


def test_methods_of_an_unfinished_run_in_another_folder(tmp_path):
    make_run(tmp_path / "a", FULL, {"grad_cam": FULL / 2})
    make_run(tmp_path / "b", FULL[:40], {"ablation_cam": FULL[:40] / 3})
    (merged,) = load_runs([tmp_path / "a", tmp_path / "b"])
    (one,) = cautions(merged)
    assert "20 of 60 images (33.3 %) are excluded, 20 that not every method has" in one


def test_excluded_images(tmp_path):
    few = {(i, method): "error" for i in range(5) for method in MASKED} | {(7, "grad_cam"): "nonfinite"}
    assert said(tmp_path / "few", status=few) == []
    (one,) = said(tmp_path / "many", status=few | {(8, "grad_cam"): "nonfinite"})
    assert "7 of 60 images (11.7 %) are excluded, 5 unreadable, 2 with non-finite maps or scores: " in one
    (one,) = said(tmp_path / "unlabelled", left_out=20)
    assert "20 of 80 images (25 %) are excluded, 20 without a label" in one
    assert said(tmp_path / "correct", left_out=20, asked={"images": "correct"}) == []


def test_few_images(tmp_path):
    for number, caution in ((1, "only 1 image is scored"), (29, "only 29 images are scored"), (30, None)):
        found = cautions(make_run(tmp_path / str(number), FULL[:number], {m: s[:number] for m, s in MASKED.items()}))
        assert [caution in one for one in found] == ([True] if caution else [])
