"""Lists say what the configuration accepts."""

import io

from rich.console import Console

from evalkit import listing
from evalkit.config import choices


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
    assert "evalkit.methods.grad_cam" in text(listing.methods(None)) and "root=???" in text(listing.data(None))


def test_layers_are_those_that_can_be_explained():
    table = listing.layers("custom", ["model.factory=torchvision.models.resnet18", "model.layer=layer4", "model.resize=[64,64]"], None)
    rows = {cells[0]: cells[1:] for cells in zip(*(column.cells for column in table.columns), strict=True)}
    assert rows["layer4"][:3] == ("512", "2 x 2", "yes") and "tier 1" in rows["layer4"][3]
    assert rows["layer4.1.conv2"][2] == "no" and rows["layer1.0.relu_1"][:2] == ("64", "16 x 16")
    assert "fc" not in rows and sum("tier" in cells[3] for cells in rows.values()) == 1


def test_layers_of_a_model_whose_layer_is_still_to_be_chosen():
    assert "layer4" in text(listing.layers("custom", ["model.factory=torchvision.models.resnet18"], None))
