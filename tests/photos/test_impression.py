"""Class impressions: the total variation against a loop, the ascent against its equation, and what the command says."""

from itertools import product

import numpy as np
import pytest
import torch
from builders import TinyChannels, fresh
from typer.testing import CliRunner

from evalkit.cli.main import app
from evalkit.config.compose import compose_jobs
from evalkit.data.labels import Classes
from evalkit.errors import UserError
from evalkit.photos import impression
from evalkit.photos.figures import impression as figure
from evalkit.photos.figures.second import same_class
from evalkit.photos.impression import Ascent, impress, total_variation
from evalkit.photos.session import open_photo_session


def test_total_variation_and_its_gradient_are_those_of_a_loop():
    values = torch.from_numpy(fresh().random((1, 2, 4, 5)))

    def looped(image: np.ndarray) -> float:
        total = 0.0
        for c, y, x in product(range(2), range(4), range(5)):
            right = image[0, c, y, x + 1] - image[0, c, y, x] if x < 4 else 0.0
            down = image[0, c, y + 1, x] - image[0, c, y, x] if y < 3 else 0.0
            total += (right**2 + down**2 + 1e-4) ** 0.5
        return total

    image = values.clone().requires_grad_()
    total = total_variation(image)
    assert float(total.detach()) == pytest.approx(looped(values.numpy()), rel=1e-12)
    (gradient,) = torch.autograd.grad(total, image)
    for place in product(range(1), range(2), range(4), range(5)):
        moved = [values.numpy().copy(), values.numpy().copy()]
        moved[0][place] += 1e-6
        moved[1][place] -= 1e-6
        assert float(gradient[place]) == pytest.approx((looped(moved[0]) - looped(moved[1])) / 2e-6, abs=1e-5)


def without_transformation(**settings) -> Ascent:
    return Ascent(**settings, degrees=0, scale=0, colour=0)


def test_an_ascent_follows_its_equation(monkeypatch):
    """A linear score has the same gradient everywhere; without margin and transformations each step can be computed by hand."""
    monkeypatch.setattr(impression, "MARGIN", 1)
    weights = torch.from_numpy(fresh().normal(size=(1, 2, 6, 7))).float()
    made = impress(
        lambda image: (image * weights).sum((1, 2, 3)), (2, 6, 7), without_transformation(steps=5, rate=0.02, smoothness=0.3, seed=3)
    )
    image = made.start.double().numpy()
    logits = []
    unit = weights.double().numpy() / np.sqrt((weights.double().numpy() ** 2).mean())
    for step in range(5):
        logits.append((image * weights.numpy()).sum())
        rough = torch.from_numpy(image).requires_grad_()
        (turn,) = torch.autograd.grad(total_variation(rough), rough)
        image = np.clip(image + 0.02 * (1 + np.cos(np.pi * step / 5)) / 2 * (unit - 0.3 * turn.numpy()), 0, 1)
    np.testing.assert_allclose(made.image.numpy(), image, atol=1e-5)
    np.testing.assert_allclose(made.logits.numpy(), logits, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_logit_rises_and_the_seed_decides(channels):
    net = TinyChannels(channels).eval()
    state = torch.get_rng_state()
    made, again, other = (impress(lambda x: net(x)[:, 1], (channels, 32, 40), Ascent(steps=30, seed=seed)) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(made.image, again.image) and torch.equal(made.logits, again.logits)
    assert not torch.equal(made.image, other.image) and not torch.equal(made.start, other.start)
    assert made.image.shape == (1, channels, 32, 40) and float(made.image.min()) >= 0 and float(made.image.max()) <= 1
    with torch.no_grad():
        assert net(made.image)[0, 1] > net(made.start)[0, 1]


def test_a_smoother_image_has_a_smaller_total_variation():
    net = TinyChannels(3).eval()
    rough, smooth = (impress(lambda x: net(x)[:, 0], (3, 32, 32), Ascent(steps=30, smoothness=s)).image for s in (0.0, 1.0))
    assert total_variation(smooth) < 0.8 * total_variation(rough)


def test_transformations_vary_and_let_the_gradient_through():
    change = impression._transformation((20, 24), Ascent())
    image = torch.rand(1, 3, 23, 27, requires_grad=True)
    first, second = change(image), change(image)
    assert first.shape == (1, 3, 20, 24) and not torch.equal(first, second)
    (gradient,) = torch.autograd.grad(first.sum(), image)
    assert bool(gradient.isfinite().all()) and float((gradient != 0).float().mean()) > 0.5
    nothing = impression._transformation((23, 27), without_transformation())
    torch.testing.assert_close(nothing(image), image, atol=1e-5, rtol=0)


def session(*overrides: str):
    return open_photo_session(compose_jobs(list(overrides))[0].config)


def test_a_digit_is_recognised_by_the_second_network():
    first, second = session("model=digits_gap"), session("model=digits_fc")
    made = figure.impression_of(first, 3, Ascent(steps=60, seed=int(torch.randint(1000, ()))))
    before, after = (figure.scores(first, image, 3) for image in (made.start, made.image))
    assert after[0] > 0.99 > before[0]
    net = first.model.net
    with torch.no_grad():
        logits = net.module((made.image - net.mean) / net.std).double()
    assert after[0] == pytest.approx(float(logits.softmax(1)[0, 3]), abs=1e-5) and after[1] == pytest.approx(float(logits[0, 3]), rel=1e-4)
    assert figure.scores(second, made.image, 3)[0] > figure.scores(second, made.start, 3)[0]


ONE = ["model=custom", "model.factory=builders.TinyChannels", "+model.args.classes=1",
       "model.layer=features", "model.channels=1", "model.mean=[0.5]",
       "model.std=[0.5]", "model.resize=[24,28]", "model.classes=[no,yes]", "model.output=binary"]  # fmt: skip


def test_a_network_with_one_output():
    opened = session(*ONE)
    logits = []
    for target in (0, 1):
        made = figure.impression_of(opened, target, Ascent(steps=25))
        confidence, logit = figure.scores(opened, made.image, target)
        assert logit > figure.scores(opened, made.start, target)[1]
        assert confidence == pytest.approx(1 / (1 + np.exp(-logit)))
        logits.append(float(opened.model.net(made.image)[0, 1]))
    assert logits[0] < logits[1]


def test_a_score_without_a_gradient_is_refused():
    opened = session("model=digits_gap")
    last = [part for part in opened.model.module.modules() if isinstance(part, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.weight.zero_()
    with pytest.raises(UserError, match="the score of class '3' of digits_gap has a gradient of 0 in every step"):
        figure.impression_of(opened, 3, Ascent(steps=3))


def test_the_same_class_of_another_network():
    named = [Classes(3, ["ant", "bee", "cat"]), Classes(4, ["dog", "cat", "bee", "elk"]), Classes(3)]
    assert same_class(named[0], named[1], 2, "b") == 1
    assert same_class(named[0], named[2], 2, "c") == same_class(named[2], named[0], 2, "a") == 2
    with pytest.raises(UserError, match="the second network, b, has no class 'ant'"):
        same_class(named[0], named[1], 0, "b")
    with pytest.raises(UserError, match="the second network, b, has no class '1'"):
        same_class(named[2], named[1], 1, "b")


def invoke(*arguments):
    done = CliRunner().invoke(app, ["figure", "impression", *map(str, arguments)])
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


def test_a_figure_of_two_classes(tmp_path):
    printed = invoke("3", "9", "model=digits_gap", "--second", "model=digits_fc", "--steps", "4", "--seed", "7", "--out", tmp_path).output
    files = [tmp_path / f"digits_gap-impression.{form}" for form in ("png", "pdf", "svg")]
    assert printed.split() == list(map(str, files)) and all(file.stat().st_size for file in files)
    svg = files[2].read_text()
    for text in ("Class impressions (seed 7)", "after 4 steps", "digits_gap: confidence", "digits_fc: confidence", ">3<", ">9<"):
        assert text in svg
    before = files[0].read_bytes()
    invoke("3", "9", "model=digits_gap", "--second", "model=digits_fc", "--steps", "4", "--seed", "7", "--out", tmp_path)
    assert files[0].read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["model=digits_gap"], "figure impression needs a class by name or index"),
        (["3"], "figure impression needs a model, as in model=resnet50"),
        (["3", "model=digits_gap", "target=3"], "figure impression does not take 'target=3': name the classes in front"),
        (["thre", "model=digits_gap"], "target=thre: the model has no such class"),
        (["10", "model=digits_gap"], "target=10 is no output: the model has 10, from 0 to 9"),
        (["3", "model=digits_gap", "method=[cam]"], r"draws no methods of your choice: leave out 'method=\[cam\]'"),
        (["3", "model=digits_gap", "--second", "digits_fc"], "--second needs a model"),
    ],
)
def test_mistakes_are_one_sentence(arguments, says, tmp_path):
    with pytest.raises(UserError, match=says):
        invoke(*arguments, "--out", tmp_path)
