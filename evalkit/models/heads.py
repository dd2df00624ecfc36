"""A network with a new last layer, for classes other than those that it was trained for."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from evalkit.errors import UserError, first_line
from evalkit.imports import find

_RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.Softplus, nn.Sigmoid, nn.Softmax, nn.LogSoftmax)
"""Modules whose outputs have one sign, or are normalised: behind the last layer they would distort scores of a sigmoid."""


@dataclass
class Ending:
    """The last layer that a network calls: a Linear, or a convolution of 1x1 as SqueezeNet has."""

    head: str = ""
    without: list[str] = field(default_factory=list)
    """Modules behind it that are replaced by the identity: behind a ReLU a sigmoid is never below one half."""


def find_ending(module: nn.Module, run: Callable[[nn.Module], object]) -> Ending:
    """Return how a network ends; `run` passes an image through it. Raises UserError where it ends in no such layer, or calls it twice."""
    found, calls = Ending(), dict[str, int]()

    def note(name: str, part: nn.Module) -> Callable[..., None]:
        def called(*_: object) -> None:
            calls[name] = calls.get(name, 0) + 1
            if isinstance(part, _RECTIFIERS):
                found.without.append(name)
            else:
                found.head, found.without = name, []

        return called

    with ExitStack() as hooks, torch.no_grad():
        for name, part in module.named_modules():
            pointwise = isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1) and part.groups == 1
            if isinstance(part, (nn.Linear, *_RECTIFIERS)) or pointwise:
                hooks.enter_context(part.register_forward_hook(note(name, part)))
        run(module)
    called = type(module).__name__
    if not found.head:
        raise UserError(f"{called} calls no Linear and no 1x1 convolution by a name, so it has no last layer to replace")
    if calls[found.head] > 1:
        raise UserError(f"{called} calls its last layer '{found.head}' {calls[found.head]} times, so it cannot be replaced")
    return found


def replace_head(module: nn.Module, head: str, outputs: int, without: Sequence[str] = ()) -> nn.Module:
    """Put a new last layer of the same kind with `outputs` outputs in the place of `head`; return it.

    Raises UserError: no such layer, or one of another kind.
    """
    old = dict(module.named_modules()).get(head)
    if not isinstance(old, nn.Linear | nn.Conv2d):
        raise UserError(f"{type(module).__name__} has no Linear or convolution '{head}' to replace")
    like: dict[str, Any] = {"device": old.weight.device, "dtype": old.weight.dtype}
    new = (
        nn.Linear(old.in_features, outputs, **like)
        if isinstance(old, nn.Linear)
        else nn.Conv2d(old.in_channels, outputs, 1, old.stride, old.padding, **like)  # type: ignore[arg-type]
    )
    module.set_submodule(head, new)
    for name in without:
        module.set_submodule(name, nn.Identity())
    return new


def with_outputs(factory: str, args: Mapping[str, Any], head: str, outputs: int, without: Sequence[str] = ()) -> nn.Module:
    """Build the network of a factory with a new last layer, as a model's yaml file names it:

    `factory: evalkit.models.heads.with_outputs`, `args: {factory: torchvision.models.vgg16, args: {}, head: classifier.6, outputs: 20}`.
    Raises UserError as `replace_head` does.
    """
    module: nn.Module = find(factory, "model.args.factory")(**args)
    replace_head(module, head, outputs, without)
    return module


def check_scores(scores: Callable[[nn.Module], Tensor], module: nn.Module, head: nn.Module, outputs: int) -> None:
    """Check that scores (N,outputs) are those of the new last layer, of either sign. Raises UserError where they are not.

    `scores` computes the network's scores of some images.
    """
    called, bias = type(module).__name__, head.bias
    assert isinstance(bias, Tensor)
    with torch.no_grad():
        before = bias.clone()
        try:
            ends = []
            for shift in (-1e4, 1e4):
                bias.copy_(before + shift)
                ends.append(scores(module))
        except RuntimeError as reason:
            raise UserError(
                f"{called} cannot process an image since its last layer has {outputs} outputs ({first_line(reason)}): it has another head "
                "beside it"
            ) from reason
        finally:
            bias.copy_(before)
    if ends[0].dim() != 2 or ends[0].shape[1] != outputs:
        raise UserError(
            f"{called} has scores {tuple(ends[0].shape)} after its last layer got {outputs} outputs: it has another head beside it"
        )
    if not (bool((ends[0] < 0).all()) and bool((ends[1] > 0).all())):
        raise UserError(f"{called} changes the scores behind its last layer, so that they do not take either sign, as a sigmoid needs")
