"""How outputs lie: orders that shapes alone do not tell apart are read by what the network tells, or refused with what to set."""

import logging

import pytest
import torch
from builders import HALF, Patches
from torch import Tensor, nn

from evalkit import Probe, SplitModel
from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.models import zoo
from evalkit.models.evidence import prefix_tokens
from evalkit.models.layers import explainable
from evalkit.models.proposal import propose


def plain_drops(module: nn.Module, layer: str, images: Tensor, targets: Tensor, positions: slice) -> Tensor:
    """The drops of the whole network, run once for each channel, which is zero at these positions of (N,T,K)."""

    def scores(channel: int | None) -> Tensor:
        def hook(_part, _args, out):
            out = out.clone()
            if channel is not None:
                out[:, positions, channel] = 0
            return out

        handle = module.get_submodule(layer).register_forward_hook(hook)
        with torch.no_grad():
            values = module((images - 0.5) / 0.5).gather(1, targets[:, None])[:, 0]
        handle.remove()
        return values

    return torch.stack([scores(None) - scores(channel) for channel in range(12)], 1)


@pytest.mark.parametrize("pool", ["token", "mean"])
@pytest.mark.parametrize(("place", "extra", "prefix"), [("front", 1, 1), ("end", 1, -1), ("end", 3, -3), ("front", 3, 3)])
@pytest.mark.parametrize("settings", [{}, {"grid": (4, 5)}, {"prefix": True}])
def test_the_class_token_may_be_at_the_end(place, extra, prefix, pool, settings):
    module, images = Patches(place, pool, extra=extra).eval().double(), torch.rand(2, 3, 32, 40, dtype=torch.float64)
    settings = {key: prefix if value is True else value for key, value in settings.items()}
    net = SplitModel(module, "blocks.1", mean=HALF, std=HALF, **settings)
    probe, seen = Probe(net, images), []
    handle = module.blocks[1].register_forward_hook(lambda _part, _args, out: seen.append(out))
    with torch.no_grad():
        module((images - 0.5) / 0.5)
    handle.remove()
    positions = slice(extra, None) if place == "front" else slice(None, -extra)
    assert torch.allclose(probe.activations, seen[0][:, positions].reshape(2, 4, 5, 12).permute(0, 3, 1, 2), atol=1e-12)
    assert (net.grid.height, net.grid.width, net.grid.prefix) == (4, 5, prefix)
    expected = plain_drops(module, "blocks.1", images, probe.targets, positions)
    assert torch.allclose(probe.drops, expected, rtol=1e-9, atol=1e-11)
    everything = plain_drops(module, "blocks.1", images, probe.targets, slice(None))
    assert torch.allclose(probe.with_all_tokens.drops, everything, rtol=1e-9, atol=1e-11)
    assert not torch.allclose(expected, everything, rtol=1e-3)


def test_auto_finds_a_class_token_at_the_end():
    reason = propose(Patches("end").eval(), torch.rand(2, 3, 32, 40)).reason
    assert "4 x 5 tokens in front of 1 prefix token at the end" in reason and "behind it only the prefix token is read" in reason


@pytest.mark.parametrize("kept", [3, 5, 6, 11, 12])  # 12 and 6 look like 3 x 4 and 2 x 3; 11 and 5 do so with the class token
def test_dropped_tokens_are_refused(kept):
    module, images = Patches(kept=kept).eval(), torch.rand(2, 3, 32, 40)
    with pytest.raises(UserError, match=f"says that it has 1 prefix token, and the other {kept} tokens are no grid of 32x40 images"):
        SplitModel(module, "norm", mean=HALF, std=HALF).trunk(images)
    assert SplitModel(module, "blocks.0", mean=HALF, std=HALF).trunk(images)[0].shape == (2, 12, 4, 5)
    assert propose(module, images).layer == "blocks.0"
    assert "norm" not in {layer.name for layer in explainable(module, images)}


class Late(nn.Module):
    """The class token is added behind the patches' own layers, and taken away before the last norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cls_token, self.early = nn.Conv2d(3, 12, 8, stride=8), nn.Parameter(torch.randn(1, 1, 12)), nn.Linear(12, 12)
        self.late, self.norm, self.head = nn.TransformerEncoderLayer(12, 2, 16, batch_first=True), nn.LayerNorm(12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.early(self.embed(x).flatten(2).transpose(1, 2))
        x = self.late(torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1))
        return self.head(self.norm(x[:, 1:]).mean(1))


@pytest.mark.parametrize(("layer", "prefix"), [("early", 0), ("late", 1), ("norm", 0)])
def test_layers_without_the_class_token_that_a_network_has(layer, prefix):
    net = SplitModel(Late().eval(), layer, mean=HALF, std=HALF)
    assert net.trunk(torch.rand(2, 3, 32, 40))[0].shape == (2, 12, 4, 5) and net.grid.prefix == prefix


class Wide(nn.Module):
    """Channels last (N,2,8,32) for 32x128 images, whose last two axes have the images' proportions too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.after, self.head = nn.Conv2d(3, 32, 16, stride=16), nn.LayerNorm(32), nn.Tanh(), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.norm(self.embed(x).permute(0, 2, 3, 1))).mean((1, 2)))


@pytest.mark.parametrize("layer", ["embed", "norm", "after"])
def test_channels_last_of_wide_images(layer):
    net = SplitModel(Wide().eval(), layer, mean=HALF, std=HALF)
    assert net.trunk(torch.rand(2, 3, 32, 128))[0].shape == (2, 32, 2, 8)
    assert net.grid.layout == ("maps" if layer == "embed" else "channels_last")


class Cube(Wide):
    """As many channels as rows and columns."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Conv2d(3, 4, 8, stride=8), nn.LayerNorm(4), nn.Linear(4, 4)


def test_where_nothing_tells_maps_from_channels_last_the_key_is_named():
    images, module = torch.rand(2, 3, 32, 32), Cube().eval()
    with pytest.raises(UserError, match=r"set model\.grid=maps or model\.grid=channels_last"):
        SplitModel(module, "after", mean=HALF, std=HALF).trunk(images)
    last, first = (SplitModel(module, "after", mean=HALF, std=HALF, grid=grid).trunk(images)[0] for grid in ("channels_last", "maps"))
    assert torch.equal(last, first.permute(0, 3, 1, 2))
    assert torch.equal(last, SplitModel(module, "norm", mean=HALF, std=HALF).trunk(images)[0].tanh())
    assert compose_jobs(["model=resnet18", "model.grid=maps", "model.prefix_tokens=-1"])[0].config.model.prefix_tokens == -1


class Flat(nn.Module):
    """Channels first (N,K,16), then tokens (N,16,K), of 4 x 4 patches."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.embed, self.flat, self.mix = nn.Conv2d(3, channels, 8, stride=8), nn.Flatten(2), nn.Conv1d(channels, channels, 1)
        self.fc, self.act, self.norm, self.head = nn.Linear(channels, channels), nn.ReLU(), nn.LayerNorm(channels), nn.Linear(channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.act(self.fc(self.mix(self.flat(self.embed(x))).transpose(1, 2)))).mean(1))


@pytest.mark.parametrize("channels", [36, 9, 16, 17])
def test_tokens_with_channels_first_are_not_taken_for_a_grid(channels):
    module, images = Flat(channels).eval(), torch.rand(2, 3, 32, 32)
    for layer in ("flat", "mix"):
        with pytest.raises(UserError, match=r"\(images, channels, positions\): choose a layer before the positions are flattened"):
            SplitModel(module, layer, mean=HALF, std=HALF).trunk(images)
    assert SplitModel(module, "norm", mean=HALF, std=HALF).trunk(images)[0].shape == (2, channels, 4, 4)
    if channels == 16:  # as many channels as positions
        with pytest.raises(UserError, match=r"read as \(images, tokens, channels\) or \(images, channels, positions\)"):
            SplitModel(module, "act", mean=HALF, std=HALF).trunk(images)
    settings = {"grid": (4, 4)} if channels == 16 else {}
    assert SplitModel(module, "act", mean=HALF, std=HALF, **settings).trunk(images)[0].shape == (2, channels, 4, 4)
    assert {"flat", "mix"}.isdisjoint(layer.name for layer in explainable(module, images))


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ((2, 2), r"21 tokens less 1 prefix token are 20, for example \[4,5\], not 2x2 = 4; .* set model\.prefix_tokens=17"),
        ((5, 5), r"21 tokens less 1 prefix token are 20, for example \[4,5\], not 5x5 = 25$"),
    ],
)
def test_a_grid_that_contradicts_what_the_network_says(grid, says):
    module, images = Patches().eval(), torch.rand(2, 3, 32, 40)
    with pytest.raises(UserError, match=says):
        SplitModel(module, "blocks.1", mean=HALF, std=HALF, grid=grid).trunk(images)
    assert SplitModel(module, "blocks.1", mean=HALF, std=HALF, grid=(2, 2), prefix=17).trunk(images)[0].shape == (2, 12, 2, 2)
    assert SplitModel(module, "blocks.1", mean=HALF, std=HALF, grid=(1, 20)).trunk(images)[0].shape == (2, 12, 1, 20)


@pytest.mark.parametrize("count", [2, 21])  # of as many images as tokens, too
def test_tokens_first_are_named(count):
    with pytest.raises(UserError, match=r"or where its order is \(tokens, images, channels\)"):
        SplitModel(Patches(tokens_first=True).eval(), "blocks.1", mean=HALF, std=HALF).trunk(torch.rand(count, 3, 32, 40))


def test_one_name_in_several_stages_counts_once():
    assert prefix_tokens(nn.ModuleList([Patches(), Patches(extra=2)])) == 2


@pytest.mark.parametrize(("layer", "told"), [("norm", True), ("blocks.2", True), ("blocks.1", False)])
def test_a_layer_whose_positions_are_not_read_is_pointed_out_once(layer, told, caplog):
    (job,) = compose_jobs(
        ["model=custom", "model.factory=builders.Patches", f"model.layer={layer}", "model.resize=[32,40]", "model.crop=null"]
    )
    with caplog.at_level(logging.WARNING):
        zoo.load(job.config.model, torch.device("cpu"))
    said = [text for text in caplog.messages if "do not depend on the positions" in text]
    assert len(said) == told and all(f"layer '{layer}'" in text and "model.layer=auto takes 'blocks.1'" in text for text in said)
