"""Lists say what the configuration accepts."""

import io

import pytest
from commands import here
from rich.console import Console

from evalkit.cli.listing import layers
from evalkit.config.choices import choices
from evalkit.errors import UserError
from evalkit.output import listing


def marked(table) -> list[str]:
    """Names of the layers that carry a tier."""
    return [name for name, mark in zip(table.columns[0].cells, table.columns[4].cells, strict=True) if "tier" in mark]


def text(table) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_every_entry_is_listed_with_what_it_is():
    for kind in ("models", "methods", "data"):
        table = getattr(listing, kind)(None)
        assert list(table.columns[0].cells) == choices(
            "method" if kind == "methods" else kind.removesuffix("s") if kind != "data" else kind
        )
    assert "normalise=score, drop=score" in text(listing.methods(None)) and "root=???" in text(listing.data(None))


def test_layers_are_those_that_can_be_explained():
    table = layers("custom", ["model.factory=torchvision.models.resnet18", "model.layer=layer4", "model.resize=[64,64]"], None)
    rows = {cells[0]: cells[1:] for cells in zip(*(column.cells for column in table.columns), strict=True)}
    assert rows["layer4"][:3] == ("512", "2 x 2", "yes") and "tier 1" in rows["layer4"][3]
    assert rows["layer4.1.conv2"][2] == "no" and rows["layer1.0.relu_1"][:2] == ("64", "16 x 16")
    assert "fc" not in rows and sum("tier" in cells[3] for cells in rows.values()) == 1


def test_layers_of_a_model_whose_layer_is_still_to_be_chosen():
    assert "layer4" in text(layers("custom", ["model.factory=torchvision.models.resnet18"], None))


def test_any_network_of_torchvision_has_its_proposed_layer_marked():
    assert marked(layers("densenet169", ["model.resize=[64,64]", "model.crop=null"], None)) == ["relu"]
    small = ["model.resize=[64,64]", "model.crop=null"]
    assert marked(layers("shufflenet_v2_x0_5", small, None)) == ["conv5"]
    assert marked(layers("shufflenet_v2_x0_5", [*small, "model.layer=stage4"], None)) == ["stage4"]
    assert "model=timm/resnet10t" in text(listing.models(None))


def test_layers_of_what_torch_fx_cannot_trace_are_its_modules():
    table = layers("custom", ["model.factory=builders.Untraceable", "model.resize=[16,16]"], None)
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert [row[:4] for row in rows][-1] == ("features", "8", "8 x 8", "?") and marked(table) == ["features.2"]
    assert marked(layers("custom", ["model.factory=builders.Untraceable", "model.resize=[16,16]", "model.layer=features"], None))


def test_a_transformer_is_listed_with_the_reason_why_its_layer_is_proposed():
    table = layers("vit_b_32", [], None)
    assert marked(table) == ["encoder.layers.encoder_layer_10"] and "only the prefix token is read" in table.caption
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert ("encoder.ln", "768", "7 x 7 tokens behind 1 prefix token", "yes", "") in rows


def test_a_folder_of_yaml_files_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*nowhere \(--conf\)"):
        listing.methods(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["models", "vgg16"], r"leave out 'vgg16' \(evalkit list layers MODEL"),
        (["methods", "gradcam"], "leave out 'gradcam'; did you mean 'grad_cam'"),
        (["data", "digits"], "leave out 'digits'$"),
        (["layers"], "list layers needs a model"),
        (["layers", "model=vgg61"], "no model 'vgg61'; did you mean 'vgg16'"),
    ],
)
def test_names_where_none_belong_and_none_where_one_does(words, says):
    with pytest.raises(UserError, match=says):
        raise here("list", *words).exception


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"- a\n", "holds no settings such as"), (b"name: \xe9\n", "is no file of settings in UTF-8"), (b"a: [", "is not valid yaml")],
)
def test_files_of_ones_own_that_cannot_be_listed(tmp_path, content, says):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "short.yaml").write_bytes(b"defaults: [vgg16, _self_]\nlayer: features.28\n")
    assert "features.28" in text(listing.models(tmp_path))
    (tmp_path / "model" / "mine.yaml").write_bytes(content)
    with pytest.raises(UserError, match=says):
        listing.models(tmp_path)


def test_several_layers_are_all_marked():
    table = layers("digits_gap", ["model.layer=[features.3,features.13]"], None)
    tiers = dict(zip(table.columns[0].cells, table.columns[4].cells, strict=True))
    assert marked(table) == ["features.3", "features.13"]
    assert "tier 3" in tiers["features.3"] and "tier 1" in tiers["features.13"]
