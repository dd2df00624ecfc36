"""Copies of a caller's module in eval mode: they share its tensors, and have module objects of their own."""

import copy
import logging
import sys

import torch
from torch import Tensor, nn

from evalkit.errors import UserError, cause, first_line

log = logging.getLogger(__name__)

COMPILED = "_orig_mod"
"""The name under which torch.compile keeps the module that it compiles."""


def eval_copy(module: nn.Module) -> nn.Module:
    """Copy all module objects and put them into eval mode; every tensor is shared.

    Modules compiled by torch.compile, the whole or parts, are replaced by those that were compiled, whose layers can be read.

    Raises UserError: the module is scripted, cannot be copied, or its `eval` fails.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise UserError(
            f"{getattr(module, 'original_name', type(module).__name__)} is scripted or traced by torch.jit, so its layers cannot be cut: "
            "hand over the module as it was before torch.jit"
        )
    name = type(uncompiled(module)).__name__
    memo: dict[int, object] = {}
    for part in module.modules():
        values = [*part.parameters(recurse=False), *part.buffers(recurse=False), *vars(part).values()]
        memo.update({id(tensor): tensor for tensor in values if isinstance(tensor, Tensor)})
    try:
        copied = _without_compilers(copy.deepcopy(uncompiled(module), memo))
    except Exception as reason:  # locks, open files, tensors that are part of a graph, a user's own __deepcopy__
        raise UserError(f"{name} cannot be copied ({first_line(reason)}): keep such attributes out of the module") from reason
    ours = copied.state_dict(keep_vars=True)
    for name_there, value in uncompiled(module).state_dict(keep_vars=True).items():
        key = uncompiled_name(name_there)
        if isinstance(value, Tensor) and not (value is ours.get(key) or _same(value, ours.get(key))):
            raise UserError(f"{name} cannot be copied: its __deepcopy__ gives the copy another {key}; remove it, or copy the values there")
    if not any(part.training for part in copied.modules()):
        return copied
    try:
        copied.eval()  # what it returns is not used: an overridden `train` may return nothing
    except Exception as reason:  # a user's `train` may raise anything
        raise UserError(f"{name}.eval() failed: {cause(reason)}") from reason
    _finish_eval(copied)
    return copied


def _same(value: Tensor, other: object) -> bool:
    return isinstance(other, Tensor) and value.shape == other.shape and torch.equal(value, other)


def uncompiled(module: nn.Module) -> nn.Module:
    """Return the module that torch.compile has compiled, or the module itself where it was not compiled."""
    compiler = sys.modules.get("torch._dynamo")  # importing it takes a second; where nobody has, nothing is compiled
    original = module._modules.get(COMPILED) if compiler is not None and isinstance(module, compiler.OptimizedModule) else None
    return module if original is None else uncompiled(original)


def uncompiled_name(layer: str) -> str:
    """Return a layer's name without the parts that torch.compile adds."""
    return ".".join(part for part in layer.split(".") if part != COMPILED)


def _without_compilers(module: nn.Module) -> nn.Module:
    for part in list(module.modules()):
        for name, child in part._modules.items():
            if child is not None:
                part._modules[name] = uncompiled(child)
    return module


def _finish_eval(module: nn.Module) -> None:
    """Put the parts into eval mode that an overridden `train` has left in training mode, and say so."""
    left = [name or type(module).__name__ for name, part in module.named_modules() if part.training]
    if left:
        log.warning("%s.eval() leaves %s in training mode; it is evaluated in eval mode", type(module).__name__, left[0])
    for part in module.modules():
        part.training = False
