"""The layers of a network that can be explained."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from evalkit.models import graph
from evalkit.models.evidence import observe
from evalkit.models.grid import Grid, find_grid, in_proportion
from evalkit.models.outlets import named
from evalkit.models.readout import Readout


@dataclass(frozen=True)
class Layer:
    """An output that `model.layer` may name, and how it is read as maps."""

    name: str
    channels: int
    grid: Grid
    separates: str
    """Whether all data passes through it: "yes", "no", or "?" where torch.fx cannot trace the network."""


def explainable(module: nn.Module, images: Tensor, readout: Readout | None = None) -> Iterator[Layer]:
    """Yield every layer of a module that can be explained, in the order in which the data passes them.

    `module` is in eval mode; only the size of the images (N,C,H,W) matters. Left out is what does not influence the scores that
    `readout` makes, what has one position, and functions without the image's proportions, as in attention; in networks with prefix
    tokens also modules without them.
    """
    readout, modules = readout or Readout(), dict(module.named_modules())
    evidence = observe(module, images, readout)
    for name, size, separates in _outputs(module, images, readout):
        grid = find_grid(size, images.shape, evidence, modules.get(name)) if size[0] == len(images) else None
        if grid is None or grid.height * grid.width == 1:
            continue
        if (evidence.said is None and name in modules) or in_proportion(grid.height, grid.width, images.shape):
            yield Layer(name, size[1] if grid.layout == "maps" else size[-1], grid, separates)


def _outputs(module: nn.Module, images: Tensor, readout: Readout | None) -> Iterator[tuple[str, torch.Size, str]]:
    """Yield names and shapes of outputs that have positions, and whether all data passes through each."""
    try:
        traced = graph.trace(module, readout)
        graph.propagate(traced.root, traced.graph, images)
    except Exception:  # without a graph that runs, a hook on a module is used, so only modules can be explained
        yield from ((name, shape, "?") for name, shape in _hooked(module, images))
        return
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    for name, node in sorted(traced.layers.items(), key=lambda entry: order[entry[1]]):
        if len(graph.shape(node)) in (3, 4) and graph.influences(traced.graph, node):
            yield name, graph.shape(node), "no" if graph.crossing(traced.graph, node) else "yes"


def _hooked(module: nn.Module, images: Tensor) -> list[tuple[str, torch.Size]]:
    """Return what modules called once put out that may have positions, with its shape, in the order in which they finish."""
    shapes: list[tuple[str, str, torch.Size]] = []
    calls: Counter[str] = Counter()

    def watch(name: str, part: nn.Module) -> RemovableHandle:
        def keep(_module: nn.Module, _inputs: Any, out: Any) -> None:
            calls[name] += 1
            shapes.extend((name, layer, tensor.shape) for layer, _, tensor in named(name, out) if tensor.dim() in (3, 4))

        return part.register_forward_hook(keep)

    with ExitStack() as hooks, torch.no_grad():
        for name, part in module.named_modules():
            if name:
                hooks.enter_context(watch(name, part))
        module(images)
    return [(layer, shape) for name, layer, shape in shapes if calls[name] == 1]
