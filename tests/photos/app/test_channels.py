"""Answers on the channels of a layer, without a browser: pictures and numbers against the module itself."""

import base64
import io

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from evalkit.errors import UserError
from evalkit.photos.app import channels
from evalkit.photos.app.explainer import Explainer, View
from evalkit.photos.app.offer import open_album, open_offer
from evalkit.probe import Probe


@pytest.fixture(scope="module")
def explainer():
    offer = open_offer(["limit=3", "method=[grad_cam]"], None)
    return Explainer(offer, open_album(offer.config))


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))).astype(int)


def activations(explainer: Explainer, view: View, until: int) -> tuple[np.ndarray, np.ndarray]:
    """The image (3,64,64), and the maps (K,h,w) that the module's first layers make of it, with hooks of nobody."""
    probe = explainer.probe(explainer.resolve(view))
    net = probe.net
    with torch.no_grad():
        maps = net.module.features[: until + 1]((probe.images - net.mean) / net.std)[0]
    return probe.images[0].numpy(), maps.numpy()


@pytest.mark.parametrize(("layer", "until", "side"), [(None, 13, 16), ("features.3", 3, 32), ("features.2", 2, 56)])
def test_the_sheet_holds_every_channel(explainer, layer, until, side):
    view = View(photo="s1", model="digits_gap", layer=layer)
    _, maps = activations(explainer, view, until)
    answer = channels.channels(explainer, view)
    assert answer["size"] == [side, side] and answer["positions"] == list(maps.shape[1:]) and answer["columns"] == min(32, len(maps))
    np.testing.assert_allclose(answer["means"], maps.mean((1, 2)), rtol=1e-4, atol=1e-5)
    sheet = pixels(answer["sprite"])
    for k, values in enumerate(maps):
        if side == 56:  # averaged from 64: only its middle colour can be told by hand
            continue
        y, x = k // 32 * side, k % 32 * side
        span = np.ptp(values)
        scaled = (values - values.min()) / span if span else np.zeros_like(values)
        assert np.abs(sheet[y : y + side, x : x + side] - colormaps["inferno"](scaled, bytes=True)[..., :3]).max() <= 3


def test_numbers_are_those_of_the_class(explainer):
    """Global average pooling and one linear layer: drop and gradient have closed forms."""
    view = View(photo="s2", model="digits_gap", target=4)
    _, maps = activations(explainer, view, 13)
    weights = explainer.probe(explainer.resolve(view)).net.module.classifier.weight[4].detach().numpy()
    answer = channels.channels(explainer, view)
    np.testing.assert_allclose(answer["drops"], weights * maps.mean((1, 2)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(answer["weights"], weights / (16 * 16), rtol=1e-4)


def test_one_channel_over_the_photograph(explainer):
    view = View(photo="s0", model="digits_gap")
    image, maps = activations(explainer, view, 13)
    number = int(maps.mean((1, 2)).argmax())
    wide = torch.nn.functional.interpolate(torch.from_numpy(maps[None, [number]]), (64, 64), mode="bilinear", align_corners=False)[
        0, 0
    ].numpy()
    coloured = colormaps["inferno"]((wide - wide.min()) / np.ptp(wide))[..., :3]
    wanted = 255 * (0.45 * image.mean(0)[..., None] + 0.55 * coloured)
    found = pixels(channels.channel(explainer, channels.ChannelRequest(view=view, number=number))["picture"])
    assert np.abs(found - wanted).mean() < 1 and np.abs(found - wanted).max() < 8


@pytest.mark.parametrize("number", [-1, 64])
def test_a_channel_that_is_not_there(explainer, number):
    with pytest.raises(UserError, match=f"layer 'features.13' has no channel {number}: it has 64, from 0 to 63"):
        channels.channel(explainer, channels.ChannelRequest(view=View(photo="s0", model="digits_gap"), number=number))


def test_a_network_that_stops_gradients_has_drops_only(explainer, monkeypatch):
    def stopped(_probe):
        raise UserError("stops gradients")

    monkeypatch.setattr(Probe, "gradients", property(stopped))
    answer = channels.channels(explainer, View(photo="s0", model="digits_gap"))
    assert answer["weights"] is None and len(answer["drops"]) == 64
