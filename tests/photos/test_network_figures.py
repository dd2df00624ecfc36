"""Figures of a network's filters and channels: what is drawn equals the weights and activations of the module itself."""

import xml.etree.ElementTree as ET
from itertools import product

import numpy as np
import pytest
import torch
from builders import Patches, TinyChannels, fresh
from matplotlib import colormaps
from matplotlib import pyplot as plt
from torch import nn
from typer.testing import CliRunner

from evalkit import Probe, SplitModel
from evalkit.cli.main import app
from evalkit.config.compose import compose_jobs
from evalkit.data.digits import Digits
from evalkit.errors import UserError
from evalkit.models.convolutions import convolutions
from evalkit.photos.figures import activations, filters
from evalkit.photos.figures.layout import ExplainedPhoto
from evalkit.photos.figures.mosaic import heat_tiles, mosaic
from evalkit.photos.session import open_photo_session


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def invoke(*arguments) -> str:
    done = CliRunner().invoke(app, ["figure", *map(str, arguments)])
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout  # what torch.fx cannot trace is said on stderr


def words(svg) -> str:
    texts = ("".join(element.itertext()) for element in ET.parse(svg).iter("{http://www.w3.org/2000/svg}text"))
    return " ".join(" ".join(texts).split())


def test_a_mosaic_puts_each_picture_where_it_says():
    rng = fresh()
    n, h, w, columns, gap, below = 7, 3, 4, 3, 2, 5
    tiles = rng.integers(0, 255, (n, h, w, 3), dtype=np.uint8)
    laid = mosaic(tiles, columns, gap, below)
    assert laid.shape == (3 * (h + gap + below) - gap, 3 * (w + gap) - gap, 3)
    covered = np.zeros(laid.shape[:2], bool)
    for i in range(n):
        y, x = (i // columns) * (h + gap + below), (i % columns) * (w + gap)
        np.testing.assert_array_equal(laid[y : y + h, x : x + w], tiles[i])
        covered[y : y + h, x : x + w] = True
    assert (laid[~covered] == 255).all()


def test_channels_have_scales_of_their_own():
    maps = fresh().normal(size=(3, 4, 5))
    maps[1] = -2.5
    drawn = heat_tiles(maps, "inferno")
    for k, y, x in product(range(3), range(4), range(5)):
        span = maps[k].max() - maps[k].min()
        share = (maps[k, y, x] - maps[k].min()) / span if span else 0.0
        np.testing.assert_array_equal(drawn[k, y, x], colormaps["inferno"](share, bytes=True)[:3])


@pytest.mark.parametrize("common", [False, True])
@pytest.mark.parametrize("colour", [False, True])
def test_filters_are_symmetric_about_grey(colour, common):
    weights = fresh().normal(size=(4, 3, 2, 5))
    weights[2] *= 1e-4
    weights[3] = 0
    drawn, vanishing = filters.tiles(weights, colour=colour, common=common)
    assert drawn.shape == ((4, 1, 2, 5, 3) if colour else (4, 3, 2, 5, 3)) and vanishing == (0 if common else 2)
    for k, c, y, x in product(range(4), range(3), range(2), range(5)):
        largest = np.abs(weights).max() if common else np.abs(weights[k]).max()
        wanted = 127.5 * (1 + weights[k, c, y, x] / largest) if common or k < 2 else 127.5
        seen = drawn[k, 0, y, x, c] if colour else drawn[k, c, y, x]
        assert np.abs(seen.astype(float) - wanted).max() <= 0.501


class Backwards(nn.Module):
    """Registers its convolutions in another order than it calls them, one of them never."""

    def __init__(self) -> None:
        super().__init__()
        self.never = nn.Conv2d(3, 2, 3)
        self.second = nn.Conv2d(4, 6, 3, groups=2)
        self.first = nn.Conv2d(3, 4, (1, 5))
        self.linear = nn.Linear(6, 3)

    def forward(self, x):
        return self.linear(self.second(self.first(x)).mean((2, 3)))


def test_convolutions_come_in_the_order_of_execution():
    module = Backwards().eval()
    assert list(convolutions(module, torch.rand(1, 3, 12, 12))) == ["first", "second"]
    assert not any(part._forward_pre_hooks for part in module.modules())
    with pytest.raises(RuntimeError):
        convolutions(module, torch.rand(1, 4, 12, 12))
    assert not any(part._forward_pre_hooks for part in module.modules())
    assert list(convolutions(Patches().eval(), torch.rand(2, 3, 32, 40))) == ["embed"]
    assert list(convolutions(TinyChannels(7).eval(), torch.rand(1, 7, 30, 30))) == ["features.0", "features.3"]


CUSTOM = ["model=custom", "model.resize=[32,40]"]


def drawn_filters(picture: np.ndarray, tiles: int, columns: int, shape: tuple[int, int]) -> np.ndarray:
    """The middles of all pixels of filters in a mosaic with gaps of two pixels (tiles,h,w,3)."""
    factor = -(-24 // shape[0])
    h, w = shape[0] * factor + 2, shape[1] * factor + 2
    places = [((i // columns) * h, (i % columns) * w) for i in range(tiles)]
    half = factor // 2
    return np.stack([picture[y + half : y + h - 2 : factor, x + half : x + w - 2 : factor] for y, x in places])


def test_the_first_convolution_in_colour_and_another_in_grey():
    config = compose_jobs(["model=digits_fc", "model.layer=''"])[0].config
    module = open_photo_session(compose_jobs(["model=digits_fc"])[0].config).model.module
    weights = module.features[0].weight.detach().double().numpy()
    figure = filters.draw(weights, colour=True, common=False)
    seen = drawn_filters(figure.axes[0].images[0].get_array(), 16, 8, (3, 3)).astype(float)
    wanted = 127.5 * (1 + weights / np.abs(weights).max((1, 2, 3), keepdims=True))
    np.testing.assert_allclose(seen, np.moveaxis(wanted, 1, -1), atol=0.501)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["0", "8"]

    weights = module.features[4].weight.detach().double().numpy()
    figure = filters.draw(weights, colour=False, common=False)
    numbers = [int(label.get_text()) for label in figure.axes[0].get_yticklabels()]
    norms = np.sqrt((weights**2).sum((1, 2, 3)))
    assert set(numbers) == set(np.argsort(-norms)[: len(numbers)]) and len(numbers) < 32
    seen = drawn_filters(figure.axes[0].images[0].get_array(), 16 * len(numbers), 16, (3, 3)).astype(float)
    wanted = 127.5 * (1 + weights / np.abs(weights).max((1, 2, 3), keepdims=True))[numbers].reshape(-1, 3, 3)
    np.testing.assert_allclose(seen, np.repeat(wanted[..., None], 3, -1), atol=0.501)
    assert f"{len(numbers)} of 32 filters fit on the page" in figure.get_supxlabel().replace("\n", " ")
    assert config.model.layer == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["model=digits_gap"], "First convolution: 16 filters of 3x3 digits_gap, layer features.0, weights digits_gap.safetensors"),
        (["model=digits_gap", "model.weights=null"], "layer features.0, RANDOM WEIGHTS"),
        (["model=digits_gap", "--layer", "features.4"], "Convolution: 32 filters of 3x3 digits_gap, layer features.4"),
        ([*CUSTOM, "model.factory=builders.Patches"], "First convolution: 12 filters of 8x8 builders.Patches, layer embed"),
        (
            [*CUSTOM, "model.factory=builders.TinyChannels", "model.channels=1", "model.mean=[0.5]", "model.std=[0.5]"],
            "First convolution: 8 filters of 5x5 builders.TinyChannels, layer features.0",
        ),
    ],
)
def test_filters_of_networks(arguments, says, tmp_path):
    printed = invoke("filters", *arguments, "--out", tmp_path).split()
    assert [name.rpartition(".")[2] for name in printed] == ["png", "pdf", "svg"]
    assert says in words(printed[2])


@pytest.fixture
def photo(tmp_path):
    Digits().load(3).save(tmp_path / "three.png")
    return tmp_path / "three.png"


@pytest.mark.parametrize("by", ["number", "drop", "mean"])
def test_channels_in_their_order(by):
    opened = open_photo_session(compose_jobs(["model=digits_fc"])[0].config)
    probe = opened.probe(Digits().load(5))
    figures = activations.pages(opened, ExplainedPhoto("five.png", probe), by)
    net = opened.model.net
    with torch.no_grad():
        maps = net.module.features((probe.images - net.mean) / net.std)[0].numpy()
    values = {"number": -np.arange(64), "mean": maps.mean((1, 2)), "drop": probe.drops[0].numpy()}[by]
    order = np.argsort(-values, kind="stable")
    (figure,) = figures
    ax = figure.axes[1]
    assert [int(text.get_text().split()[0]) for text in ax.texts] == order.tolist()
    if by != "number":
        assert [text.get_text().split()[1] for text in ax.texts] == [f"{values[k]:.2g}" for k in order]
    tiles = heat_tiles(maps, "inferno")
    picture = ax.images[0].get_array()
    for text, number in zip(ax.texts, order, strict=True):
        x, bottom = (int(v) for v in text.get_position())
        seen = picture[bottom - 32 : bottom : 2, x : x + 32 : 2]
        assert np.abs(seen.astype(int) - tiles[number]).max() <= 3


def test_filters_with_too_many_channels_are_refused():
    with pytest.raises(UserError, match="has 65 channels, and at most 64 are shown side by side; name an earlier one with --layer"):
        filters.draw(np.ones((2, 65, 3, 3)), colour=False, common=False)


def test_many_channels_take_several_pages(photo, tmp_path):
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.fc = nn.Conv2d(3, 500, 8, stride=8), nn.Linear(500, 3)

        def forward(self, x):
            return self.fc(self.features(x).relu().mean((2, 3)))

    opened = open_photo_session(compose_jobs(["model=digits_fc"])[0].config)
    probe = Probe(SplitModel(Wide(), "features", mean=(0.5,) * 3, std=(0.5,) * 3), torch.rand(1, 3, 64, 64))
    figures = activations.pages(opened, ExplainedPhoto("noise.png", probe), "drop")
    assert len(figures) > 1 and all(figure.get_figheight() <= 8.9 for figure in figures)
    numbers = [int(text.get_text().split()[0]) for figure in figures for text in figure.axes[1].texts]
    assert numbers == probe.drops[0].argsort(descending=True, stable=True).tolist()


def test_tokens_are_channels_too(photo, tmp_path):
    printed = invoke(
        "activations", photo, *CUSTOM, "model.factory=builders.Patches", "model.layer=blocks.0", "--by", "mean", "--out", tmp_path
    )
    shown = words(printed.split()[2])
    assert "all 12 channels, 4 x 5 positions each, the largest mean activation first" in shown


def test_files_of_several_photographs_and_classes(photo, tmp_path):
    (tmp_path / "other").mkdir()
    Digits().load(9).save(tmp_path / "other" / "three.png")
    out = tmp_path / "out"
    invoke("activations", photo, tmp_path / "other" / "three.png", "model=digits_gap", "--out", out)
    assert {file.stem for file in out.iterdir()} == {"three-activations", "three-activations-2"}
    invoke("activations", photo, "model=digits_gap", "target=[2,5]", "--out", out / "classes")
    assert {file.stem for file in (out / "classes").iterdir()} == {"three-class-2-activations", "three-class-5-activations"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["filters"], "figure filters needs a model, as in model=resnet50"),
        (
            ["filters", "model=digits_fc", "model.layer=features.0"],
            "does not take 'model.layer=features.0': leave it out; --layer names another convolution than the first",
        ),
        (["filters", "model=digits_fc", "--layer", "features.13"], "this layer of digits_fc is no two-dimensional convolution"),
        (["filters", "model=digits_fc", "--layer", "features"], "is no two-dimensional convolution; its first one is 'features.0'"),
        (["filters", "model=digits_fc", "--layer", "featurs.4"], "digits_fc has no such convolution; did you mean 'features.4'?"),
        (
            ["filters", *CUSTOM, "model.factory=torch.nn.Conv2d", "+model.args={in_channels: 3, out_channels: 2, kernel_size: 1}"],
            "are 1x1: one",
        ),
        (["filters", *CUSTOM, "model.factory=torch.nn.Flatten"], "calls no module of type torch.nn.Conv2d"),
        (["activations", "PHOTO", "model=digits_fc", "--by", "drops"], "--by drops is no order of channels; did you mean 'drop'?"),
        (["activations", "model=digits_fc"], "figure activations needs at least one image file"),
        (["activations", "PHOTO", "model=digits_fc", "method=[cam]"], "draws no methods of your choice"),
    ],
)
def test_mistakes_are_one_sentence(arguments, says, photo, tmp_path):
    with pytest.raises(UserError, match=says):
        invoke(*[photo if argument == "PHOTO" else argument for argument in arguments], "--out", tmp_path / "out")
