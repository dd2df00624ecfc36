"""Methods at layers that put out tokens or channels last, against plain loops, captum and pytorch-grad-cam's own transformation."""

import pytest
import torch
from builders import HALF
from torch import Tensor, nn

from evalkit import Probe, SplitModel, methods
from evalkit.methods import peers

SIDE, PATCH = 24, 4


class Tokens(nn.Module):
    """Attention blocks over patches, with `prefix` tokens in front; the head reads the first one, or the mean of the grid."""

    def __init__(self, prefix: int = 1, layout: str = "tokens") -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, PATCH, stride=PATCH)
        self.cls_token = nn.Parameter(torch.randn(1, prefix, 8)) if prefix else None
        self.blocks = nn.Sequential(*(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0) for _ in range(3)))
        self.last, self.norm, self.head, self.layout = nn.Identity(), nn.LayerNorm(8), nn.Linear(8, 5), layout
        nn.init.normal_(self.norm.weight)
        self.scale = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        if self.layout == "channels_last":
            return self.head(self.scale(x.permute(0, 2, 3, 1)).relu().square().mean((1, 2)))
        x = x.flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        x = self.norm(self.blocks(x))
        return self.head(x[:, 0] if self.cls_token is not None else x.mean(1))


def as_maps(out: Tensor, prefix: int) -> Tensor:
    """What pytorch-grad-cam's users write as `reshape_transform`."""
    if out.dim() == 4:
        return out.permute(0, 3, 1, 2)
    side = SIDE // PATCH
    return out[:, prefix:].reshape(len(out), side, side, -1).permute(0, 3, 1, 2)


CASES = [(1, "tokens", "blocks.1"), (2, "tokens", "blocks.1"), (0, "tokens", "norm"), (0, "channels_last", "scale")]


@pytest.mark.parametrize(("prefix", "layout", "layer"), CASES)
@pytest.mark.parametrize("tokens", ["grid", "all"])
@pytest.mark.parametrize("count", [1, 3])
def test_ablation_cam_is_the_plain_loop_over_the_whole_network(prefix, layout, layer, tokens, count):
    module = Tokens(prefix, layout).eval().double()
    images = torch.rand(count, 3, SIDE, SIDE, dtype=torch.float64)
    net = SplitModel(module, layer, mean=HALF, std=HALF)
    probe = Probe(net, images)
    normalised = (images - 0.5) / 0.5

    def without(channel: int | None) -> tuple[Tensor, Tensor]:
        seen = []

        def hook(_part, _args, out):
            seen.append(out)
            changed = out.clone()
            if channel is not None:
                changed[:, (prefix if tokens == "grid" else 0) :, ..., channel] = 0
            return changed

        handle = module.get_submodule(layer).register_forward_hook(hook)
        with torch.no_grad():
            scores = module(normalised).gather(1, probe.targets[:, None])[:, 0]
        handle.remove()
        return scores, seen[0]

    full, out = without(None)
    drops = torch.stack([full - without(k)[0] for k in range(8)], 1)
    expected = torch.einsum("nk,nkhw->nhw", drops / full.abs()[:, None], as_maps(out, prefix)).relu()
    found = methods.ablation_cam(probe, tokens=tokens)
    ablated = probe.with_all_tokens if tokens == "all" else probe
    assert torch.allclose(ablated.drops, drops, rtol=1e-9, atol=1e-11) and float(drops.abs().max()) > 0
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-11)
    assert torch.allclose(probe.activations, as_maps(out, prefix), rtol=1e-9, atol=1e-12)
    assert probe.written(by_value=True) == []


@pytest.mark.parametrize(("prefix", "layout", "layer"), CASES)
def test_gradients_and_other_libraries(prefix, layout, layer):
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    module, images = Tokens(prefix, layout).eval(), torch.rand(3, 3, SIDE, SIDE)
    probe = Probe(SplitModel(module, layer, mean=HALF, std=HALF), images)
    ours = methods.grad_cam(probe)
    targets = [ClassifierOutputTarget(int(target)) for target in probe.targets]
    with GradCAM(module, [module.get_submodule(layer)], reshape_transform=lambda out: as_maps(out, prefix)) as cam:
        theirs = torch.from_numpy(cam((images - 0.5) / 0.5, targets=targets))
    assert torch.allclose(peers.pytorch_grad_cam(probe), theirs, atol=1e-5)
    for low, high in zip(ours, theirs, strict=True):
        if float(low.max()) > 0:
            scaled = (low - low.min()) / (low.max() - low.min())
            sampled = high[PATCH // 2 - 1 :: PATCH, PATCH // 2 - 1 :: PATCH]
            assert float(torch.corrcoef(torch.stack([scaled.flatten(), sampled.flatten()]))[0, 1]) > 0.9
    assert torch.allclose(peers.captum_attr(probe, "LayerGradCam").relu(), ours, rtol=1e-3, atol=1e-6 * float(ours.abs().max()))
    assert torch.allclose(peers.torch_cam(probe, "GradCAM"), ours, rtol=1e-3, atol=1e-6 * float(ours.abs().max()))


@pytest.mark.parametrize(("prefix", "layout", "layer"), CASES)
def test_every_method_makes_maps(prefix, layout, layer):
    probe = Probe(SplitModel(Tokens(prefix, layout).eval(), layer, mean=HALF, std=HALF), torch.rand(2, 3, SIDE, SIDE))
    for name in ("grad_cam_pp", "xgrad_cam", "layer_cam", "hires_cam", "eigen_cam", "score_cam", "spatial_ablation", "random", "centre"):
        maps = getattr(methods, name)(probe)
        assert maps.shape == (2, SIDE // PATCH, SIDE // PATCH) and bool(maps.isfinite().all()), name


def test_zero_regions_are_the_plain_loop():
    module, images = Tokens(1).eval().double(), torch.rand(1, 3, SIDE, SIDE, dtype=torch.float64)
    probe = Probe(SplitModel(module, "blocks.1", mean=HALF, std=HALF), images)
    regions = torch.zeros(2, SIDE // PATCH, SIDE // PATCH, dtype=torch.bool)
    regions[0, 1, 2], regions[1, 3:, :2] = True, True

    def score(region: Tensor | None) -> float:
        def hook(_part, _args, out):
            out = out.clone()
            if region is not None:
                out[:, 1:][:, region.flatten()] = 0
            return out

        handle = module.blocks[1].register_forward_hook(hook)
        with torch.no_grad():
            value = float(module((images - 0.5) / 0.5)[0, probe.targets[0]])
        handle.remove()
        return value

    expected = [score(None) - score(region) for region in regions]
    assert probe.region_drops(regions)[0].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
