"""Networks that fail on an image: what they cannot process, and what works instead."""

import copy

import torch
from torch import nn

from evalkit.errors import UserError, cause
from evalkit.models.copies import eval_copy
from evalkit.models.normalisation import example_normalisation

_COMMON_SIDES = (224, 299, 384, 64, 32, 28)
"""Sizes of images tried where a network cannot process the given one."""


class Failed(UserError):
    """A network failed on images; the exception that it raised is the cause."""


def device_and_dtype(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return device and precision of a network's images: those of its first parameter in floating point."""
    example = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    return example.device, example.dtype


def cannot_process(module: nn.Module, name: str, channels: int, size: tuple[int, int], reason: Exception) -> UserError:
    """Return the error of a module that fails on images of `size` (height, width); it names what works instead: a size, a number."""
    return UserError(f"{name} cannot process a {size[0]}x{size[1]} image: {cause(reason)}{_what_works(module, channels, size)}")


def _what_works(module: nn.Module, configured: int, size: tuple[int, int]) -> str:
    """Return a hint at another size, number of channels or precision of images that a module takes; empty where none was found."""
    evaluated = eval_copy(module)
    dtype = device_and_dtype(module)[1]
    sides = [(configured, (side, side)) for side in _COMMON_SIDES if (side, side) != size]
    first = [part.in_channels for part in module.modules() if isinstance(part, nn.Conv2d)][:1]
    tried = [(configured, size), *sides, *((channels, size) for channels in (*first, 1, 3, 4, 2) if channels != configured)]
    for channels, (height, width) in tried:
        if not _runs(evaluated, channels, (height, width)):
            continue
        if channels == configured and (height, width) == size:
            return "; it takes one such image, but not two: its forward may fix the batch size, as view(1, -1) does instead of flatten(1)"
        if channels == configured:
            return f"; it takes {height}x{width}: check model.resize and model.crop, for example 'model.resize=[{height},{width}]'"
        return f"; it takes {channels}-channel images: set model.channels={channels} {example_normalisation(channels)}"
    if dtype in (torch.float16, torch.bfloat16) and _runs(copy.deepcopy(evaluated).float(), configured, size):
        return "; it does in float32: return it with .float()"
    return ""


def _runs(module: nn.Module, channels: int, size: tuple[int, int]) -> bool:
    device, dtype = device_and_dtype(module)
    try:
        with torch.no_grad():
            module(torch.rand(1, channels, *size, device=device, dtype=dtype))
    except Exception:  # only what works is of interest
        return False
    return True
