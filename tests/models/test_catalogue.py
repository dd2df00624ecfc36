"""Networks of torchvision and timm by name: what their libraries say is what evalkit does."""

import sys
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from builders import fresh, tiny_overrides
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from evalkit.config.choices import read_choice
from evalkit.config.compose import compose_jobs
from evalkit.data.decode import Preprocess
from evalkit.errors import UserError
from evalkit.evaluation.session import open_session
from evalkit.models import catalogue, zoo
from evalkit.models.weights import hash_weights
from evalkit.runs import provenance


def config(*overrides: str):
    return compose_jobs([*overrides, "data=digits"])[0].config.model


def photograph() -> Image.Image:
    return Image.fromarray(fresh().integers(0, 256, (300, 417, 3), dtype=np.uint8)).resize((834, 600))


def normalised(settings, picture: Image.Image) -> torch.Tensor:
    pixels = Preprocess(settings.resize, settings.crop, settings.interpolation)(picture).float() / 255
    return (pixels - torch.tensor(settings.mean).view(3, 1, 1)) / torch.tensor(settings.std).view(3, 1, 1)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b1", "resnet50.IMAGENET1K_V2", "googlenet"])
def test_torchvisions_own_transforms_are_repeated(name):
    settings, picture = config(f"model={name}"), photograph()
    model, _, tag = name.partition(".")
    known = torchvision.models.get_model_weights(model)
    weights = known[tag] if tag else known.DEFAULT
    assert torch.allclose(normalised(settings, picture), weights.transforms()(picture), atol=1e-5)
    assert settings.weights == weights.name != "DEFAULT" and settings.classes == "imagenet"
    assert settings.expected_top1 == weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert "torchvision" in settings.expected_top1_source


@pytest.mark.parametrize("name", catalogue.names())
def test_every_network_of_torchvision_has_an_entry_that_fits(name):
    entry = catalogue.entry(name)
    assert zoo.ModelConfig(**entry).name == name and entry["layer"] == "auto"
    with torch.device("meta"):
        published = torchvision.models.get_model_weights(name)[entry["weights"]].meta["num_params"]
        if not name.startswith("regnet"):  # its constructor looks at numbers
            module = zoo.find(entry["factory"], "model.factory")(**entry["args"])
            auxiliary = sum(p.numel() for part, p in module.named_parameters() if "aux" in part.lower())
            everything = sum(p.numel() for p in module.parameters())
            assert published in (everything, everything - auxiliary)


def test_overrides_keep_their_say():
    settings = config("model=resnet18", "model.weights=null", "model.layer=layer3", "model.resize=[64,64]", "model.crop=null")
    assert (settings.weights, settings.layer, settings.resize, settings.crop) == (None, "layer3", (64, 64), None)
    first, second = compose_jobs(["model=resnet18,resnet34", "limit=3"], multirun=True)
    assert (first.config.model.name, second.config.model.name) == ("resnet18", "resnet34")


def test_an_experiment_may_name_such_a_network(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ndefaults:\n  - override /model: resnet34\n")
    assert compose_jobs(["experiment=mine"], conf=tmp_path)[0].config.model.layer == "layer4"
    (tmp_path / "experiment" / "typo.yaml").write_text("# @package _global_\ndefaults:\n  - override /model: resnet43\n")
    with pytest.raises(UserError, match="no model 'resnet43'; did you mean 'resnet34'"):
        compose_jobs(["experiment=typo"], conf=tmp_path)
    (tmp_path / "experiment" / "data.yaml").write_text("# @package _global_\ndefaults:\n  - override /data: digitz\n")
    with pytest.raises(UserError, match="no data 'digitz'; did you mean 'digits'"):
        compose_jobs(["experiment=data"], conf=tmp_path)


def test_a_file_of_that_name_comes_first(tmp_path):
    (tmp_path / "model").mkdir()
    text = read_choice("model", "resnet50", as_text=True).replace("name: resnet50", "name: mine")
    (tmp_path / "model" / "mnasnet1_3.yaml").write_text(text)
    assert compose_jobs(["model=mnasnet1_3"], conf=tmp_path)[0].config.model.name == "mine"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnt18", "did you mean 'resnet18'"),
        ("alexnett", "did you mean 'alexnet'"),
        ("resnet18.IMAGENET1K_V3", "did you mean 'IMAGENET1K_V1'"),
        ("fasterrcnn_resnet50_fpn", "no model"),
        ("vgg16.IMAGENET1K_FEATURES", "no classifier, only features"),
    ],
)
def test_names_that_do_not_fit(name, says):
    with pytest.raises(UserError, match=says):
        config(f"model={name}")


def test_what_was_resolved_is_the_identity_of_a_run(folder, tmp_path):
    network = ["model=shufflenet_v2_x0_5", "model.weights=null", "model.resize=[64,64]", "model.crop=null"]
    rest = [o for o in tiny_overrides(folder, tmp_path / "run") if not o.startswith("model")]
    (job,), (named,) = compose_jobs([*network, *rest]), compose_jobs([*network, *rest, "model.layer=conv5"])
    first, second = (provenance.identify(open_session(each.config)) for each in (job, named))
    assert first.hash == second.hash and first.facts["model"]["layer"] == "conv5"


# timm


@pytest.mark.parametrize("name", ["legacy_xception", "resnet10t", "convnext_tiny.fb_in22k_ft_in1k_384", "efficientnet_b0.ra_in1k"])
def test_timms_own_transforms_are_repeated(name):
    timm = pytest.importorskip("timm")
    settings, picture = config(f"model=timm/{name}"), photograph()
    data = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    theirs = timm.data.create_transform(**data, is_training=False)(picture)
    assert torch.allclose(normalised(settings, picture), theirs, atol=1e-5)
    assert settings.args["model_name"] == f"{name.partition('.')[0]}.{settings.weights}" and settings.name == f"timm-{name}"


def test_the_config_of_xception_repeats_what_timm_says():
    pytest.importorskip("timm")
    theirs, ours = config("model=timm/legacy_xception"), config("model=xception")
    but = {"name", "expected_top1", "expected_top1_source"}
    assert ours.model_dump(exclude=but) == theirs.model_dump(exclude=but)


def test_outputs_other_than_imagenets_have_no_names():
    pytest.importorskip("timm")
    assert config("model=timm/convnext_tiny.fb_in22k").classes is None
    with pytest.raises(UserError, match="no classifier, only features"):
        config("model=timm/vit_base_patch16_siglip_224.webli")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnt10t", "did you mean 'resnet10t'"),
        ("resnet10t.c3_in1", "did you mean 'c3_in1k'"),
        ("nf_resnet26", "model.weights is not set"),
    ],
)
def test_timm_names_that_do_not_fit(name, says):
    pytest.importorskip("timm")
    with pytest.raises(UserError, match=says):
        config(f"model=timm/{name}")


def test_names_of_timm_without_its_prefix(tmp_path):
    pytest.importorskip("timm")
    for name in ("vit_tiny_patch16_224", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"):
        (tmp_path / "experiment").mkdir(exist_ok=True)
        (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\ndefaults:\n  - override /model: {name}\n")
        for overrides in ([f"model={name}"], ["experiment=mine"]):
            with pytest.raises(UserError, match=rf"in evalkit and torchvision, but timm has it: model=timm/{name}$"):
                compose_jobs(overrides, conf=tmp_path)
    with pytest.raises(UserError, match=r"timm's vit_tiny_patch16_224: model=timm/vit_tiny_patch16_224\?$"):
        config("model=vit_tiny_patch16_225")
    with pytest.raises(
        UserError, match=r"torchvision has no weights 'a1_in1k' for resnet50, but timm has them: model=timm/resnet50\.a1_in1k$"
    ):
        config("model=resnet50.a1_in1k")


def test_without_timm_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    for attempt in (lambda: config("model=timm/resnet10t"), lambda: zoo.build(config("model=xception", "model.weights=null"))):
        with pytest.raises(UserError, match=r"not installed: in evalkit's folder, pip install '.\[timm\]'"):
            attempt()
    monkeypatch.setattr(catalogue.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"timm, which is not installed: in .* '.\[timm\]', then model=timm/vit_tiny_patch16_224$"):
        config("model=vit_tiny_patch16_224")
    with pytest.raises(UserError, match="no model 'resnet43'; did you mean 'resnet34'"):
        config("model=resnet43")


def test_weights_of_a_timm_network_from_a_file(tmp_path):
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("legacy_xception").eval()
    save_file(theirs.state_dict(), tmp_path / "xception.safetensors")
    model = zoo.load(config("model=xception", f"model.weights={tmp_path}/xception.safetensors"), torch.device("cpu"), (96, 96))
    assert model.weights_hash == hash_weights(theirs.state_dict()) and model.net.layer == "act4"
    images = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        assert torch.allclose(model.net(images), theirs((images - 0.5) / 0.5), atol=1e-5)


def test_weights_of_a_timm_network_by_tag_are_those_that_timm_loads(monkeypatch):
    timm = pytest.importorskip("timm")
    asked, honest = [], timm.create_model

    def downloads(model_name: str, pretrained: bool = False, **more: object) -> nn.Module:
        module = honest(model_name, **more)
        if pretrained:
            asked.append(model_name)
            nn.init.constant_(module.fc.bias, 7.0)
        return module

    monkeypatch.setattr(timm, "create_model", downloads)
    module, said = zoo.build(config("model=timm/resnet10t"))
    assert said == "c3_in1k" and asked == ["resnet10t.c3_in1k"] and bool((module.fc.bias == 7).all())
    with pytest.raises(UserError, match="did you mean 'c3_in1k'"):
        zoo.build(config("model=timm/resnet10t", "model.weights=c3_in"))


@pytest.mark.parametrize(
    ("name", "address"),
    [("timm/resnet10t", "huggingface.co/timm/resnet10t.c3_in1k"), ("xception", "xception-43020ad28.pth")],
)
def test_a_download_that_fails_is_told_in_one_sentence(monkeypatch, name, address):
    timm = pytest.importorskip("timm")
    honest = timm.create_model

    def offline(model_name: str, pretrained: bool = False, **more: object) -> nn.Module:
        if pretrained:
            raise URLError("no route to host")
        return honest(model_name, **more)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=f"no route to host.*{address}.*model.weights=null") as mistake:
        zoo.build(config(f"model={name}"))
    assert "\n" not in str(mistake.value)
