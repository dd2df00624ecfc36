"""What a network tells, while one image passes through it, of how its outputs lie; `evalkit.models.grid` decides with it."""

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import pooling
from torch.nn.modules.batchnorm import _BatchNorm

from evalkit.errors import cause
from evalkit.models.outlets import placed, weighted_sum

log = logging.getLogger(__name__)

_PREFIX_PARAMETERS = {
    "cls_token", "class_token", "class_embedding", "dist_token", "distillation_token", "reg_token", "register_tokens", "reg_tokens",
}  # fmt: skip
"""Names under which networks keep the values with which prefix tokens begin."""

_MAPS = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, pooling.AdaptiveAvgPool2d, pooling.AdaptiveMaxPool2d)
"""Modules that put out maps, channels first."""

_SEQUENCES = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.Unfold)
"""Modules whose output (N,K,T) has its channels first."""


@dataclass(frozen=True)
class Evidence:
    """Sizes that a network's modules put out, and which of its tokens its outputs depend on."""

    said: int | None = None
    """The number of prefix tokens that the network says it has (see `prefix_tokens`)."""
    sizes: frozenset[tuple[int, int]] = frozenset()
    """Height and width of the maps that convolutions and poolings put out."""
    channels: frozenset[int] = frozenset()
    """Numbers of channels of convolutions and normalisations."""
    counts: tuple[int, ...] = ()
    """Sizes T of all outputs (N,T,K), each once, in the order of the data."""
    reads_last: bool = False
    """Whether a LayerNorm or a linear layer takes the last of four axes for the channels."""
    read: Callable[[], Mapping[int, tuple[bool, ...]]] = dict
    """By T: which tokens of the last output (N,T,K) that is not read as a whole influence the network's outputs; found when asked."""
    fixed: Mapping[int, tuple[bool, ...]] = field(default_factory=dict)
    """By T: which tokens of the first output (N,T,K) are the same for two images, as a class token is before the first attention."""

    def behind(self, tokens: int, extra: int) -> bool:
        """Return whether the `extra` of so many tokens lie behind the grid: they alone are the same for two images.

        Where no tokens are, or all, the last output tells: of it they alone are read, or alone are not.
        """
        fixed = self.fixed.get(tokens)
        if fixed is not None and extra:
            return all(fixed[-extra:]) and not any(fixed[:-extra])
        read = self.read().get(tokens) if extra else None
        if read is None:
            return False
        grid, last = read[:-extra], read[-extra:]
        return (any(last) and not any(grid)) or (all(grid) and not any(last))


def prefix_tokens(module: nn.Module) -> int | None:
    """Return how many prefix tokens a network says that it has: timm's `num_prefix_tokens`, else its parameters by their names.

    None where it says nothing. Parameters are (1,p,K), (1,1,p,K) or (K,), as in the vision transformers of torchvision (`class_token`)
    and Hugging Face (`cls_token`, `distillation_token`, `register_tokens`). One name in several stages counts once.
    """
    said = getattr(module, "num_prefix_tokens", None)
    if isinstance(said, int):
        return said
    found: dict[str, int] = {}
    for name, value in module.named_parameters():
        own = name.rpartition(".")[2]
        if own in _PREFIX_PARAMETERS:
            found[own] = max(found.get(own, 0), value.numel() // value.shape[-1])
    return sum(found.values()) if found else None


def lies(part: nn.Module | None, size: torch.Size) -> str | None:
    """Return "first" or "last" where the kind of a module says which axis of its output are the channels, else None."""
    if isinstance(part, (*_MAPS, *_SEQUENCES, _BatchNorm, nn.GroupNorm)):
        return "first"
    if isinstance(part, nn.LayerNorm) and tuple(part.normalized_shape) == (size[-1],):
        # Subclasses for maps permute their input, so that their number of channels is that of the second axis.
        return "last" if type(part) is nn.LayerNorm or size[1] != size[-1] else None
    return "last" if len(size) == 4 and isinstance(part, nn.Linear) else None


class _Watch:
    """Collects evidence in forward hooks."""

    def __init__(self, images: int) -> None:
        self.images = images
        self.sizes: set[tuple[int, int]] = set()
        self.channels: set[int] = set()
        self.tokens: list[Tensor] = []
        self.reads_last = False

    def __call__(self, part: nn.Module, _args: object, out: Any) -> None:
        for _, tensor in placed(out):
            if tensor.dim() not in (3, 4) or len(tensor) != self.images:
                continue
            if tensor.dim() == 3 and lies(part, tensor.shape) != "first":
                self.tokens.append(tensor)
            if tensor.dim() == 4 and isinstance(part, _MAPS):
                self.sizes.add((tensor.shape[2], tensor.shape[3]))
            self.reads_last |= tensor.dim() == 4 and lies(part, tensor.shape) == "last"
        for name in ("out_channels", "num_features", "num_channels"):
            if isinstance(part, (*_MAPS, *_SEQUENCES, _BatchNorm, nn.GroupNorm)) and isinstance(getattr(part, name, None), int):
                self.channels.add(getattr(part, name))
        if isinstance(part, nn.LayerNorm):
            self.channels.add(part.normalized_shape[-1])


def observe(module: nn.Module, images: Tensor, picked: Callable[[Any], Any] = lambda outputs: outputs) -> Evidence:
    """Run a network once and return what it tells: of two images, the first one and its negative, mirrored.

    Args:
        module: The network in eval mode; it is not changed.
        images: (N,C,H,W), normalised, on its device, of which the first is taken; on the meta device only shapes are found.
        picked: Makes scores of what the module returns, or picks the part that is scored.

    Raises:
        Exception: whatever the module raises.
    """
    images = torch.cat([images[:1], -images[:1].flip(3)]).detach()
    with torch.no_grad():
        watch, _ = _watched(module, images, picked)
    counts = tuple(dict.fromkeys(tensor.shape[1] for tensor in watch.tokens))
    evidence = prefix_tokens(module), frozenset(watch.sizes), frozenset(watch.channels), counts, watch.reads_last
    if images.is_meta:
        return Evidence(*evidence)
    # Gradients take the memory of all outputs, and most networks tell without them.
    return Evidence(*evidence, cache(lambda: _read(module, images, picked)), _fixed(watch.tokens))


def _watched(module: nn.Module, images: Tensor, picked: Callable[[Any], Any]) -> tuple[_Watch, Tensor]:
    """Return what was seen in one pass, and one number that depends on all scores."""
    watch = _Watch(len(images))
    with ExitStack() as hooks:
        for part in module.modules():
            hooks.enter_context(part.register_forward_hook(watch))
        return watch, weighted_sum(picked(module(images.clone())))


def _fixed(tokens: list[Tensor]) -> dict[int, tuple[bool, ...]]:
    fixed: dict[int, tuple[bool, ...]] = {}
    for tensor in tokens:
        same = (tensor[0] == tensor[1]).all(1).tolist()
        if any(same) and not all(same):
            fixed.setdefault(len(same), tuple(same))
    return fixed


@torch.enable_grad()
def _read(module: nn.Module, images: Tensor, picked: Callable[[Any], Any]) -> dict[int, tuple[bool, ...]]:
    watch, total = _watched(module, images.clone().requires_grad_(), picked)
    tokens = [tensor for tensor in reversed(watch.tokens) if tensor.requires_grad]
    if not tokens or not total.requires_grad:
        return {}
    try:
        gradients = torch.autograd.grad(total, tokens, allow_unused=True)
    except RuntimeError as reason:  # some operations have no gradient
        log.info("which tokens are read is not known: %s", cause(reason))
        return {}
    read: dict[int, tuple[bool, ...]] = {}
    for gradient in gradients:
        if gradient is not None:
            found = (gradient != 0).any(2).any(0).tolist()
            if any(found) and not all(found):
                read.setdefault(len(found), tuple(found))
    return read
