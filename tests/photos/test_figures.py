"""The paper's figures: what is drawn equals brute force over the whole network, and the files are fit for a paper."""

import copy
import re
import xml.etree.ElementTree as ET
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import HOSTILE, REAL, needs_real
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.collections import LineCollection
from PIL import Image
from scipy.stats import pearsonr
from typer.testing import CliRunner

from evalkit import methods as cam_methods
from evalkit.cli.main import app
from evalkit.config.compose import compose_jobs
from evalkit.data.digits import Digits, TwoDigits
from evalkit.data.labels import Classes
from evalkit.errors import UserError
from evalkit.photos.figures import categories, explanation, layout, methods, saturation, trust, unit, units
from evalkit.photos.figures.layout import ExplainedPhoto
from evalkit.photos.figures.second import same_class
from evalkit.photos.session import PhotoSession, open_photo_session


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def session(*overrides: str) -> PhotoSession:
    return open_photo_session(compose_jobs(list(overrides))[0].config)


def explained(opened: PhotoSession, *positions: int, target: int | None = None) -> list[ExplainedPhoto]:
    return [ExplainedPhoto(f"{position}.png", opened.probe(Digits().load(position), target)) for position in positions]


class WholeNetwork:
    """The network in float64, with a hook on its layer that may ablate one unit; no part of evalkit but the module itself."""

    def __init__(self, opened: PhotoSession) -> None:
        net = opened.model.net
        self.module = copy.deepcopy(net.module).double()
        self.mean, self.std = net.mean.double(), net.std.double()
        self.ablated: int | None = None
        self.activations = torch.empty(0)
        self.module.get_submodule(net.layer).register_forward_hook(self._hook)

    def _hook(self, _module, _inputs, out):
        out = out.clone()
        if self.ablated is not None:
            out[:, self.ablated] = 0
        self.activations = out
        return out.clone()

    def score(self, images, target: int, ablated: int | None = None):
        self.ablated = ablated
        return self.module((images.double() - self.mean) / self.std)[0, target]

    def drops(self, images, target: int, chosen) -> np.ndarray:
        with torch.no_grad():
            y = self.score(images, target)
            return np.array([float(y - self.score(images, target, k)) for k in chosen])

    def gradients(self, images, target: int):
        y = self.score(images, target)
        return torch.autograd.grad(y, self.activations)[0][0]


def stems(ax) -> np.ndarray:
    (lines,) = (c for c in ax.collections if isinstance(c, LineCollection))
    return np.array([segment[1][1] for segment in lines.get_segments()])


@pytest.mark.parametrize("model", ["digits_fc", "digits_gap"])
def test_units_are_the_drops_of_the_whole_network(model):
    opened = session(f"model={model}")
    shown = explained(opened, 3, 4, target=2)
    figure = units.draw(opened, shown)
    curves = [ax for ax in figure.axes if ax.collections]
    assert len(curves) == 2
    brute = WholeNetwork(opened)
    for ax, photo in zip(curves, shown, strict=True):
        wanted = brute.drops(photo.probe.images, 2, range(64))
        np.testing.assert_allclose(stems(ax), wanted, atol=1e-4 * np.abs(wanted).max())
        named = [int(k) for k in re.findall(r"(\d+)\s\([+-]", ax.get_title())]
        assert named == np.argsort(-wanted)[: units.NAMED].tolist()
        assert f"{(wanted > 0).sum()} with a positive drop" in ax.get_xlabel()


def test_unit_shows_its_activation_its_gradient_and_their_correlation():
    opened = session("model=digits_fc")
    (photo,) = explained(opened, 5)
    target = int(photo.probe.targets[0])
    brute = WholeNetwork(opened)
    for asked in (None, 7):
        figure = unit.draw(opened, [photo], asked)
        k = int(brute.drops(photo.probe.images, target, range(64)).argmax()) if asked is None else asked
        gradients = brute.gradients(photo.probe.images, target)[k]
        activations = brute.activations[0, k].detach()
        drawn = [ax.images[0].get_array() for ax in figure.axes[1:3]]
        np.testing.assert_allclose(drawn[0], activations, atol=1e-4)
        np.testing.assert_allclose(drawn[1], gradients, atol=1e-5)
        r = pearsonr(activations.flatten(), gradients.flatten()).statistic
        assert f"unit {k}\ndrop" in figure.axes[1].get_title() and f"r = {r:.2f} (" in figure.axes[2].get_title()
        low, high = figure.axes[2].images[0].get_clim()
        assert low == -high and high == pytest.approx(float(gradients.abs().max()), rel=1e-3)  # grey means 0


def test_behind_global_average_pooling_gradients_are_constant_and_have_no_correlation():
    opened = session("model=digits_gap")
    figure = unit.draw(opened, explained(opened, 5))
    assert "no r: gradient constant" in figure.axes[2].get_title()
    assert len(np.unique(figure.axes[2].images[0].get_array())) == 1


def laid_over(image, low) -> np.ndarray:
    """Photograph in grey under a map in colours, written anew."""
    wide = torch.nn.functional.interpolate(low[None, None], size=image.shape[1:], mode="bilinear", align_corners=False)[0, 0].numpy()
    colours = colormaps["inferno"]((wide - wide.min()) / (wide.max() - wide.min()))[..., :3]
    return 0.45 * image.mean(0).numpy()[..., None] + 0.55 * colours


def test_methods_stand_side_by_side():
    opened = session("model=digits_fc", f"method={methods.DEFAULT}")
    (photo,) = explained(opened, 6)
    image, target = photo.probe.images[0], int(photo.probe.targets[0])
    figure = methods.draw(opened, [photo])
    named = {ax.get_title(): ax.images[0].get_array() for ax in figure.axes if ax.images}
    assert list(named) == ["", "grad_cam", "guided_grad_cam", "ablation_cam", "guided_ablation_cam"]
    np.testing.assert_allclose(named[""], image.permute(1, 2, 0))
    brute = WholeNetwork(opened)
    weights = {
        "grad_cam": brute.gradients(image[None], target).mean((1, 2)),
        "ablation_cam": torch.from_numpy(brute.drops(image[None], target, range(64))),
    }
    brute.score(image[None], target)
    for name, w in weights.items():
        low = torch.einsum("k,khw->hw", w, brute.activations[0].detach()).clamp(min=0)
        assert np.abs(named[name] - laid_over(image, low)).mean() < 1e-3
    fine = cam_methods.guided_grad_cam(photo.probe)[0].detach().numpy()
    dark, bright = fine <= np.quantile(fine, 0.05), fine >= np.quantile(fine, 0.995)
    assert named["guided_grad_cam"][bright].sum(1).min() > 2.5
    assert named["guided_grad_cam"][dark].sum(1).max() < 0.1


def test_explanation_map_keeps_exactly_the_highest_pixels():
    opened = session("model=digits_fc", "method=[ablation_cam]", "protocol.top_percent=[20,5]", "target=4")
    (photo,) = explained(opened, 8, target=4)
    figure = explanation.draw(opened, [photo])
    image = photo.probe.images[0]
    ranked = np.argsort(-opened.map("ablation_cam", photo.probe)[0].numpy().ravel(), kind="stable")
    for ax, percent in zip(figure.axes[2:4], (20, 5), strict=True):
        kept = np.zeros(64 * 64, bool)
        kept[ranked[: round(percent / 100 * 64 * 64)]] = True
        wanted = torch.where(torch.from_numpy(kept).view(64, 64), image, 0)
        np.testing.assert_allclose(ax.images[0].get_array(), wanted.permute(1, 2, 0))
        assert ax.get_title() == f"top {percent} % kept,\nthe rest black"
        score = WholeNetwork(opened).score(wanted[None], 4)
        assert f"score {float(score.detach()):.2f}" in ax.get_xlabel()


def scaled(opened: PhotoSession, factor: float) -> PhotoSession:
    """The same decisions, more certain."""
    net = copy.deepcopy(opened.model.net)
    with torch.no_grad():
        net.module.classifier[-1].weight *= factor
        net.module.classifier[-1].bias *= factor
    return replace(opened, model=replace(opened.model, nets=[net]))


def test_saturation_says_what_becomes_of_gradients_and_drops():
    opened = session("model=two_digits")
    picture = TwoDigits().load(0)
    probes = saturation.two_classes(opened, picture)
    best = opened.probe(picture).logits[0].argsort(descending=True)[:2]
    assert [int(probe.targets[0]) for probe in probes] == best.tolist()
    sure = scaled(opened, 17.5 / float(probes[0].scores[0]))  # float32's sigmoid of 17.5 is 1
    for current, vanished in ((opened, False), (sure, True)):
        (probe, _) = saturation.two_classes(current, picture)
        figure = saturation.draw(current, [ExplainedPhoto("canvas.png", probe)])
        below = [ax.get_xlabel() for ax in figure.axes[:5]]
        y = probe.scores[0].double().sigmoid()
        if vanished:
            assert below[2] == "gradient times 0\nno map: constant"
        else:
            factor, r = re.fullmatch(r"gradient times (\S+)\nr = (\S+)", below[2]).groups()
            assert float(factor) == pytest.approx(float(y * (1 - y)), rel=0.1) and r == "1.000"
        assert re.fullmatch(r"r = 0\.\d+|r = 1\.000", below[4])  # drops by their complements outlive the rounding
    assert "for scores above 16.6" in figure.get_supxlabel().replace("\n", " ")


def test_a_named_target_replaces_the_two_best():
    probes = saturation.two_classes(session("model=two_digits", "target=[3,8,1]"), TwoDigits().load(0))
    assert [int(probe.targets[0]) for probe in probes] == [3, 8, 1]


def test_trust_shows_one_class_of_two_networks(tmp_path):
    """The second network's own weights, and the first network's class, which the untrained one does not predict."""
    first = session("model=digits_fc", "method=[ablation_cam]")
    files = [tmp_path / f"{i}.png" for i in (5, 6)]
    for i, file in zip((5, 6), files, strict=True):
        Digits().load(i).save(file)
    photos = [ExplainedPhoto(file.name, first.probe(Digits().load(i), t)) for i, file in zip((5, 6), files, strict=True) for t in (3, 8)]
    second = compose_jobs(["model=digits_gap", "method=[ablation_cam]"])[0].config
    figure = trust.beside(second, files)(first, photos)
    other = open_photo_session(second)
    panels = [ax for ax in figure.axes if ax.images and ax.get_xlabel() != ""]
    assert len(panels) == 4 * 3 and [ax.get_title() for ax in panels[:3]] == ["", "digits_fc", "digits_gap"]
    for row, (i, target) in enumerate([(5, 3), (5, 8), (6, 3), (6, 8)]):
        shown = panels[3 * row : 3 * row + 3]
        assert shown[0].get_xlabel() == f"{i}.png" and shown[0].get_ylabel() == f"{target} · ablation_cam"
        for ax, opened in zip(shown[1:], (first, other), strict=True):
            image = opened.probe(Digits().load(i)).images
            brute = WholeNetwork(opened)
            weights = torch.from_numpy(brute.drops(image, target, range(64)))
            score = brute.score(image, target)
            low = torch.einsum("k,khw->hw", weights, brute.activations[0].detach()).clamp(min=0)
            assert np.abs(ax.images[0].get_array() - laid_over(image[0], low)).mean() < 1e-3
            predicted = int(brute.module((image.double() - brute.mean) / brute.std)[0].argmax())
            assert f"score {float(score):.2f}" in ax.get_xlabel()
            assert (f"predicts {predicted}" in ax.get_xlabel()) == (predicted != target)


def test_a_class_is_that_of_the_same_name_in_the_second_network():
    first, second = Classes(3, ["cat", "crane", "crane"]), Classes(4, ["crane", "dog", "crane", "cat"])
    assert [same_class(first, second, i, "net") for i in range(3)] == [3, 2, 2]
    assert same_class(Classes(10), Classes(10), 7, "net") == 7
    with pytest.raises(UserError, match="the second network, net, has no class 'zebra': choose a class that both have"):
        same_class(Classes(2, ["zebra", "cat"]), second, 0, "net")


def test_a_digit_is_no_output_number_of_imagenet(tmp_path):
    Digits().load(0).save(tmp_path / "digit.png")
    networks = ["model=digits_gap", "--second", "model=mobilenet_v2", "--second", "model.weights=null"]
    done = CliRunner().invoke(app, ["figure", "trust", str(tmp_path / "digit.png"), *networks, "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, UserError) and "the second network, mobilenet_v2, has no class '" in str(done.exception)
    assert not list((tmp_path / "out").glob("*.png"))


def test_categories_are_compared_within_a_photograph():
    opened = session("model=two_digits", "method=[guided_grad_cam,ablation_cam]")
    pictures = [TwoDigits().load(i) for i in (0, 5)]
    photos = [ExplainedPhoto("canvas.png", probe) for picture in pictures for probe in categories.categories(opened, picture)]
    for picture, (one, two) in zip(pictures, (photos[:2], photos[2:]), strict=True):
        best = opened.probe(picture).logits[0].argsort(descending=True)[:2].tolist()
        assert [int(one.probe.targets[0]), int(two.probe.targets[0])] == best
    figure = categories.draw(opened, photos)
    panels = [ax for ax in figure.axes if ax.images][: 4 * 3]
    for row in range(4):
        for ax, method in zip(panels[3 * row + 1 : 3 * row + 3], (cam_methods.guided_grad_cam, cam_methods.ablation_cam), strict=True):
            own = [method(photo.probe).detach().flatten() for photo in photos[row - row % 2 : row + 1]]
            assert ax.get_xlabel() == ("" if row % 2 == 0 else f"r = {pearsonr(*own).statistic:.2f}")
    named = session("model=two_digits", "method=[grad_cam]", "target=[3,8]")
    probes = categories.categories(named, pictures[0])
    assert [int(probe.targets[0]) for probe in probes] == [3, 8]
    twice = categories.draw(named, [ExplainedPhoto("a.png", probe) for probe in probes * 2])  # the same photograph again
    below = [ax.get_xlabel() for ax in twice.axes if ax.images][1 : 4 * 2 : 2]
    assert [bool(text) for text in below] == [False, True] * 2


@pytest.fixture
def photo(tmp_path):
    Digits().load(3).save(tmp_path / "three.png")
    return tmp_path / "three.png"


def invoke(*arguments) -> object:
    done = CliRunner().invoke(app, ["figure", *map(str, arguments)])
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


@pytest.mark.parametrize(
    ("name", "model", "says"),
    [
        ("units", "digits_fc", "Drop of the class score when one unit is ablated"),
        ("unit", "digits_gap", "Activation and gradient of one unit"),
        ("methods", "digits_fc", "guided_ablation_cam"),
        ("saturation", "two_digits", "Maps from the class score and from its sigmoid"),
        ("explanation", "digits_fc", "top 20 % kept, the rest black"),
        ("categories", "two_digits", "Which of the categories is it?"),
        ("trust", "digits_fc", "Which network is more reliable?"),
    ],
)
def test_three_formats_hold_text(name, model, says, photo, tmp_path):
    arguments = (name, photo, f"model={model}", "--out", tmp_path / "out", *(["--second", "model=digits_gap"] if name == "trust" else []))
    done = invoke(*arguments)
    files = {form: tmp_path / "out" / f"three-{name}.{form}" for form in ("png", "pdf", "svg")}
    assert done.output.split() == [str(file) for file in files.values()]
    with Image.open(files["png"]) as picture:
        inches = picture.width / layout.DPI
        assert 3 < inches < 7 and picture.height / layout.DPI < 9.5
    tree = ET.parse(files["svg"])
    shown = " ".join("".join(element.itertext()) for element in tree.iter("{http://www.w3.org/2000/svg}text"))
    for text in (says, f"{model}, layer features.13, weights {model}.safetensors"):
        assert text in shown
    pdf = files["pdf"].read_bytes()
    assert b"/FontFile2" in pdf and b"/Subtype /Type3" not in pdf
    assert set(says.split()) <= strings(pdf)
    before = {form: file.read_bytes() for form, file in files.items()}
    invoke(*arguments)
    assert {form: file.read_bytes() for form, file in files.items()} == before


def strings(pdf: bytes) -> set[str]:
    """Words that a PDF shows as text: its codes are those of Unicode in two bytes, its pieces are set apart by kerning."""
    words: set[str] = set()
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL):
        # No complaint of an end that is missing: its last byte may be the \r that the pattern takes for the line's.
        page = zlib.decompressobj().decompress(stream) if stream.startswith(b"\x78") else b""
        for shown in re.split(rb"T[jJ]", page) if b"BT" in page else ():
            pieces = re.findall(rb"\(((?:[^\\()]|\\.)*)\)", shown, re.DOTALL)
            words |= set(re.sub(rb"\\([()\\])", rb"\1", b"".join(pieces)).decode("utf-16-be", "replace").split())
    return words


def test_several_photographs_and_classes_share_a_figure(photo, tmp_path):
    Digits().load(4).save(tmp_path / "four.png")
    invoke("methods", photo, tmp_path / "four.png", "model=digits_fc", "target=[2,5]", "method=[grad_cam]", "--out", tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {f"three-and-1-more-methods.{form}" for form in ("png", "pdf", "svg")}


def test_random_weights_are_named_in_capitals():
    opened = session("model=digits_fc", "model.weights=null")
    assert "RANDOM WEIGHTS" in units.draw(opened, explained(opened, 1)).get_suptitle()


def test_names_of_classes_and_files_are_only_text(tmp_path):
    opened = session("model=digits_fc", f"method={methods.DEFAULT}")
    classes = Classes(10, [HOSTILE.replace(",", "") + str(i) for i in range(10)])
    opened = replace(opened, model=replace(opened.model, classes=classes))
    shown = [ExplainedPhoto(HOSTILE, photo.probe) for photo in explained(opened, 3)]
    with layout.style():
        for name, draw in (("methods", methods.draw), ("units", units.draw)):
            layout.save(draw(opened, shown), tmp_path / name)
    svg = (tmp_path / "methods.svg").read_text()
    assert "alert(1)" in svg and "\x1b" not in svg and "\u202e" not in svg
    for file in tmp_path.glob("*.svg"):
        assert not list(ET.parse(file).iter("{http://www.w3.org/2000/svg}script"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["units", "model=digits_fc"], "figure units needs at least one image file"),
        (["units", "PHOTO"], "figure units needs a model, as in model=resnet50"),
        (["units", "/nowhere.jpg", "model=digits_fc"], "cannot read /nowhere.jpg"),
        (["units", "PHOTO", "model=digits_fc", "method=[cam]"], r"draws no methods of your choice: leave out 'method=\[cam\]'"),
        (["units", "PHOTO", "model=digits_fc", "target=label"], "photographs have no labels"),
        (["unit", "PHOTO", "model=digits_fc", "--unit", "64"], "--unit 64: layer 'features.13' has 64 units, from 0 to 63"),
        (["methods", "PHOTO", "model=digits_fc", "method=[grad_cma]"], "no method 'grad_cma'; did you mean 'grad_cam'"),
        (["saturation", "PHOTO", "model=two_digits", "target=11"], "target=11 is no output: the model has 10"),
        (["units", *["PHOTO"] * 10, "model=digits_fc"], r"room for 3 rows of this figure, not for 4 \(photographs, classes, methods\)"),
        (["explanation", "PHOTO", "model=digits_fc", "protocol=curves"], "room for 7 panels side by side, not for"),
        (["trust", "PHOTO", "model=digits_fc"], "compares two networks: name the second one, as in --second model=alexnet"),
        (["trust", "PHOTO", "model=digits_fc", "--second", "workers=0"], "figure trust --second needs a model"),
        (["trust", "PHOTO", "model=digits_fc", "--second", "model=digits_gap", "--second", "target=2"], "--second takes no 'target=2'"),
        (["categories", "PHOTO", "model=digits_fc", "target=2"], "this figure compares categories: name two or more"),
        (["explanation", "PHOTO", "model=digits_fc", "--out", "PHOTO"], "cannot write to .*choose another folder with --out"),
    ],
)
def test_mistakes_are_one_sentence(arguments, says, photo):
    with pytest.raises(UserError, match=says):
        invoke(*[str(photo) if argument == "PHOTO" else argument for argument in arguments])


@needs_real
def test_units_of_a_real_network_and_photograph():
    opened = session(
        "model=squeezenet1_0",
        f"model.weights={REAL}/weights/squeezenet1_0_imagenet.safetensors",
        "model.resize=[227,227]",
        "model.crop=null",
    )
    picture = Image.open(next((REAL / "nips17_dev" / "images" / "n02112018").iterdir())).convert("RGB")
    photo = ExplainedPhoto("dog.png", opened.probe(picture))
    figure = units.draw(opened, [photo])
    (ax,) = (ax for ax in figure.axes if ax.collections)
    assert "Pomeranian" in figure.axes[0].get_title()
    drawn = stems(ax)
    chosen = [*np.argsort(-drawn)[:3], *np.argsort(drawn)[:3]]
    wanted = WholeNetwork(opened).drops(photo.probe.images, 259, chosen)
    np.testing.assert_allclose(drawn[chosen], wanted, atol=1e-4 * np.abs(drawn).max())
