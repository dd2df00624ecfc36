"""Where weights come from, and the hash by which run folders know them."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from builders import TinyFC, TinyGAP, finished_rows, tiny_overrides
from commands import through_main
from safetensors.torch import save_file

from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.models import weights, zoo


def config(named: object, factory: str = "builders.TinyFC", *more: str):
    network = [f"model.factory={factory}", "model.layer=features", f"model.weights={named}", "model.resize=[16,16]"]
    return compose_jobs(["model=custom", *network, *more])[0].config.model


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pth.tar", ".ckpt", ".bin", ".tar", ".safetensors", ".best", ""])
def test_files_of_any_name_are_read_by_their_content(tmp_path, suffix):
    state = TinyFC().state_dict()
    for kind, save in (("torch", torch.save), ("safe", save_file), ("old", partial(torch.save, _use_new_zipfile_serialization=False))):
        save(state, tmp_path / f"{kind}{suffix}")
        module, said = zoo.build(config(f"'{tmp_path}/{kind}{suffix}'"))
        assert weights.hash_weights(module.state_dict()) == weights.hash_weights(state) and said == f"{tmp_path}/{kind}{suffix}"


def test_a_file_in_this_folder_without_a_suffix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(TinyFC().state_dict(), "best")
    assert zoo.build(config("best"))[1] == "best"


@pytest.mark.parametrize(
    ("named", "factory", "says"),
    [
        ("wieghts.pth", "builders.TinyFC", r"no weights file wieghts\.pth \(model\.weights\); did you mean 'weights\.pth'"),
        ("https://example.org/w.pth", "builders.TinyFC", "is an address: download the file"),
        ("IMAGENET1K_V1", "builders.TinyFC", "is no file, and builders.TinyFC has no weights by name"),
        ("IMAGENET1K_V2x", "torchvision.models.alexnet", "did you mean 'IMAGENET1K_V1'"),
        ("checkpoints", "builders.TinyFC", r"checkpoints: it is a folder: give the file in it \(last\.ckpt\)"),
    ],
)
def test_what_names_no_weights(tmp_path, monkeypatch, named, factory, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for name in ("weights.pth", "checkpoints/last.ckpt"):
        torch.save(TinyFC().state_dict(), name)
    with pytest.raises(UserError, match=says):
        zoo.build(config(named, factory))


# Hashes


def test_the_hash_of_plain_tensors_stays_as_it_was():
    values = torch.linspace(-1, 1, 5)
    state = {
        "b.weight": torch.arange(24.0).view(2, 3, 4) / 7, "a.weight": torch.arange(6.0).view(2, 3).t(), "half": values.half(),
        "bfloat16": values.bfloat16(), "count": torch.tensor(3), "mask": torch.tensor([True, False]), "none": torch.zeros(0, 3),
        "double": torch.tensor([[1.5]]).double(), "expanded": torch.ones(1).expand(4),
    }  # fmt: skip
    assert weights.hash_weights(state) == "bd27b94f165703f8"
    trained = zoo.build(compose_jobs(["model=digits_gap"])[0].config.model)[0]
    assert weights.hash_weights(trained.state_dict()) == "7b27df8e3935dda5"


def quantised(values: list[float], scale: float = 0.1) -> torch.Tensor:
    return torch.quantize_per_tensor(torch.tensor(values), scale, 0, torch.qint8)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"epoch": 3}, {"epoch": 4}),
        ({"a": [torch.ones(2)]}, {"a": [torch.zeros(2)]}),
        (quantised([1.0, 2.0]), quantised([1.0, 2.1])),
        (quantised([1.0, 2.0]), quantised([2.0, 4.0], 0.2)),
        (torch.quantize_per_channel(torch.eye(2), torch.ones(2), torch.zeros(2), 0, torch.qint8), quantised([1.0, 0.0])),
        (torch.eye(3).to_sparse(), torch.ones(3, 3).to_sparse()),
        (torch.eye(3).to_sparse_csr(), torch.ones(3, 3).to_sparse_csr()),
        (torch.tensor([1 + 2j]).conj(), torch.tensor([1 + 2j])),
        (torch.qint8, torch.quint8),
        (("a", None), ("b", None)),
        ({"a", "b", "c"}, {"a", "b", "d"}),
        (torch.arange(2000).numpy(), torch.arange(2000).flip(0).numpy()),
    ],
)
def test_other_values_in_a_state_dict_have_a_hash(one, other):
    first, second = (weights.hash_weights({"x": value}) for value in (one, other))
    assert first != second and len(first) == 16
    assert weights.hash_weights({"x": object()}) == weights.hash_weights({"x": object()})


def test_networks_with_extra_state_or_quantised_layers(folder, tmp_path):
    rows = finished_rows([*tiny_overrides(folder, tmp_path / "run", "theirs.ExtraState"), "method=[grad_cam,random]"])
    assert set(rows.status) == {"ok"}
    first, second = (zoo.build(config("null", "theirs.quantised", f"model.seed={seed}"))[0].state_dict() for seed in (0, 1))
    assert weights.hash_weights(first) != weights.hash_weights(second)


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("on_meta", r"'features\.0\.weight' is on the meta device, so it has no values"),
        ("Lazy", r"'fc\.weight' has no shape yet, since its module is lazy"),
    ],
)
def test_parameters_without_values(factory, says):
    with pytest.raises(UserError, match=says):
        zoo.build(config("null", f"theirs.{factory}"))


def test_a_lazy_network_gets_its_shapes_from_the_file(tmp_path):
    torch.save(TinyGAP().state_dict(), tmp_path / "w.pth")
    assert zoo.build(config(tmp_path / "w.pth", "theirs.Lazy"))[0].fc.weight.shape == (5, 8)


# Random weights


@pytest.mark.parametrize(
    ("factory", "origin"),
    [
        ("builders.TinyGAP", "random (seed 0)"),
        ("theirs.with_weights_of_its_own", "set by theirs.with_weights_of_its_own"),
        ("theirs.trained_with_noise", "set by theirs.trained_with_noise"),
        ("theirs.trained_but_for_its_head", "random in part (fc.weight, fc.bias, seed 0), the rest set by theirs.trained_but_for_its_head"),
        ("theirs.ExtraState", "random (seed 0)"),
        ("theirs.WithoutParameters", "set by theirs.WithoutParameters"),
        ("theirs.RandomBuffersOnly", "random (seed 0)"),
    ],
)
def test_weights_are_random_where_parameters_follow_the_seed(factory, origin):
    assert zoo.build(config("null", factory))[1] == origin


def test_titles_say_random_only_where_it_is_so(folder, tmp_path):
    for factory, random in (("trained_with_noise", False), ("trained_but_for_its_head", True)):
        out = tmp_path / factory
        assert through_main("run", *tiny_overrides(folder, out, f"theirs.{factory}"), "method=[grad_cam]").returncode == 0
        assert through_main("tables", str(out), "--no-figures").returncode == 0
        assert ("RANDOM WEIGHTS" in (out / "tables.md").read_text()) is random
        assert f"theirs.{factory}" in (out / "tables.md").read_text()


def test_weights_by_name_that_do_not_fit(monkeypatch):
    state = zoo.find("torchvision.models.squeezenet1_1", "")(num_classes=4).state_dict()
    published = type("Published", (dict,), {"__members__": ["V1"]})(V1=SimpleNamespace(get_state_dict=lambda **_options: state))
    monkeypatch.setattr(weights.torchvision.models, "get_model_weights", lambda _model: published)
    with pytest.raises(UserError, match=r"V1 does not fit .*squeezenet1_1.*these weights have 4 outputs: set \+model\.args\.num_classes=4"):
        zoo.build(config("V1", "torchvision.models.squeezenet1_1"))
