"""A temporary copy of a model for other libraries, which may add hooks, replace modules and compute gradients."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, fx, nn

from evalkit.models.rectifiers import own_rectifiers, traced_or_refused
from evalkit.models.split import SplitModel


@contextmanager
def stand_in(net: SplitModel, *, rectifiers: bool = False) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Yield a model that computes what `net.module` does, and the module in it whose output is the target layer's.

    It shares only the values of the weights and buffers: gradients, hooks and replaced modules stay in the copy, and
    gradients and hooks are removed at the end. What follows the layer reads a clone of its output, so that no in-place
    operation changes what a hook has stored. A layer that is no module (a functional ReLU, one call of a repeated
    module) becomes an identity in the traced graph; so does any layer with `rectifiers`, which makes every ReLU a
    separate module.

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
    finally:  # libraries and models refer to each other: without this, their tensors would stay in memory
        module.zero_grad(set_to_none=True)
        for part in module.modules():
            part._forward_hooks.clear()
            part._forward_pre_hooks.clear()


class _ThenClone(nn.Module):
    """A layer followed by a clone of its output."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.layer(*args, **kwargs).clone()


def _copy(module: nn.Module) -> nn.Module:
    """Copy all module objects, with new parameters in the storage of the old ones; buffers and other tensors are shared."""
    memo: dict[int, object] = {}
    for part in module.modules():
        values = [*part.buffers(recurse=False), *vars(part).values()]
        memo.update({id(tensor): tensor for tensor in values if isinstance(tensor, Tensor)})
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
    # A bit-exact identity; captum's LRP has a rule for it, but none for nn.Identity.
    network, layer = fx.GraphModule(traced.root, traced.graph), nn.AvgPool2d(1)
    network.add_submodule("target_layer", layer)
    with network.graph.inserting_after(node):
        target = network.graph.call_module("target_layer", (node,))
    with network.graph.inserting_after(target):
        clone = network.graph.call_method("clone", (target,))
    node.replace_all_uses_with(clone, delete_user_cb=lambda user: user is not target)
    if rectifiers:
        own_rectifiers(network)
    network.recompile()
    return network, layer
