"""Several labels an image, classes by name, sigmoid outputs: through whole runs."""

import numpy as np
import pandas as pd
import pytest
import torch
from builders import tiny_overrides
from PIL import Image

from evalkit import Probe, methods
from evalkit.analysis.load import load_runs
from evalkit.analysis.map_summary import summarise_maps
from evalkit.config.compose import compose_jobs
from evalkit.data.labels import load_classes
from evalkit.errors import UserError
from evalkit.launch.run import run_job
from evalkit.models import zoo
from evalkit.runs.folder import RunFolder


def run(overrides) -> RunFolder:
    (job,) = compose_jobs(overrides)
    return run_job(job)


@pytest.fixture
def labelled(folder, tmp_path):
    """Twelve pictures: of each class folder's four, two have two labels."""
    lines = ["file,class"]
    for name, other in zip("abc", "bca", strict=True):
        for i in range(4):
            lines += [f"{name}/{i}.png,{name}", *([f"{name}/{i}.png,{other}"] if i < 2 else [])]
    listed = tmp_path / "labels.csv"
    listed.write_text("\n".join(lines) + "\n")
    return [*tiny_overrides(folder, tmp_path / "run"), f"data.labels={listed}", "target=label"]


def test_a_row_for_each_image_and_label(labelled, folder, tmp_path):
    rows = run([*labelled, "batch_size=3"]).rows()
    assert len(rows) == (12 + 6) * 5 * 2
    assert not rows.duplicated(["index", "target", "method", "top_percent"]).any()
    first = rows[rows.image_id == "a/0.png"]
    assert set(first.target) == {0, 1} and set(first.target_name) == {"a", "b"} and (first.label == first.target).all()
    assert set(rows[rows.image_id == "c/3.png"].target) == {2}
    alone = run([*tiny_overrides(folder, tmp_path / "alone"), "target=1", "batch_size=12"]).rows()
    keys = ["index", "method", "top_percent"]
    both = rows[rows.target == 1].merge(alone, on=keys, suffixes=("", "_alone"))
    assert len(both) == 6 * 5 * 2
    near = both.rank_gap >= 1e-5
    assert np.allclose(both.prob_masked[near], both.prob_masked_alone[near], atol=1e-5)


def test_sigmoid_confidences(labelled, tmp_path):
    folder = run([*labelled, "model.output=sigmoid"])
    rows = folder.rows()
    assert np.allclose(rows.prob_full, 1 / (1 + np.exp(-rows.logit_full)))
    assert np.allclose(rows.prob_masked, 1 / (1 + np.exp(-rows.logit_masked)))


def test_a_class_map_names_several_outputs_and_the_best_is_explained(folder, tmp_path):
    mapped = tmp_path / "map.csv"
    mapped.write_text("class,index\na,0\na,3\na,4\nb,1\n")
    overrides = [*tiny_overrides(folder, tmp_path / "run"), f"model.class_map={mapped}", "model.classes=null", "target=label"]
    done = run(overrides)
    rows = done.rows()
    (job,) = compose_jobs(overrides)
    net = zoo.load(job.config.model, torch.device("cpu")).net
    for image_id, target in rows.drop_duplicates("index")[["image_id", "target"]].itertuples(index=False):
        image = Image.open(folder / image_id).resize((16, 16), Image.Resampling.BILINEAR)
        logits = net(torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255)[0]
        assert target == (max((0, 3, 4), key=lambda c: logits[c]) if image_id.startswith("a") else 1)
    assert set(rows.target_name) == {"a", "b"}
    assert sum(s["left_out"] for s in done.load().shards) == 4  # c is not in the map


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("class,index\na,5", r"line 2: index '5' is no output of the model, a whole number from 0 to 4$"),
        ("class,index\na,", "line 2: index '' is no output"),
        ("class,index\n,1", "line 2 names no class$"),
        ("name,index\na,1", r"map\.csv begins with name, index: model\.class_map takes a CSV whose first line names the columns class and"),
        (None, "no file"),
    ],
)
def test_bad_class_maps(folder, tmp_path, line, says):
    mapped = tmp_path / "map.csv"
    if line:
        mapped.write_text(line + "\n")
    with pytest.raises(UserError, match=says):
        run([*tiny_overrides(folder, tmp_path / "run"), f"model.class_map={mapped}"])


def test_classes_by_name_and_lists_of_them(folder, tmp_path):
    rows = run([*tiny_overrides(folder, tmp_path / "run"), "target=[c,A,2]"]).rows()
    assert set(rows.target) == {0, 2} and len(rows) == 12 * 2 * 5 * 2
    assert set(rows[rows.target == 2].target_name) == {"c"}
    with pytest.raises(UserError, match="target=dd: the model has no such class; did you mean 'd'"):
        run([*tiny_overrides(folder, tmp_path / "other"), "target=dd"])


def test_a_name_read_word_by_word_is_said_and_recorded_as_given(folder, tmp_path, caplog):
    settings = tiny_overrides(folder, tmp_path / "run")
    made = run([*settings, "target=[the c,a]"])
    assert [r.message for r in caplog.records if "read as" in r.message] == ["target 'the c' read as 'c'"]
    assert set(made.rows().target) == {0, 2} and made.provenance["identity"]["target"] == ["the c", "a"]
    run([*settings, "target=[the c,a]"])  # the same run


def test_imagenet_classes_by_name():
    classes = load_classes("imagenet", 1000)
    assert classes.output("Golden Retriever") == classes.output(207) == classes.output("207") == classes.output("n02099601") == 207
    with pytest.raises(UserError, match="did you mean 'golden retriever'"):
        classes.output("goldn retriever")
    with pytest.raises(UserError, match="did you mean 'tench'"):  # by its wnid, said as people know it
        classes.output("n0144076")
    with pytest.raises(UserError, match="from 0 to 999"):
        classes.output(1000)


def test_methods_explain_the_class_that_is_asked_for(folder, tmp_path):
    """The rows of class 3 are those of a probe whose targets are 3."""
    overrides = [*tiny_overrides(folder, tmp_path / "run"), "target=d", "maps=store", "method=[grad_cam,ablation_cam]"]
    run(overrides)
    stored = pd.concat(pd.read_parquet(f) for f in sorted((tmp_path / "run" / "maps").glob("*.parquet")))
    (job,) = compose_jobs(overrides)
    net = zoo.load(job.config.model, torch.device("cpu")).net
    image = Image.open(folder / "b" / "1.png").resize((16, 16), Image.Resampling.BILINEAR)
    probe = Probe(net, torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255, [3])
    for name in ("grad_cam", "ablation_cam"):
        row = stored[(stored.image_id == "b/1.png") & (stored.method == name)].iloc[0]
        assert row.target == 3 and np.allclose(row["map"], getattr(methods, name)(probe).flatten(), atol=1e-5)


def test_adcc_pairs_every_label_with_itself(labelled, tmp_path):
    """Also where an image's labels do not come in the order of the outputs."""
    given = [*labelled, "measures=[coherency]", "protocol.select=[soft]"]
    folder = run([one for one in given if not one.startswith("protocol.top")])
    assert any(list(part.target) != sorted(part.target) for _, part in folder.load().maps.query("method == 'grad_cam'").groupby("index"))
    (loaded,) = load_runs([folder.path])
    found = summarise_maps(loaded).query("metric == 'adcc'").set_index("method").value
    key = ["index", "target", "method"]
    table = folder.rows().merge(folder.load().maps[[*key, "complexity", "coherency"]], on=key)
    drop = (1 - table.prob_masked / table.prob_full).clip(lower=0)
    parts = [table.coherency, 1 - table.complexity, 1 - drop]
    expected = (3 / sum(1 / part for part in parts)).groupby(table.method).mean()
    for method in ("ablation_cam", "grad_cam", "centre"):
        assert found[method] == pytest.approx(expected[method], rel=1e-9)


def test_labels_without_an_output(labelled, tmp_path, caplog):
    listed = tmp_path / "labels.csv"
    listed.write_text(listed.read_text() + "a/0.png,zebra\n")
    rows = run(labelled).rows()
    assert set(rows[rows.image_id == "a/0.png"].target_name) == {"a", "b"}
    assert "1 labels have no output in the model and are not explained: 'zebra'" in caplog.text
    listed.write_text(listed.read_text().replace("c/3.png,c", "c/3.png,zebra"))
    with pytest.raises(UserError, match=r"1 of 12 images have no label among the model's classes \(the first is c/3.png, called 'zebra'\)"):
        run(labelled)


def test_boxes_of_other_images_are_pointed_out(labelled, tmp_path, caplog):
    (tmp_path / "boxes.csv").write_text("file,w,h,x1,y1,x2,y2\nelsewhere.png,20,16,1,1,5,5\n")
    run([*labelled, f"data.boxes={tmp_path}/boxes.csv"])
    assert "boxes.csv has boxes for none of the 12 images; the first name in the list without an image is elsewhere.png" in caplog.text


def test_classes_excluded_with_minus_infinity_change_no_row(folder, tmp_path):
    methods = "method=[ablation_cam,grad_cam,score_cam,ablation_cam_softmax,centre]"
    masked = run([*tiny_overrides(folder, tmp_path / "masked", "theirs.MaskedClasses"), methods])
    rows, plain = masked.rows(), run([*tiny_overrides(folder, tmp_path / "plain", "builders.TinyFC"), methods, "target=[0,1,2]"]).rows()
    assert "nonfinite" not in set(rows.status)
    keys = ["index", "target", "method", "top_percent"]
    both = rows.merge(plain[plain.method != "ablation_cam_softmax"], on=keys, suffixes=("", "_plain"))
    near = both[both.rank_gap >= 1e-5]
    assert (
        len(near) > 40 and np.allclose(near.logit_masked, near.logit_masked_plain, atol=1e-5) and (near.status == near.status_plain).all()
    )
    assert (rows.prob_full > 1 / 3).all() and (rows.target < 3).all()


def test_one_output(folder, tmp_path, caplog):
    overrides = [*tiny_overrides(folder, tmp_path / "run"), "+model.args.classes=1", "model.classes=null", "model.output=sigmoid"]
    assert len(run(overrides).rows()) == 12 * 5 * 2
    assert "has one output: it is the predicted class of every image, and top-1 is undefined" in caplog.text
    with pytest.raises(UserError, match="images=correct selects nothing"):
        run([*overrides, "images=correct", f"out={tmp_path / 'correct'}"])


def test_probabilities_are_refused_before_the_first_row(folder, tmp_path):
    with pytest.raises(UserError, match="ends in a softmax"):
        run(tiny_overrides(folder, tmp_path / "run", "theirs.Probabilities"))
    assert not (tmp_path / "run").exists()
