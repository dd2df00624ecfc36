"""Random small networks as people write them, and what must become of each: right numbers, or a refusal."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ODD_NAMES = (
    "meta",
    "graph",
    "code",
    "_graph",
    "recompile",
    "class",
    "lambda",
    "module",
    "network",
    "print_readable",
    "T",
    "features",
    "relu_1",
)
ACTIVATIONS = (nn.ReLU, lambda: nn.ReLU(inplace=True), nn.GELU, nn.SiLU, lambda: nn.LeakyReLU(0.1, inplace=True), nn.Softplus)
SIDE = 12


class Step(nn.Module):
    """One operation (N,c,h,w) -> (N,c,h,w); `kind` says which."""

    def __init__(self, kind: str, c: int, rng: random.Random) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(c, c, rng.choice([1, 3]), padding="same", bias=rng.random() < 0.5)
        self.norm = rng.choice([nn.Identity, lambda: nn.BatchNorm2d(c), lambda: nn.GroupNorm(2, c)])()
        self.act = rng.choice(ACTIVATIONS)()
        self.mix = nn.Conv2d(2 * c, c, 1)
        self.register_buffer("scale", torch.rand(1, c, 1, 1) + 0.5)

    def block(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))

    def forward(self, x: Tensor) -> Tensor:
        return STEPS[self.kind](self, x)


def _in_place_sum(step: Step, x: Tensor) -> Tensor:
    y = step.norm(step.conv(x))
    y += x
    return step.act(y)


def _skipping(step: Step, x: Tensor) -> Tensor:
    return step.block(x) if x.shape[2] > 2 else x


def _by_index(step: Step, x: Tensor) -> Tensor:
    y = step.block(x).clone()
    y[:, 0] = 0.5 * y[:, 0]
    return y


STEPS: dict[str, Callable[[Step, Tensor], Tensor]] = {
    "plain": lambda s, x: s.block(x),
    "residual": lambda s, x: x + s.block(x),
    "in-place residual": _in_place_sum,
    "concat": lambda s, x: s.mix(torch.cat([x, s.block(x)], dim=1)),
    "shared": lambda s, x: s.conv(F.relu(s.conv(x))),
    "buffer": lambda s, x: s.block(x) * s.scale,
    "gate": lambda s, x: x * s.block(x).mean((2, 3), keepdim=True).sigmoid(),
    "dropout": lambda s, x: F.dropout(s.block(x), 0.5, training=s.training),
    "pool": lambda s, x: F.avg_pool2d(s.block(x), 3, 1, 1),
    "split": lambda s, x: torch.cat(list(s.block(x).chunk(2, dim=1))[::-1], dim=1),
    "by shape": _skipping,
    "by index": _by_index,
    "functional in place": lambda s, x: F.relu_(s.norm(s.conv(x))),
    "in-place arithmetic": lambda s, x: s.norm(s.conv(x)).mul_(0.7).add_(0.1),
    "channels last": lambda s, x: s.block(x).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
}

HEADS: dict[str, Callable[[int, int], nn.Module]] = {
    "pooled": lambda c, n: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, n)),
    "flat": lambda c, n: nn.Sequential(nn.Flatten(), nn.Linear(c * SIDE * SIDE, 9), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(9, n)),
    "convolution": lambda c, n: nn.Sequential(nn.Conv2d(c, n, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "normalised": lambda c, n: nn.Sequential(nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.LayerNorm(4 * c), nn.Linear(4 * c, n)),
    "two layers": lambda c, n: nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 6), nn.Tanh(), nn.Linear(6, n, bias=False)
    ),
}


@dataclass
class Drawn:
    """A network, the layer to explain, and why it must be refused, where it must."""

    net: nn.Module
    layer: str
    facts: list[str] = field(default_factory=list)
    refused_for: str | None = None


class RandomNet(nn.Module):
    """Steps under odd names, a head, and a habit in `forward`."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        c, classes = rng.choice([4, 6]), rng.choice([2, 3, 7])
        self.stem = nn.Conv2d(3, c, 3, padding=1)
        self.names = rng.sample(ODD_NAMES, rng.randint(1, 3))
        kinds = [rng.choice(list(STEPS)) for _ in self.names]
        for name, kind in zip(self.names, kinds, strict=True):
            self.add_module(name, Step(kind, c, rng))
        head = rng.choice(list(HEADS))
        self.head = HEADS[head](c, classes)
        self.register_buffer("temperature", torch.tensor(1.5))
        self.register_buffer("off", torch.where(torch.arange(classes) == classes - 1, -torch.inf, 0.0))
        self.habit = rng.choice(list(HABITS))
        self.facts = [*kinds, head, self.habit]

    def body(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for name in self.names:
            x = self.get_submodule(name)(x)
        return x

    def forward(self, x, labels=None, return_features=False):
        return HABITS[self.habit][0](self, x)


def _branching(net: RandomNet, x: Tensor) -> Tensor:
    z = net.head(net.body(x))
    return z * 2 if float(x.sum()) > 1e9 else z


def _early(net: RandomNet, x: Tensor) -> Tensor:
    a = net.body(x)
    if bool((a > 1e9).any()):
        return a.flatten(1)[:, : net.off.numel()]
    return net.head(a)


def _loop(net: RandomNet, x: Tensor) -> Tensor:
    return torch.cat([net.head(net.body(one[None])) for one in x])


def _looping_head(net: RandomNet, x: Tensor) -> Tensor:
    a = net.body(x)
    return torch.cat([net.head(a[i : i + 1]) for i in range(len(a))])


def _numbers(net: RandomNet, x: Tensor) -> Tensor:
    a = net.body(x)
    return net.head(a) + 0 * float(a.shape[0])


HABITS: dict[str, tuple[Callable[[RandomNet, Tensor], object], str | None]] = {
    "as usual": (lambda net, x: net.head(net.body(x)), None),
    "temperature": (lambda net, x: net.head(net.body(x)) / net.temperature, None),
    "masked classes": (lambda net, x: net.head(net.body(x)) + net.off, None),
    "auxiliary in training": (lambda net, x: (net.head(net.body(x)), x) if net.training else net.head(net.body(x)), None),
    "branch on data": (_branching, None),
    "early return": (_early, None),
    "loop over the head": (_looping_head, None),
    "python numbers": (_numbers, None),
    "changes its input": (lambda net, x: net.head(net.body(x.mul_(0.5))) + x.mean((1, 2, 3))[:, None], None),
    "asserts": (lambda net, x: net.head(net.body(x)) if x.shape[1] == 3 else 1 / 0, None),
    "view with the batch": (lambda net, x: net.head(net.body(x).view(x.shape[0], -1, SIDE, SIDE)).view(x.size(0), -1), None),
    "loop over images": (_loop, "several calls"),
    "dictionary": (lambda net, x: {"logits": net.head(net.body(x))}, None),
    "tuple": (lambda net, x: (net.head(net.body(x)), x), "outputs"),
    "per image vector": (lambda net, x: net.head(net.body(x))[:, 0], None),
    "dropout that stays": (lambda net, x: F.dropout(net.head(net.body(x)), 0.5), "random"),
    "noise": (lambda net, x: net.head(net.body(x) + torch.rand_like(x[:, :1])), "random"),
    "batch statistics": (lambda net, x: net.head(net.body(x - 5 * x.mean(0, keepdim=True))), "batch"),
    "softmax": (lambda net, x: net.head(net.body(x)).softmax(1), "probabilities"),
    "sigmoid": (lambda net, x: torch.sigmoid(net.head(net.body(x))), "probabilities"),
    "mirrored": (lambda net, x: net.head(net.body(torch.cat([x, x.flip(3)]))).view(2, len(x), -1).mean(0), "several maps"),
}
"""What `forward` does with a batch, and why the network must be refused."""


def draw(seed: int) -> Drawn:
    """Make the network of a seed."""
    rng = random.Random(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = RandomNet(rng)
        for part in net.modules():  # as after training
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.uniform_(-0.5, 0.5)
                part.running_var.uniform_(0.5, 2)
    name = rng.choice(net.names)
    layer = rng.choice([name, name, f"{name}.act"])
    kind = net.get_submodule(name).kind
    if layer.endswith("act") and kind in ("shared", "functional in place", "in-place arithmetic"):
        layer = name
    return Drawn(net.double(), layer, [f"layer {layer}", *net.facts], HABITS[net.habit][1])
