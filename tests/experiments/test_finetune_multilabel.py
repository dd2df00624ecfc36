"""Fine-tuning for several labels on a tiny VOC: from the pictures to the figure and the study."""

import csv
import json
from pathlib import Path

import finetune_multilabel
import multilabel_training
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from average_precision import of_classes
from builders import save_pictures, save_voc
from commands import through_main
from multilabel_data import Part, chosen_classes, parts
from multilabel_training import Stage, open_trainer
from safetensors.torch import load_file
from typer.testing import CliRunner

from evalkit.config.compose import compose_jobs
from evalkit.data.voc import voc
from evalkit.errors import UserError
from evalkit.models import zoo

NET = ["model=custom", "model.factory=builders.TinyFC", "model.layer=features", "model.resize=[16,16]"]


@pytest.fixture
def year(tmp_path: Path) -> Path:
    return save_voc(tmp_path / "unpacked")


def arguments(year: Path) -> list[str]:
    return [*NET, "data=voc", f"data.root={year}", "data.split=train"]


def finetune(overrides: list[str], out: Path, evaluate: tuple[str, ...] = ("data.split=val",), **options) -> None:
    given = {"name": "tiny_voc", "held_out": 0.5, "min_images": 1, "head_epochs": 2, "all_epochs": 2, "head_rate": 0.01, "all_rate": 0.001}
    given |= {"batch": 2, "flip": True, "seed": 0, "conf": None, **options}
    finetune_multilabel.main(overrides, out, evaluate=list(evaluate), **given)


def test_from_a_network_to_the_figure_and_the_study_by_one_command_each(year, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    finetune(arguments(year), out)
    model = yaml.safe_load((out / "model" / "tiny_voc.yaml").read_text())
    assert model["output"] == "sigmoid" and model["classes"] == ["cat", "dog", "person"] and model["layer"] == "features"
    tuned = ["--conf", str(out), "model=tiny_voc"]
    data = ["data=voc", f"data.root={year}", "data.split=val", "target=label"]
    methods = ["method=[guided_ablation_cam,guided_grad_cam]", "maps=store", "out=run", "workers=0"]
    ran = through_main("run", *tuned, *data, *methods)
    assert ran.returncode == 0, ran.stderr
    figure = through_main("figure", "saturation", str(year / "JPEGImages" / "000005.jpg"), *tuned, "--out", "figures")
    assert figure.returncode == 0 and (tmp_path / "figures" / "000005-saturation.png").exists(), figure.stderr
    prepared = through_main("study", "prepare", "which", "run", "--out", "study")
    assert prepared.returncode == 0 and "8 items of 2 images" in prepared.stdout, prepared.stderr
    key = json.loads((tmp_path / "study" / "key.json").read_text())
    shown = {(item["image_id"], item["target_name"]) for item in key["items"].values()}
    assert shown == {("000005.jpg", "cat"), ("000005.jpg", "person"), ("000006.jpg", "cat"), ("000006.jpg", "dog")}


def test_the_table_is_that_of_the_written_model(year, tmp_path):
    finetune(arguments(year), tmp_path / "out")
    found = pd.read_csv(tmp_path / "out" / "metrics.csv")
    assert list(found.groupby(["part", "stage"]).size()) == [4, 4, 4]
    config = compose_jobs(["model=tiny_voc", "data=voc", f"data.root={year}"], conf=tmp_path / "out")[0].config
    loaded = zoo.load(config.model, torch.device("cpu"))
    source = voc(str(year), split="val")
    images = torch.stack([loaded.preprocess(source.load(i)) for i in range(3)]) / 255
    truth = Part(source, [0, 1, 2]).truth(["cat", "dog", "person"])
    wanted = of_classes(loaded.net(images).double().numpy(), truth)
    after = found[(found.part == "held_out") & (found.stage == "all") & (found["class"] != "mean")]
    for kind in ("ap", "ap_2007"):
        np.testing.assert_allclose(after[kind], wanted[kind][0], atol=1e-4)
    assert after.undecided.tolist() == [1, 0, 0] and after.present.tolist() == [2, 1, 1]


@pytest.mark.parametrize("writes", [1, 3])
def test_a_killed_training_continues_with_the_same_result(year, tmp_path, monkeypatch, writes):
    finetune(arguments(year), tmp_path / "whole")
    publish, done = multilabel_training.publish, []

    def killed(file: Path, content: bytes) -> None:
        publish(file, content)
        done.append(file.name)
        if len(done) == writes:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(multilabel_training, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            finetune(arguments(year), tmp_path / "killed")
    assert not (tmp_path / "killed" / "metrics.csv").exists()
    torch.manual_seed(12345)  # nothing depends on what was drawn before
    finetune(arguments(year), tmp_path / "killed")
    for name in ("tiny_voc.safetensors", "metrics.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    begun = (tmp_path / "killed" / "checkpoint_all.safetensors").stat().st_mtime_ns
    finetune(arguments(year), tmp_path / "killed")  # finished: nothing is trained again
    assert (tmp_path / "killed" / "checkpoint_all.safetensors").stat().st_mtime_ns == begun
    with pytest.raises(UserError, match=r"killed was begun with other settings \(seed\): give another --out"):
        finetune(arguments(year), tmp_path / "killed", seed=1)


def trained(year: Path, tmp_path: Path, stage: str) -> dict[str, torch.Tensor]:
    train = parts(arguments(year), ["data.split=val"], 0, 0, None)
    trainer = open_trainer(train[0], train[1], ["cat", "dog", "person"], batch=2, flip=True, seed=0)
    trainer.train(Stage(stage, 2, 0.01), tmp_path / "checkpoint.safetensors")
    (tmp_path / "checkpoint.safetensors").unlink()
    return {name: value.clone() for name, value in trainer.module.state_dict().items()}


@pytest.mark.parametrize("stage", ["head", "all"])
def test_what_is_only_difficult_has_no_part_in_the_loss(year, tmp_path, monkeypatch, stage):
    plain, truth = trained(year, tmp_path, stage), Part.truth

    def changed(self: Part, classes: list[str], also_known: bool):
        found = truth(self, classes)
        assert found.known.tolist() == [[True] * 3, [False, True, True], [True] * 3]  # the second picture's cat
        found.present[~found.known] = True
        found.known[:] |= also_known
        return found

    # That it counts as present changes nothing until it is known too; the prevalence of known images is the beginning.
    monkeypatch.setattr(Part, "truth", lambda self, classes: changed(self, classes, False))
    ignored = trained(year, tmp_path, stage)
    monkeypatch.setattr(Part, "truth", lambda self, classes: changed(self, classes, True))
    counted = trained(year, tmp_path, stage)
    assert all(torch.equal(ignored[name], value) for name, value in plain.items())
    assert not torch.equal(counted["classifier.4.weight"], plain["classifier.4.weight"])


def test_the_new_layer_begins_at_the_prevalence_and_alone_changes_first(year, tmp_path):
    config, train, _ = parts(arguments(year), ["data.split=val"], 0, 0, None)
    trainer = open_trainer(config, train, ["cat", "dog", "person"], batch=2, flip=False, seed=0)
    # cat: 1 of the 2 known; dog and person: 2 of 3.
    expected = torch.tensor([[2 / 4, 3 / 5, 3 / 5]]).expand(3, 3)
    torch.testing.assert_close(trainer.scores(train, "train").sigmoid(), expected)
    images = trainer.images(train, "train")
    with torch.no_grad():
        torch.nn.init.normal_(trainer.head.weight)
        for mirrored, inputs in zip((images, images.flip(-1)), trainer.features(images), strict=True):
            torch.testing.assert_close(trainer.head(inputs), trainer.run(mirrored))
    before = {name: value.clone() for name, value in trainer.module.state_dict().items()}
    trainer.train(Stage("head", 1, 0.01), tmp_path / "head")
    after = trainer.module.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"classifier.4.weight", "classifier.4.bias"}
    trainer.train(Stage("all", 1, 0.01), tmp_path / "all")
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert set(load_file(tmp_path / "head")) >= {"model/weight", "model/bias", "optimiser/0/exp_avg"}


def test_scores_behind_a_1x1_convolution_and_scores_that_need_more_than_features(year):
    overrides = [one for one in arguments(year) if "factory" not in one and "layer" not in one]
    for name, pooled in (("Pointwise", True), ("PointwiseHighest", False)):
        config, train, _ = parts([*overrides, f"model.factory=builders.{name}", "model.layer=features"], ["data.split=val"], 0, 0, None)
        trainer = open_trainer(config, train, ["cat", "dog"], batch=2, flip=False, seed=0)
        assert trainer.ending.head == "classifier.0" and trainer.ending.without == (["classifier.1"] if pooled else [])
        torch.nn.init.normal_(trainer.head.weight)
        images = trainer.images(train, "train")
        features = trainer.features(images)
        assert (features is not None) == pooled
        if features is not None:
            torch.testing.assert_close(trainer.head(features[0]).flatten(1), trainer.run(images))


def test_a_seeded_share_is_held_out_and_listed_with_the_labels_of_the_network(tmp_path):
    pictures = save_pictures(tmp_path / "pictures")
    rows = [(f"{name}/{i}.png", label) for name in "abc" for i in range(4) for label in {name, "many", *(["rare"] if i == 3 else [])}]
    listed = tmp_path / "labels.csv"
    listed.write_text("file,class\n" + "".join(f"{file},{label}\n" for file, label in rows))
    data = ["data=image_folder", f"data.root={pictures}", f"data.labels={listed}"]
    finetune([*NET, *data], tmp_path / "out", (), min_images=4, held_out=0.5, name="tiny", all_epochs=0)
    with (tmp_path / "out" / "held_out.csv").open() as file:
        held_out = [(row["file"], row["class"]) for row in csv.DictReader(file)]
    classes = yaml.safe_load((tmp_path / "out" / "model" / "tiny.yaml").read_text())["classes"]
    assert "many" in classes and "rare" not in classes and len({file for file, _ in held_out}) == 6
    assert sorted(held_out) == sorted((file, label) for file, label in rows if file in dict(held_out) and label in classes)
    found = pd.read_csv(tmp_path / "out" / "metrics.csv")
    assert set(found.stage) == {"head"} and set(found.images) == {6}
    one, other = (parts([*NET, *data], (), 0.5, seed, None)[2].positions for seed in (0, 1))
    assert one == parts([*NET, *data], (), 0.5, 0, None)[2].positions and one != other
    _, train, rest = parts([*NET, *data], (), 0.5, 0, None)
    assert not set(train.positions) & set(rest.positions) and len(train.positions) == 6
    with pytest.raises(UserError, match="0 classes have 13 images or more"):
        chosen_classes(train, rest, 13)


@pytest.mark.parametrize(
    ("evaluate", "options", "says"),
    [
        (["data.split=trainval"], {}, "--evaluate data.split=trainval holds images that are trained on, such as 000001.jpg"),
        ([], {"held_out": 0.0}, "--held-out 0.0 of 3 images leaves none for training or none to evaluate"),
        (["data.split=val"], {"name": "vgg16"}, "--name vgg16: choose a name that is no model of evalkit's"),
        (["data.split=val"], {"min_images": 6}, "0 classes have 6 images or more"),
    ],
)
def test_mistakes_are_one_sentence(year, tmp_path, evaluate, options, says):
    with pytest.raises(UserError) as error:
        finetune(arguments(year), tmp_path / "out", tuple(evaluate), **options)
    assert str(error.value).startswith(says)


def test_checkpoints_of_another_kind_and_pictures_that_cannot_be_read(year, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "checkpoint_head.safetensors").write_bytes(b"no checkpoint at all")
    with pytest.raises(UserError, match=r"checkpoint_head.safetensors is no checkpoint of this training .*: remove it to begin anew"):
        finetune(arguments(year), out)
    (year / "JPEGImages" / "000002.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"000002.jpg cannot be read \(the file is empty\): restore it"):
        finetune(arguments(year), tmp_path / "other")


def test_its_options_are_on_the_command_line():
    import typer

    app = typer.Typer()
    app.command()(finetune_multilabel.main)
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert shown.exit_code == 0 and all(option in shown.output for option in ("--evaluate", "--min-images", "--no-flip", "OVERRIDES"))
