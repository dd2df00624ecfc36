"""A throw-away copy of a model for other people's code, which hooks, replaces and differentiates as it likes."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, fx, nn

from evalkit.models.rectifiers import own_rectifiers, traced_or_refused
from evalkit.models.split import SplitModel


@contextmanager
def stand_in(net: SplitModel, *, rectifiers: bool = False) -> Iterator[tuple[nn.Module, nn.Module]]:
    """A model that computes what `net.module` does, and the module in it whose output is the target layer's.

    It shares the weights' storage and nothing else: gradients, hooks and replaced modules stay in the copy, which is
    stripped of them at the end. What follows the layer works on a clone of its output, so that no in-place operation
    changes what a hook has kept. A layer that is no module (a functional ReLU, one call of a repeated module) becomes
    an identity in the traced graph; so does any layer where `rectifiers` asks that every ReLU be a module of its own.

    Raises UserError where the graph is needed and torch.fx cannot trace the network.
    """
    module = _copy(net.module)
    layer = dict(module.named_modules()).get(net.layer)
    if layer is None or rectifiers:
        module, layer = _in_graph(module, net, rectifiers)
    else:
        _guard(module, layer)
    try:
        yield module, layer
    finally:  # libraries and models refer to each other; without this their tensors would outlive the call
        module.zero_grad(set_to_none=True)
        for part in module.modules():
            part._forward_hooks.clear()
            part._forward_pre_hooks.clear()


class _ThenClone(nn.Module):
    """A layer, then a copy of its output for whatever follows."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = self.layer(*args, **kwargs)
        return out.clone()


def _copy(module: nn.Module) -> nn.Module:
    """New module objects and new parameters in the storage of the old ones; buffers and loose tensors are shared."""
    memo: dict[int, object] = {}
    for part in module.modules():
        held = [*part.buffers(recurse=False), *vars(part).values()]
        memo.update({id(tensor): tensor for tensor in held if isinstance(tensor, Tensor)})
    memo.update({id(p): nn.Parameter(p.detach(), requires_grad=p.is_floating_point()) for p in module.parameters()})
    return copy.deepcopy(module, memo)


def _guard(module: nn.Module, layer: nn.Module) -> None:
    for part in list(module.modules()):
        for name, child in part._modules.items():
            if child is layer:
                part._modules[name] = _ThenClone(layer)


def _in_graph(module: nn.Module, net: SplitModel, rectifiers: bool) -> tuple[nn.Module, nn.Module]:
    traced = traced_or_refused(module)
    node = traced.node(net.layer)
    # An identity, bit for bit; unlike nn.Identity, one for which captum's LRP has a rule.
    network, layer = fx.GraphModule(traced.module, traced.graph), nn.AvgPool2d(1)
    network.add_submodule("target_layer", layer)
    with network.graph.inserting_after(node):
        seen = network.graph.call_module("target_layer", (node,))
    with network.graph.inserting_after(seen):
        own = network.graph.call_method("clone", (seen,))
    node.replace_all_uses_with(own, delete_user_cb=lambda user: user is not seen)
    if rectifiers:
        own_rectifiers(network)
    network.recompile()
    return network, layer
