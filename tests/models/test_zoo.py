"""Networks built from their settings, and factories that cannot serve."""

import pytest
import torch
import torchvision

from evalkit.config.choices import choices, read_choice
from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.models import zoo


def config(weights: object, factory: str = "builders.TinyFC", *more: str):
    overrides = [
        "model=custom",
        f"model.factory={factory}",
        "model.layer=features",
        f"model.weights={weights}",
        "model.resize=[16,16]",
        *more,
    ]
    return compose_jobs(overrides)[0].config.model


def test_random_weights_follow_the_seed_and_leave_the_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (zoo.load(config("null", "builders.TinyFC", f"model.seed={seed}"), torch.device("cpu")) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert first.weights == "random (seed 1)" and first.weights_hash == again.weights_hash != other.weights_hash


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("lacks_its_checkpoint", "FileNotFoundError: no such checkpoint"),
        ("BatchStatistics", r"'features\.1' has no running statistics"),
        ("Locked", "cannot be copied"),
    ],
)
def test_models_that_cannot_serve(factory, says):
    with pytest.raises(UserError, match=says):
        zoo.load(config("null", f"theirs.{factory}"), torch.device("cpu"))


@pytest.mark.parametrize(
    "name",
    [name for name in choices("model") if name not in ("custom", "cifar7", "digits_fc", "digits_gap", "planted", "two_digits", "xception")],
)
def test_configs_repeat_what_torchvision_says_of_its_weights(name):
    entry = read_choice("model", name)
    weights = torchvision.models.get_model_weights(name)[entry["weights"]]
    transforms = weights.transforms()
    assert entry["crop"] == transforms.crop_size[0] and entry["resize"] == transforms.resize_size[0]
    assert entry["mean"] == transforms.mean and entry["std"] == transforms.std
    assert entry["interpolation"] == transforms.interpolation.value
    assert entry["expected_top1"] == weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def f(:", "failed: SyntaxError"),
        ("1 / 0", "failed: ZeroDivisionError: division"),
        ("def g(): ...", "has no 'f'; known: g"),
    ],
)
def test_files_that_cannot_be_imported(tmp_path, monkeypatch, text, says):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"broken_{abs(hash(text))}.py").write_text(text + "\n")
    with pytest.raises(UserError, match=says):
        zoo.find(f"broken_{abs(hash(text))}.f", "method.m._target_")


@pytest.mark.parametrize("path", ["./mine.py", "mine", ".mine.f", "mine..f", ""])
def test_what_is_no_dotted_path(path):
    with pytest.raises(UserError, match="is not a dotted path"):
        zoo.find(path, "method.m._target_")


def test_a_network_that_takes_one_image_only_is_told_so():
    with pytest.raises(UserError, match=r"it takes one such image, but not two: its forward may fix the batch size"):
        zoo.load(config("null", "theirs.OneImageOnly"), torch.device("cpu"))
