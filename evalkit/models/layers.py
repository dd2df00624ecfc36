"""The layers of a network that can be explained."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from evalkit.models import graph


@dataclass(frozen=True)
class Layer:
    """An output (N,K,h,w) that `model.layer` may name."""

    name: str
    channels: int
    height: int
    width: int
    separates: str
    """Whether all data passes through it: "yes", "no", or "?" where torch.fx cannot trace the network."""


def explainable(module: nn.Module, images: Tensor) -> Iterator[Layer]:
    """Yield every layer of a module that can be explained, in the order in which the data passes them.

    `module` is in eval mode; only the size of the images (N,3,H,W) matters.
    """
    try:
        traced = graph.trace(module)
        graph.propagate(traced.root, traced.graph, images)
    except Exception:  # without a graph that runs, a hook on a module is used, so only modules can be explained
        yield from (_layer(name, shape, "?") for name, shape in _hooked(module, images))
        return
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    for name, node in sorted(traced.layers.items(), key=lambda entry: order[entry[1]]):
        if len(graph.shape(node)) == 4:
            yield _layer(name, graph.shape(node), "no" if graph.crossing(traced.graph, node) else "yes")


def _layer(name: str, shape: torch.Size, separates: str) -> Layer:
    _, channels, height, width = shape
    return Layer(name, channels, height, width, separates)


def _hooked(module: nn.Module, images: Tensor) -> list[tuple[str, torch.Size]]:
    """Return the modules that output maps, with their shapes, in the order in which they finish."""
    shapes: list[tuple[str, torch.Size]] = []

    def watch(name: str, part: nn.Module) -> RemovableHandle:
        def keep(_module: nn.Module, _inputs: Any, out: Any) -> None:
            if isinstance(out, Tensor) and out.dim() == 4:
                shapes.append((name, out.shape))

        return part.register_forward_hook(keep)

    handles = [watch(name, part) for name, part in module.named_modules() if name]
    try:
        with torch.no_grad():
            module(images)
    finally:
        for handle in handles:
            handle.remove()
    return shapes
