"""Runs of networks with one output, as two classes and as a quantity: rows against the network alone, labels, targets, refusals."""

import numpy as np
import pytest
import torch
from builders import tiny_overrides
from PIL import Image
from torch import nn

from evalkit.analysis.evaluated import evaluate_run
from evalkit.analysis.load import load_runs
from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.launch.run import run_job
from evalkit.models import zoo
from evalkit.output.tables import interval, signs
from evalkit.photos.gallery import report_runs
from evalkit.study.choose import best_classes


def run(overrides):
    (job,) = compose_jobs(overrides)
    return run_job(job)


def one_output(folder, out, output, *more):
    """A whole run of a network with one output; a and b are labels of the binary one, and of c there is no class."""
    classes = "model.classes=[a,b]" if output == "binary" else "model.classes=null"
    return [*tiny_overrides(folder, out), "+model.args.classes=1", f"model.output={output}", classes, *more]


def alone(overrides, folder):
    """The network's one number for each picture, by torch alone (12,)."""
    config = compose_jobs(overrides)[0].config.model
    module: nn.Module = zoo.build(config)[0].eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    pictures = [Image.open(file).resize((16, 16), Image.Resampling.BILINEAR) for file in sorted(folder.rglob("*.png"))]
    images = torch.stack([torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255 for picture in pictures])
    with torch.no_grad():
        return module((images - mean) / std)[:, 0].double().numpy()


def test_one_logit_is_two_classes(folder, tmp_path):
    overrides = one_output(folder, tmp_path / "run", "binary", "target=[a,b]")
    rows, z = run(overrides).rows(), alone(overrides, folder)
    assert len(rows) == 12 * 2 * 5 * 2
    for row in rows.itertuples():
        score = (z[row.index], -z[row.index])[row.target_name == "a"]
        assert row.logit_full == pytest.approx(score, abs=1e-5) and row.target == ("a", "b").index(row.target_name)
        assert row.prob_full == pytest.approx(1 / (1 + np.exp(-score)), abs=1e-5)
        assert row.prob_masked == pytest.approx(1 / (1 + np.exp(-row.logit_masked)), rel=1e-12)
        assert row.predicted == int(z[row.index] > 0)


def test_labels_of_one_logit(folder, tmp_path):
    chosen = one_output(folder, tmp_path / "label", "binary", "target=label")
    with pytest.raises(UserError, match="4 of 12 images have no label"):
        run(chosen)
    for file in folder.glob("c/*"):
        file.unlink()
    rows, z = run(chosen).rows(), alone(chosen, folder)
    assert (rows.target == rows.label).all() and set(rows.label) == {0, 1}
    assert (np.sign(rows.logit_full) == np.where(rows.label == 1, 1, -1) * np.sign(z[rows["index"]])).all()
    correct = run(one_output(folder, tmp_path / "correct", "binary", "images=correct"))
    expected = {i for i, value in enumerate(z) if int(value > 0) == i // 4}
    assert set(correct.rows()["index"]) == expected
    (loaded,) = load_runs([tmp_path / "label"])
    assert loaded.counts()["top1_percent"] == pytest.approx(100 * len(expected) / 8)


def test_a_quantity_is_explained_in_the_direction_of_its_sign(folder, tmp_path):
    shifted = ["model.score=theirs.around_its_median", "method=[ablation_cam,grad_cam,centre]", "maps=store"]
    overrides = one_output(folder, tmp_path / "run", "raw", *shifted)
    rows, z = run(overrides).rows(), alone(overrides, folder) - 0.05
    assert rows.prob_full.isna().all() and rows.prob_masked.isna().all() and rows.label.isna().all()
    assert set(rows.status) <= {"ok", "degenerate"}
    np.testing.assert_allclose(rows.logit_full, np.abs(z[rows["index"]]), atol=1e-5)
    assert (rows.target_name == np.where(z[rows["index"]] < 0, "-output", "output")).all()
    (loaded,) = load_runs([tmp_path / "run"])
    summary = evaluate_run(loaded).summary
    for method in ("ablation_cam", "grad_cam", "centre"):
        part = rows[(rows.method == method) & (rows.top_percent == 20)]
        plain = np.mean([100 * max(0, y - o) / abs(y) for y, o in zip(part.logit_full, part.logit_masked, strict=True)])
        at = summary[(summary.method == method) & (summary.metric == "average_drop") & (summary.top_percent == 20)]
        assert float(at.value.iloc[0]) == pytest.approx(plain, rel=1e-9)
    report_runs([evaluate_run(loaded)], tmp_path / "report.html", each=1)
    page = (tmp_path / "report.html").read_text()
    assert '"confidence": null' in page and "Drops are those of the score" in page and "NaN" not in page.split('id="data"')[1]


def test_chosen_directions_of_a_quantity(folder, tmp_path):
    overrides = one_output(folder, tmp_path / "run", "raw", "target=[0,1]")
    rows, z = run(overrides).rows(), alone(overrides, folder)
    np.testing.assert_allclose(rows.logit_full, np.where(rows.target == 0, 1, -1) * z[rows["index"]], atol=1e-5)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("predicted", "-z where it is negative"),
        ("0", "z itself is explained"),
        ("-output", "-z is explained for every"),
        ("[0,1]", "both z and -z"),
    ],
)
def test_the_caption_says_which_direction_is_explained(target, says, folder, tmp_path):
    run(one_output(folder, tmp_path / "run", "raw", f"target={target}", "method=[centre]"))
    (loaded,) = load_runs([tmp_path / "run"])
    assert says in signs(loaded) and signs(loaded).count("Of one output z") == 1
    with pytest.raises(UserError, match="has no classes"):
        best_classes([loaded], 5, loaded)


def test_directions_have_two_numbers(folder, tmp_path):
    with pytest.raises(UserError, match="target=0 explains z and target=1 explains -z"):
        run(one_output(folder, tmp_path / "run", "raw", "target=5"))


def test_several_raw_outputs_miss_no_labels(folder, tmp_path, caplog):
    run([*tiny_overrides(folder, tmp_path / "run"), "model.output=raw", "model.classes=null", "method=[centre]"])
    assert "top-1" not in caplog.text


def test_what_rounds_to_zero_has_no_sign():
    assert interval(-0.001, -0.004, 0.001) == "0.00 [0.00, 0.00]" and interval(-0.006, -1, 0) == "-0.01 [-1.00, 0.00]"


@pytest.mark.parametrize("wish", ["target=label", "images=correct"])
def test_a_quantity_has_no_classes(wish, folder, tmp_path):
    with pytest.raises(UserError, match=f"{wish} needs classes, and builders.TinyFC puts out one quantity"):
        run(one_output(folder, tmp_path / "run", "raw", wish))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            ["+model.args.classes=10", "model.output=binary", "model.classes=null"],
            "TinyFC has 10 outputs, and model.output=binary",
        ),
        (["+model.args.classes=1", "model.classes=null"], "has 1 output, and a softmax needs two classes or more: set model.output=binary"),
        (["+model.args.classes=1", "model.output=raw", "model.classes=[a,b]"], "one output takes a list of one name"),
        (
            ["+model.args.classes=1", "model.output=binary", "model.classes=[a]"],
            "gives 1 name, and model.output=binary needs two, the one for z < 0 first",
        ),
        (["model.score=theirs.missing"], "model.score=theirs.missing: 'theirs' has no 'missing'"),
        (["model.select=logits"], "model.select=logits: the network returns a tensor"),
    ],
)
def test_wrong_pairings(settings, says, folder, tmp_path):
    with pytest.raises(UserError, match=says):
        run([*tiny_overrides(folder, tmp_path / "run"), *settings])
    assert not (tmp_path / "run").exists()


def test_several_raw_outputs_and_probabilities(folder, tmp_path):
    overrides = [*tiny_overrides(folder, tmp_path / "run", "theirs.Probabilities"), "model.output=raw"]
    rows = run(overrides).rows()
    assert rows.prob_full.isna().all() and rows.logit_full.between(0.2, 1).all() and set(rows.target_name) <= set("abcde")
    (loaded,) = load_runs([tmp_path / "run"])
    assert loaded.counts()["top1_percent"] is None and evaluate_run(loaded).summary.score.eq("score").all()


def test_the_file_of_a_score_is_part_of_the_identity(folder, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "scoring.py").write_text("def twice(logits):\n    return 2 * logits\n")
    overrides = [*tiny_overrides(folder, tmp_path / "run"), "model.score=scoring.twice"]
    identity = run(overrides).provenance["identity"]
    assert identity["model"]["score"] == "scoring.twice" and "model.score" in identity["code"]
