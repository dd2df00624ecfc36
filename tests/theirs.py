"""Methods and networks as a user has them: tests name them by their dotted paths."""

import threading

import torch
from builders import TinyFC, TinyGAP

from evalkit import methods
from evalkit.errors import UserError
from evalkit.imports import find
from evalkit.methods import postprocess


def divides_by_zero(probe):
    return probe.activations.sum(1) / (1 // 0)


def greedy_cam(probe):
    """Runs out of memory when more than two images are explained at once, and after others have written rows."""
    if len(probe.images) > 2:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    return probe.activations.sum(1)


calls = []


def counted(probe, power=1.0):
    """Weights in float64, as somebody's method may have them."""
    calls.append(len(probe.images))
    weights = probe.gradients.double().mean((2, 3)) ** power
    return torch.einsum("nk,nkhw->nhw", weights, probe.activations.double())


def shuffled_grad_cam(probe):
    return postprocess.shuffled(methods.grad_cam(probe), probe)


def blurred_grad_cam(probe):
    return postprocess.blurred(methods.grad_cam(probe), probe)


def zeroed(maps, _probe):
    """A control that writes into what it is given."""
    return maps.zero_()


def bad_control(maps, probe):
    return maps * probe.pixels


def flat(maps, _probe):
    return maps.flatten(1)


class LooksAtItself(TinyGAP):
    """A constructor that reads its own numbers, which the meta device has not."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = float(torch.ones(1).sum())


class MaskedClasses(TinyFC):
    """Excludes its last two classes with -inf, as where only part of a network's classes belong to a task."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("off", torch.tensor([0, 0, 0, -torch.inf, -torch.inf]))

    def forward(self, x):
        return super().forward(x) + self.off


class OneImageOnly(TinyGAP):
    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)).view(1, -1))


class Probabilities(TinyFC):
    def forward(self, x):
        return super().forward(x).softmax(1)


def with_weights_of_its_own():
    module = TinyFC()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(0.5)
    return module


def trained_with_noise():
    """Loads its weights itself, and has a buffer of noise."""
    module = with_weights_of_its_own()
    module.classifier[1].weight.data[0, 0] = 2.0
    module.register_buffer("noise", torch.rand(3))
    return module


def trained_but_for_its_head():
    module = TinyGAP()
    for value in module.features.state_dict().values():
        value.copy_(torch.arange(value.numel()).view_as(value))
    return module


class ExtraState(TinyFC):
    def get_extra_state(self):
        return {"epoch": 3}

    def set_extra_state(self, state):
        pass


def quantised():
    return torch.ao.quantization.quantize_dynamic(TinyFC(), {torch.nn.Linear}, dtype=torch.qint8)


def on_meta():
    with torch.device("meta"):
        return TinyGAP()


class Lazy(TinyGAP):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.LazyLinear(5)


class WithoutParameters(torch.nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


class RandomBuffersOnly(WithoutParameters):
    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.rand(3))


def lacks_its_checkpoint():
    raise FileNotFoundError("no such checkpoint")


class BatchStatistics(TinyGAP):
    def __init__(self):
        super().__init__()
        self.features[1] = torch.nn.BatchNorm2d(8, track_running_stats=False)


class Locked(TinyFC):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


def bad_shape(probe):
    return probe.activations


def vandal(probe, name):
    return getattr(probe, name).mul_(2).sum(1)


class Callable:
    def __call__(self, probe):
        return probe.activations.sum(1)


an_object = Callable()


noted: list[str] = []
"""The methods below that were called, in order."""


def noted_counted(probe):
    noted.append("counted")
    return probe.activations.mean(1)


def noted_failing(probe):
    noted.append("failing")
    raise ValueError("no\nmap")


def noted_nan_map(probe):
    return torch.full_like(probe.activations[:, 0], torch.nan)


def noted_vandal(probe):
    with torch.no_grad():
        next(probe.net.module.parameters()).zero_()
    return probe.activations.mean(1)


def named(probe, inner):
    """Takes another method by its dotted name."""
    return find(inner, "inner")(probe)


def of_the_image(probe):
    """A map that does not depend on the layer, and says so."""
    return probe.images.mean(1)


of_the_image.layer_free = True


def fails_at_large_maps(probe):
    if probe.activations.shape[2] > 8:
        raise UserError("the maps are too large for this method")
    return probe.activations.sum(1)


class Dictionary(torch.nn.Module):
    """Its logits are one part of a dict."""

    def __init__(self, classes=5):
        super().__init__()
        self.body = TinyFC(classes)

    def forward(self, x):
        return {"out": self.body(x)}


def dictionary(classes=5):
    return Dictionary(classes)


def doubled(logits):
    return 2 * logits


def around_its_median(values):
    """Moves the numbers of a small random network so that they have both signs."""
    return values - 0.05


def for_64():
    """A network for images of 64 x 64 pixels and no other size."""
    net = TinyFC()
    net.classifier[1] = torch.nn.Linear(8 * 32 * 32, 32)
    return net


class TopRows(torch.nn.Module):
    """Sees its first class where the first three rows of 16 x 16 pixels are bright; the others do not matter."""

    def __init__(self):
        super().__init__()
        self.features, self.fc = torch.nn.Conv2d(3, 2, 1), torch.nn.Linear(2 * 256, 5)
        for parameter in self.parameters():
            torch.nn.init.zeros_(parameter)
        torch.nn.init.constant_(self.features.weight, 1 / 3)
        self.fc.weight.data[0].view(2, 16, 16)[:, :3] = 5 / 96

    def forward(self, x):
        return self.fc(self.features(x).flatten(1))
