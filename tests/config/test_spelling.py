"""Names stay as they were typed, numbers stay numbers."""

from pathlib import Path

import pytest
import yaml

from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError

NAMES = ["3.10", "20240101_120000", "007", "1e3", "on", "nan", "0x10", "true", "True", "5", "1_0", ".5", "-0", "2024-01-01", "+5", "1:30"]


def settings(*overrides: str, conf: Path | None = None) -> dict:
    """What run.yaml will hold, after a check that it is what the configuration says."""
    (job,) = compose_jobs(overrides, conf=conf)
    assert Path(yaml.safe_load(job.yaml)["out"]) == job.config.out
    assert yaml.safe_load(job.yaml)["model"] == job.config.model.model_dump(mode="json")
    return yaml.safe_load(job.yaml)


@pytest.mark.parametrize("name", NAMES)
def test_names_that_look_like_something_else(name):
    keys = ["out", "model.name", "model.layer", "model.weights", "model.class_map", "data.root", "data.labels", "data.name"]
    found = settings("data=image_folder", *(f"{key}={name}" for key in keys), f"model.classes=[{name},a]")
    assert [found["out"], found["model"]["classes"]] == [name, [name, "a"]]
    assert {found["model"][key] for key in ("name", "layer", "weights", "class_map")} == {name}
    assert {str(found["data"][key]) for key in ("root", "labels", "name")} == {name}


@pytest.mark.parametrize("name", NAMES)
def test_names_in_files_of_ones_own(tmp_path, name):
    for group, text in (
        ("model", f"defaults: [digits_fc, _self_]\nname: {name}\nlayer: {name}\nclasses: [{name}, b]\nexpected_top1: 9.50\n"),
        ("data", f"name: {name}\n_target_: evalkit.data.sources.image_folder\nroot: {name}\n"),
        ("method", f"# @package method.{name}\n_target_: evalkit.methods.occlusion\nwindow: 0x10\n"),
        ("experiment", f"# @package _global_\ndefaults:\n  - override /model: {name}\n  - override /method: [{name}]\nout: {name}\n"),
    ):
        (tmp_path / group).mkdir()
        (tmp_path / group / f"{name}.yaml").write_text(text)
    if "." in name:  # separates the keys of a package
        (tmp_path / "method" / f"{name}.yaml").write_text("# @package method.m\n_target_: evalkit.methods.occlusion\nwindow: 0x10\n")
    found = settings(f"experiment={name}", f"data={name}", conf=tmp_path)
    assert [found["out"], found["model"]["name"], found["model"]["layer"], found["model"]["classes"]] == [name, name, name, [name, "b"]]
    assert (found["data"]["name"], str(found["data"]["root"])) == (name, name)
    assert found["model"]["expected_top1"] == 9.5 and [method["window"] for method in found["method"].values()] == [16]


def test_null_is_null_unless_it_is_quoted():
    assert settings("model.class_map=null")["model"]["class_map"] is None
    assert settings("out='null'")["out"] == "null"
    for key in ("out", "model.name", "model.layer"):
        with pytest.raises(UserError, match=f"{key} is null: give"):
            compose_jobs([f"{key}=null"])


def test_a_class_is_an_index_only_in_the_plain_form_of_a_number():
    assert settings("target=5")["target"] == 5
    assert settings("target=[5,007,1e3,5.0,'5',true]")["target"] == [5, "007", "1e3", "5.0", "5", "true"]


def test_numbers_stay_numbers():
    found = settings("protocol.top_percent=[2e1,3.50]", "launcher=slurm", "+launcher.parameters.mem_gb=1_0", "model.mean=[5e-1,.5,0.50]")
    assert found["protocol"]["top_percent"] == [20, 3.5] and found["launcher"]["parameters"]["mem_gb"] == 10
    assert found["model"]["mean"] == [0.5] * 3


def test_the_parameters_of_a_method_and_of_a_factory_say_what_they_take(tmp_path, monkeypatch):
    (tmp_path / "spelled_mine.py").write_text(
        "from __future__ import annotations\n"
        "def cam(probe, tag: str | None = None, eps=1.0, kind='x', n: int = 1): ...\n"
        "def net(variant: str, rate: float): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mine = [f"+method.mine.{setting}" for setting in ("_target_=spelled_mine.cam", "tag=1e3", "eps=1e-3", "kind=3.10", "n=1_0")]
    assert settings(*mine)["method"]["mine"] == {"_target_": "spelled_mine.cam", "tag": "1e3", "eps": 0.001, "kind": "3.10", "n": 10}
    found = settings("model.factory=spelled_mine.net", "+model.args.variant=1e3", "+model.args.rate=1e-1")
    assert found["model"]["args"] == {"variant": "1e3", "rate": 0.1}


def test_a_name_stays_within_another_name():
    assert settings("model.name=3.10")["out"] == "results/3.10-digits"


def test_several_values_keep_their_spelling_too():
    jobs = compose_jobs(["model.name=3.10,3.20", "protocol.top_percent=1e1,2e1", "out=o"], multirun=True)
    assert [str(job.config.out) for job in jobs] == [
        f"o/model.name={name},protocol.top_percent={top}" for name in ("3.10", "3.20") for top in ("10.0", "20.0")
    ]
    assert [job.config.model.name for job in jobs] == ["3.10", "3.10", "3.20", "3.20"]


def test_a_time_in_a_file_is_no_number_of_base_60(tmp_path):
    (tmp_path / "launcher").mkdir()
    (tmp_path / "launcher" / "mine.yaml").write_text("defaults: [slurm, _self_]\nparameters: {slurm_time: 10:00}\n")
    assert settings("launcher=mine", conf=tmp_path)["launcher"]["parameters"]["slurm_time"] == "10:00"
