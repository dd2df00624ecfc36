"""Outputs of modules that return several tensors: each may be a layer, named by its place, as in `blocks.10:1`."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from evalkit.errors import UserError


def placed(out: Any, kind: type = Tensor) -> list[tuple[int | None, Any]]:
    """Return the tensors (or other values of a `kind`) in a module's output with their places; None for the output itself."""
    if isinstance(out, kind):
        return [(None, out)]
    return [(place, value) for place, value in enumerate(out) if isinstance(value, kind)] if isinstance(out, tuple | list) else []


def named(name: str, out: Any, kind: type = Tensor) -> list[tuple[str, int | None, Any]]:
    """Return what `placed` does with the names of the layers: that of the module where there is one tensor only."""
    found = placed(out, kind)
    return [(name if len(found) == 1 else f"{name}:{place}", place, value) for place, value in found]


def chosen(out: Any, place: int | None, layer: str) -> tuple[int | None, Tensor]:
    """Return the tensor at a place, without one the only one. Raises UserError where there is none, or more than one."""
    found = placed(out)
    fitting = [one for one in found if place in (None, one[0])]
    if len(fitting) == 1:
        return fitting[0]
    name = layer.partition(":")[0]
    if not found:
        raise UserError(f"layer '{layer}' puts out {type(out).__name__}, which holds no tensor; choose a layer that puts out one")
    names = [name if one is None else f"{name}:{one}" for one, _ in found]
    raise UserError(f"layer '{layer}' puts out {len(found)} tensors: name one of them, as in {names[-1]}")


def replaced(out: Any, place: int | None, value: Tensor) -> Any:
    """Return a module's output with another tensor at a place."""
    if place is None:
        return value
    values = [*out]
    values[place] = value
    return type(out)(*values) if hasattr(out, "_fields") else type(out)(values)


def weighted_sum(outputs: Any) -> Tensor:
    """Return a sum, with random weights, of all numbers in whatever a network returns."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(())
    for tensor in tensors(outputs):
        total = total.to(tensor.device) + (tensor * torch.randn(tensor.shape, generator=generator).to(tensor)).sum()
    return total


def tensors(outputs: Any) -> Iterator[Tensor]:
    """Yield the tensors of floating-point numbers in whatever a network returns."""
    if isinstance(outputs, Tensor):
        yield from [outputs] if outputs.is_floating_point() else []
    elif isinstance(outputs, Mapping):
        for value in outputs.values():
            yield from tensors(value)
    elif isinstance(outputs, list | tuple):
        for value in outputs:
            yield from tensors(value)
