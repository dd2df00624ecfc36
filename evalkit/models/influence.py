"""The last layer of a network whose positions influence its outputs, found by forward passes with hooks.

Where only a class token is read, the positions of the last layers influence nothing: the last attention block mixes them into the
class token and then puts out positions that nobody reads. In a ViT the layer is therefore the input of that block, which is where
CAM methods are applied to transformers (pytorch-grad-cam's documentation names the last block's first LayerNorm).
"""

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import dropout, pooling

from evalkit.models.copies import eval_copy
from evalkit.models.evidence import Evidence, observe
from evalkit.models.grid import Grid, find_grid, in_proportion
from evalkit.models.outlets import named, replaced, tensors, weighted_sum

PASSES_ON = (nn.Identity, dropout._DropoutNd)
POOLS = (pooling._MaxPoolNd, pooling._AvgPoolNd, pooling._LPPoolNd, pooling._AdaptiveAvgPoolNd, pooling._AdaptiveMaxPoolNd)

Picked = Callable[[Any], Any]
"""A function from what a network returns to scores, or to the part of it that is scored."""


@dataclass(frozen=True)
class Proposal:
    """The name of a layer, and why it is proposed."""

    layer: str
    reason: str


_LOCAL = 1.2
"""How much more positions must change with their own quarter of the image than with others to lie in the image."""

_LARGE_SHARE = 1 / 3
"""The part of the scores' difference that a layer through which not all data passes must carry to be chosen."""


@dataclass(frozen=True)
class _Call:
    """A tensor that one call of a module put out; `version` counts the in-place operations on it until then."""

    name: str
    part: nn.Module
    place: int | None
    """The tensor's place in the module's output where that is a tuple or a list."""
    output: Tensor
    version: int
    weights_follow: bool


def last_influential(module: nn.Module, images: Tensor, picked: Picked = lambda outputs: outputs) -> Proposal | None:
    """Return the last layer whose positions influence the outputs and through which all, or most, data passes; None if there is none.

    As in `propose`, poolings and dropout are left out, and learned weights must follow. How much passes a layer is measured by
    exchanging its outputs for the two images: if all data passes, their logits are exchanged. In a network of several branches, a
    module with parts that carries a third of the difference counts, if its positions change most where the image is changed. The result
    does not depend on the values of trained weights: where all values of a parameter are the same, as in heads that begin with zeros,
    random ones are used.

    Args:
        module: The network in any mode; it is not changed.
        images: (N,C,H,W) on its device; only their size matters.
        picked: Makes scores of what the module returns, or picks the part that is scored.

    Raises:
        Exception: whatever the module raises where it cannot process such images.
    """
    network, images = _with_random_constants(module), _pictures(images)
    calls, total = _recorded(network, images.clone().requires_grad_(), picked)
    if not total.requires_grad:
        return None
    evidence = observe(network, images, picked)
    grids = {call: grid for call in _by_tensor(calls) if (grid := _grid(call, images, evidence)) is not None}
    if not grids:
        return None
    gradients = torch.autograd.grad(total, [call.output for call in grids], allow_unused=True)
    read = {call: g is not None and _any(grids[call], g) for call, g in zip(grids, gradients, strict=True)}
    influential = [call for call in grids if read[call]]
    shares: dict[_Call, float] = {}
    plain = _flat(network, images, picked)
    local = _local(network, {call: grids[call] for call in influential}, images)
    for call in influential:
        shares[call] = _share(network, call, images, plain, picked)
        if shares[call] > 0.999 or (shares[call] >= _LARGE_SHARE and call in local and any(call.part.children())):
            break
    if not shares:
        return None
    chosen = max(shares, key=lambda call: shares[call])
    grid = grids[chosen]
    reason = f"the last layer whose positions ({grid}) influence the scores"
    if not all(read.values()) and grid.prefix:
        reason += f"; behind it only the {'prefix token is' if abs(grid.prefix) == 1 else 'prefix tokens are'} read"
    if shares[chosen] <= 0.999:
        reason += "; part of the data passes beside it"
    if grid.layout == "tokens" and chosen not in local:
        reason += "; with random weights they do not show where in the image they lie: compare a map with its image"
    return Proposal(chosen.name, reason)


def _pictures(images: Tensor) -> Tensor:
    """Return two images with different large areas, as photographs have; of pure noise deep layers see nothing but the mean."""
    generator = torch.Generator().manual_seed(0)
    areas, noise = (torch.rand(2, images.shape[1], *size, generator=generator) for size in ((4, 4), images.shape[2:]))
    return (0.8 * torch.nn.functional.interpolate(areas, size=images.shape[2:], mode="bilinear") + 0.2 * noise).to(images)


def _with_random_constants(module: nn.Module) -> nn.Module:
    """Copy a network in eval mode, with random values for parameters whose values are all the same."""
    network = copy.deepcopy(eval_copy(module))
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
        if parameter.is_floating_point() and parameter.numel() and bool((parameter == parameter.flatten()[0]).all()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter))
    return network


@torch.enable_grad()
def _recorded(network: nn.Module, images: Tensor, picked: Picked) -> tuple[list[_Call], Tensor]:
    """Run a network, and return what modules called once put out, in the order in which they end, and a random sum of its outputs."""
    ended: list[tuple[str, nn.Module, list[tuple[str, int | None, Tensor, int]], int]] = []
    started: list[int] = []
    """How many calls had ended when a module with weights of two axes or more began."""

    def begin(part: nn.Module, _args: object) -> None:
        if any(parameter.dim() > 1 for parameter in part.parameters(recurse=False)):
            started.append(len(ended))

    def end(part: nn.Module, _args: object, out: object) -> None:
        tensors = [(layer, place, tensor, tensor._version) for layer, place, tensor in named(names[part], out)]
        ended.append((names[part], part, tensors, len(ended)))

    names = {part: name for name, part in network.named_modules()}
    with ExitStack() as hooks:
        for part in names:
            hooks.enter_context(part.register_forward_pre_hook(begin))
            hooks.enter_context(part.register_forward_hook(end))
        outputs = picked(network(images))
    times = Counter(name for name, *_ in ended)
    calls = [
        _Call(layer, part, place, out, version, bool(started) and started[-1] > number)
        for name, part, tensors, number in ended
        if name and times[name] == 1
        for layer, place, out, version in tensors
    ]
    return calls, weighted_sum(outputs)


def _by_tensor(calls: list[_Call]) -> list[_Call]:
    """Return one call for each tensor, the last first: the outermost of those that put out its final values."""
    groups: dict[int, list[_Call]] = {}
    for call in reversed(calls):
        groups.setdefault(id(call.output), []).append(call)
    chosen = []
    for group in groups.values():
        final = [call for call in group if call.version == group[0].version]
        if any(isinstance(call.part, POOLS) for call in final) or all(isinstance(call.part, PASSES_ON) for call in group):
            continue
        if group[0].weights_follow:
            chosen.append(min(final, key=lambda call: call.name.count(".")))
    return chosen


def _grid(call: _Call, images: Tensor, evidence: Evidence) -> Grid | None:
    """Return the grid of an output with several positions; None for others, and for the weights of an attention."""
    output = call.output
    if not output.requires_grad or not output.dim() or len(output) != len(images):
        return None
    grid = find_grid(output.shape, images.shape, evidence, call.part)
    if grid is None or min(grid.height, grid.width) < 2:
        return None
    return grid if in_proportion(grid.height, grid.width, images.shape) else None


@torch.no_grad()
def _local(network: nn.Module, grids: Mapping[_Call, Grid], images: Tensor) -> list[_Call]:
    """Return the calls whose positions change most where the images are changed.

    Each quarter of the images is changed in turn. Changes are divided by their sums over all turns, since some positions change more
    than others wherever the image is changed.
    """
    changes: dict[_Call, list[Tensor]] = {call: [] for call in grids}
    for quarter in range(4):
        changed = images.clone()
        _quarters(changed)[quarter].copy_(_quarters(images)[3 - quarter])
        outputs = {(call.name, call.version): call.output for call in _recorded(network, changed, lambda outputs: outputs)[0]}
        for call, grid in grids.items():
            other = outputs.get((call.name, call.version))
            if other is not None and other.shape == call.output.shape:
                parts = _quarters(grid.split(other - call.output)[0])
                changes[call].append(torch.stack([part.abs().mean() for part in parts]).double())
    return [call for call, found in changes.items() if len(found) == 4 and _excess(torch.stack(found)) > _LOCAL]


def _excess(changes: Tensor) -> float:
    """Return how much more a quarter changes with its own quarter of the image than with the others: 1 for positions that lie nowhere."""
    relative = changes / changes.sum(0) / (changes / changes.sum(0)).sum(1, keepdim=True)
    own = relative.diagonal().mean()
    return float(own / ((relative.sum() - relative.diagonal().sum()) / 12))


def _quarters(maps: Tensor) -> list[Tensor]:
    """Return views of the corners of maps (N,K,h,w), each half as high and wide; row by row, without the middle of odd sizes."""
    height, width = maps.shape[2] // 2, maps.shape[3] // 2
    rows, columns = (slice(height), slice(-height, None)), (slice(width), slice(-width, None))
    return [maps[:, :, row, column] for row in rows for column in columns]


def _any(grid: Grid, gradient: Tensor) -> bool:
    return bool((grid.split(gradient)[0] != 0).any())


def _share(network: nn.Module, call: _Call, images: Tensor, plain: Tensor, picked: Picked) -> float:
    """Return how much of the difference of two images' outputs, `plain`, comes with a layer's output; 0 where they do not differ."""
    with call.part.register_forward_hook(lambda _part, _args, out: replaced(out, call.place, _element(out, call.place).flip(0))):
        exchanged = _flat(network, images, picked)
    difference = plain.flip(0) - plain
    return float(1 - (plain.flip(0) - exchanged).norm() / difference.norm()) if bool(difference.any()) else 0.0


def _element(out: Any, place: int | None) -> Tensor:
    tensor: Tensor = out if place is None else out[place]
    return tensor


@torch.no_grad()
def _flat(network: nn.Module, images: Tensor, picked: Picked) -> Tensor:
    return torch.cat(
        [out.reshape(len(out), -1).double() for out in tensors(picked(network(images))) if out.dim() and len(out) == len(images)], 1
    )
