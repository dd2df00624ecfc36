"""Networks so small that each method's map can be derived by hand, and the inputs at which axioms.py asks for it.

Channel k of the activations is colour k of the normalised image, on 4 x 4 cells; a, b and n are sums of a
channel over its cells, p and q values of one channel at one cell.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit import methods
from evalkit.evaluation.apply import Method
from evalkit.models.split import SplitModel
from evalkit.probe import Probe

SIDE, RANGE = 4, 4.0
"""Side of image and map; normalised images lie in [0, RANGE]."""


A, B = [(0, 0, 1)], [(1, 3, 2)]
"""Cells of the units a and b or n: channel, row, column."""


class Saturating(nn.Module):
    """y = 1 - ReLU(1 - a), or 1 - ReLU(1 - a - b) of two `units` (Sundararajan et al. 2017, section 2.1)."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.units = units

    def forward(self, activations: Tensor) -> Tensor:
        """Map activations (N,3,h,w) to scores (N,)."""
        return 1 - F.relu(1 - activations[:, : self.units].sum((1, 2, 3)))


class Largest(nn.Module):
    """y = max(a, b)."""

    def forward(self, activations: Tensor) -> Tensor:
        """Map activations (N,3,h,w) to scores (N,)."""
        sums = activations.sum((2, 3))
        return torch.maximum(sums[:, 0], sums[:, 1])


class OneCell(nn.Module):
    """y = p, channel 0 at one cell, as a fully connected layer may read it."""

    def forward(self, activations: Tensor) -> Tensor:
        """Map activations (N,3,h,w) to scores (N,)."""
        (channel, row, column), *_ = A
        return activations[:, channel, row, column]


class Toy(nn.Module):
    """One 1 x 1 convolution that copies the colours, ReLU, and a score y; its two logits are y and -y."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU())
        self.features[0].weight.data = torch.eye(3)[:, :, None, None]
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (N,3,h,w) to logits (N,2)."""
        y = self.head(self.features(x))
        return torch.stack((y, -y), 1)


class Pooled(nn.Module):
    """y = slope a + bias: global average pooling and one linear layer, of which only channel 0 has a weight; logits y and -y."""

    def __init__(self, slope: float, bias: float) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU())
        self.features[0].weight.data = torch.eye(3)[:, :, None, None]
        self.fc = nn.Linear(3, 2)
        self.fc.weight.data = slope * SIDE**2 * torch.tensor([[1.0, 0, 0], [-1, 0, 0]])
        self.fc.bias.data = bias * torch.tensor([1.0, -1])

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (N,3,h,w) to logits (N,2)."""
        return self.fc(self.features(x).mean((2, 3)))


@dataclass(frozen=True)
class Case:
    """A network at one input. `players` gives by name the cells (channel, row, column) and the value of each of them."""

    axiom: str
    network: str
    module: nn.Module
    players: dict[str, tuple[list[tuple[int, int, int]], float]]

    def probe(self) -> Probe:
        """Return the probe of the input, in float64; it explains y."""
        net = SplitModel(self.module.double().eval(), "features", mean=(0.0,) * 3, std=(1 / RANGE,) * 3, grid="maps")
        image = torch.zeros(1, 3, SIDE, SIDE, dtype=torch.float64)
        for cells, value in self.players.values():
            for cell in cells:
                image[(0, *cell)] = value / RANGE
        return Probe(net, image, targets=[0])

    def methods(self, names: Iterable[str]) -> list[str]:
        """Return those of the named methods that are defined here: CAM needs global average pooling and one linear layer."""
        return [name for name in names if name != "cam" or isinstance(self.module, Pooled)]

    def values(self, method: Method) -> dict[str, float]:
        """Return the sum of a method's map over each player's cells."""
        found = method(self.probe())[0]
        return {name: float(sum(found[row, column] for _, row, column in cells)) for name, (cells, _) in self.players.items()}


CASES = (
    Case("sensitivity", "1 - ReLU(1 - a) at a = 2", Toy(Saturating(1)), {"a": (A, 2.0)}),
    Case("sensitivity", "1 - ReLU(1 - a) at a = 0.5", Toy(Saturating(1)), {"a": (A, 0.5)}),
    Case("sensitivity", "1 - a at a = 0.5", Pooled(-1, 1), {"a": (A, 0.5)}),
    Case("null player", "a at a = 1, n = 1.5", Pooled(1, 0), {"a": (A, 1.0), "n": (B, 1.5)}),
    Case("null player", "p at p = q = 1, two cells of one channel", Toy(OneCell()), {"p": (A, 1.0), "q": ([(0, 3, 2)], 1.0)}),
    Case("redundant units", "1 - ReLU(1 - a - b) at a = 1, b = 1.5", Toy(Saturating(2)), {"a": (A, 1.0), "b": (B, 1.5)}),
    Case("redundant units", "max(a, b) at a = b = 1", Toy(Largest()), {"a": (A, 1.0), "b": ([*B, (1, 3, 3)], 0.5)}),
)

METHODS: dict[str, Method] = {
    **{name: getattr(methods, name) for name in ("cam", "grad_cam", "grad_cam_pp", "xgrad_cam", "hires_cam", "layer_cam")},
    "ablation_cam": methods.ablation_cam,
    "ablation_cam_norm": partial(methods.ablation_cam, normalise="norm"),
    **{name: getattr(methods, name) for name in ("spatial_ablation", "ablated_input_cam", "score_cam", "eigen_cam")},
    **{name: getattr(methods, name) for name in ("gradient", "guided_backprop", "integrated_gradients", "occlusion")},
}
"""The methods without controls and products."""

HAND_SIZED = METHODS | {"occlusion": partial(methods.occlusion, window=1, stride=1)}
"""The same, with squares that fit images of 4 x 4."""
