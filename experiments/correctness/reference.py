"""What the scripts of this folder share: networks and images to measure on, brute-force drops, and a comparison of maps.

equations.py holds the other reference, the methods written from their equations.
"""

import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from evalkit import SplitModel, protocol
from evalkit.config.compose import compose_jobs
from evalkit.data.decode import decode
from evalkit.models import zoo

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CONF = Path(__file__).parents[1] / "conf"
NETWORKS = {
    "squeezevgg10": ("squeezevgg10", "squeezevgg10_imagenette", "imagenette224"),
    "mobilenet_v2": ("mobilenet_v2_half", "mobilenet_v2_imagenet", "imagenet_val_acuity"),
    "mobilenet_v3_small": ("mobilenet_v3_small_half", "mobilenet_v3_small_imagenet", "imagenet_val_acuity"),
    "squeezenet1_0": ("squeezenet1_0_227", "squeezenet1_0_imagenet", "imagenet_val_acuity"),
    "cifar_vgg6": ("cifar_vgg6", "cifar_vgg6_fc", "cifar10_test"),
    "cifar_resnet20": ("cifar_resnet20", "cifar_resnet20", "cifar10_test"),
}
"""Networks with real weights: file in experiments/conf/model, weights in DATA/weights, images in DATA."""


@dataclass(frozen=True)
class Case:
    """A torchvision network cut at a layer. `size` is the side of the input in the full check, `small` in the tests."""

    model: str
    layer: str
    size: int = 224
    small: int = 64
    args: dict[str, Any] = field(default_factory=dict)


def randomised(case: Case, dtype: torch.dtype, seed: int = 0) -> nn.Module:
    """Return the network with random weights and random BatchNorm statistics, in eval mode."""
    torch.manual_seed(seed)
    module = getattr(torchvision.models, case.model)(weights=None, **case.args).eval()
    randomise_norms(module)
    return module.to(dtype)


def randomise_norms(module: nn.Module) -> None:
    """Give every BatchNorm random statistics and affine parameters; the default ones make g(0) = 0 and would hide errors."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, 0, 0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.3)


def real(name: str, data: Path, count: int) -> tuple[SplitModel, Tensor]:
    """Load a network with real weights, and `count` images (N,3,H,W) in [0,1], spread over its data set."""
    model_file, weights, folder = NETWORKS[name]
    sys.path.insert(0, str(data / "weights"))
    overrides = [f"model={model_file}", f"model.weights={data / 'weights' / weights}.safetensors"]
    model = zoo.load(compose_jobs(overrides, conf=CONF)[0].config.model, torch.device("cpu"))
    files = sorted(file for file in (data / folder / "images").rglob("*") if file.suffix in (".JPEG", ".jpg"))
    images = [model.preprocess(decode(file)) for file in files[:: max(1, len(files) // count)][:count]]
    return model.net, torch.stack(images).float() / 255


def in_float64(net: SplitModel) -> SplitModel:
    """Return a copy of the network in double precision."""
    return SplitModel(copy.deepcopy(net.module).double(), net.layer, mean=net.mean.flatten().tolist(), std=net.std.flatten().tolist())


def randomise_constants(module: nn.Module) -> None:
    """Change parameters whose values are all the same, such as heads of zeros and norms of ones, which would hide errors."""
    for parameter in module.parameters():
        if parameter.numel() and bool((parameter == parameter.flatten()[0]).all()):
            parameter.data += 0.2 * torch.randn_like(parameter)


def brute_force_drops(
    module: nn.Module, layer: str, normalised: Tensor, targets: Tensor, channels: Sequence[int], prefix: int = 0, last: bool = False
) -> Tensor:
    """Return y - y^k (N,len(channels)): one pass of the whole network for every channel, which a hook sets to zero.

    `layer` may name one of several outputs, as in `blocks.10:1`. An output with three axes is tokens (N,T,K), of which the first
    `prefix` keep their values; `last` says that one with four axes is channels last.
    """
    name, _, place = layer.partition(":")

    def scores() -> Tensor:
        with torch.no_grad():
            return module(normalised).gather(1, targets[:, None])[:, 0]

    def zeroed(out: Tensor, channel: int) -> Tensor:
        out = out.clone()
        if out.dim() == 3:
            out[:, prefix:, channel] = 0
        elif last:
            out[..., channel] = 0
        else:
            out[:, channel] = 0
        return out

    def ablate(channel: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, out: Any) -> Any:
            if not isinstance(out, tuple | list):
                return zeroed(out, channel)
            at = int(place) if place else next(i for i, value in enumerate(out) if isinstance(value, Tensor))
            return type(out)(zeroed(value, channel) if i == at else value for i, value in enumerate(out))

        return hook

    full, drops = scores(), []
    for channel in channels:
        handle = module.get_submodule(name).register_forward_hook(ablate(channel))
        drops.append(full - scores())
        handle.remove()
    return torch.stack(drops, dim=1)


class ZeroedResult(TorchFunctionMode):
    """Sets a channel to zero in the result of every torch function that equals `activations` (N,K,h,w), float64, up to rounding."""

    def __init__(self, activations: Tensor, channel: int) -> None:
        super().__init__()
        self.activations, self.channel, self.found = activations, channel, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, and change its result where it is the layer's output."""
        result = func(*args, **(kwargs or {}))
        if (
            isinstance(result, Tensor)
            and result.shape == self.activations.shape
            and torch.allclose(result, self.activations, rtol=1e-9, atol=0)
        ):
            self.found += 1
            result = result.clone()
            result[:, self.channel] = 0
        return result


def brute_force_drops_of_function(
    module: nn.Module, activations: Tensor, normalised: Tensor, targets: Tensor, channels: Sequence[int]
) -> Tensor:
    """Return y - y^k (N,len(channels)) as above, for a layer that is the output of a function, which takes no hook."""
    with torch.no_grad():
        full, drops = module(normalised).gather(1, targets[:, None])[:, 0], []
        for channel in channels:
            with ZeroedResult(activations, channel) as zeroed:
                drops.append(full - module(normalised).gather(1, targets[:, None])[:, 0])
            assert zeroed.found, "no function of the network returns the layer's output"
    return torch.stack(drops, dim=1)


def compare(ours: Tensor, theirs: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the largest difference and the correlation of two sets of maps, each (N,).

    The maps (N,h,w) are upsampled to `size` and min-max normalised first. The correlation is nan where both maps are constant.
    """
    forms = []
    for maps in (ours, theirs):
        large = protocol.upsample(maps.double(), size) if maps.shape[1:] != size else maps.double()
        # Where every unit of a head is dead, one way of computing a map gives exact zeros and another rounding errors.
        constant = large.amax((1, 2)) - large.amin((1, 2)) <= 1e-12 * large.abs().amax()
        forms.append(torch.where(constant[:, None, None], 0, protocol.soft_mask(large)).flatten(1))
    first, second = (form - form.mean(1, keepdim=True) for form in forms)
    norms = first.norm(dim=1) * second.norm(dim=1)
    correlation = torch.where(norms > 0, (first * second).sum(1) / norms.clamp(min=1e-300), 0)
    both_constant = (first.norm(dim=1) == 0) & (second.norm(dim=1) == 0)
    return (forms[0] - forms[1]).abs().amax(1), torch.where(both_constant, torch.nan, correlation)
