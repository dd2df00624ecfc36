"""The convolutions of a network, in the order in which they process an image."""

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def convolutions(module: nn.Module, images: Tensor) -> dict[str, nn.Conv2d]:
    """Return the two-dimensional convolutions that images (N,C,H,W) pass, by name, in the order of their first call.

    `module` is in eval mode. The embedding of a vision transformer's patches is such a convolution. Raises what the module raises.
    """
    found: dict[str, nn.Conv2d] = {}

    def keep(name: str, part: nn.Module, _inputs: Any) -> None:
        assert isinstance(part, nn.Conv2d)
        found.setdefault(name, part)

    with ExitStack() as hooks, torch.no_grad():
        for name, part in module.named_modules():
            if isinstance(part, nn.Conv2d):
                hooks.enter_context(part.register_forward_pre_hook(partial(keep, name)))
        module(images)
    return found
