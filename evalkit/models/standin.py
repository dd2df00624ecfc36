"""A temporary copy of a model for other libraries, which may add hooks, replace modules and compute gradients."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, fx, nn

from evalkit.models import outlets
from evalkit.models.readout import Readout
from evalkit.models.rectifiers import own_rectifiers, traced_or_refused
from evalkit.models.split import SplitModel


@contextmanager
def stand_in(net: SplitModel, *, rectifiers: bool = False) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Yield a model that computes what `net.whole` does, and the module in it whose output is the target layer's, as maps (N,K,h,w).

    It shares only the values of the weights and buffers: gradients, hooks and replaced modules stay in the copy, and
    gradients and hooks are removed at the end. What follows the layer reads a clone of its output, so that no in-place
    operation changes what a hook has stored. A layer that is no module (a functional ReLU, one call of a repeated
    module) becomes an identity in the traced graph; so does any layer with `rectifiers`, which makes every ReLU a
    separate module. Tokens and channels-last outputs pass an identity as maps, so that a library needs no transformation for them.

    Raises UserError where the graph is needed and torch.fx cannot trace the network.
    """
    module, (name, _, place) = _copy(net.module), net.layer.partition(":")
    layer = dict(module.named_modules()).get(name)
    if layer is None or rectifiers:
        module, layer = _in_graph(module, net, rectifiers)
    elif net.grid.layout == "maps" and not place:
        _replace(module, layer, _ThenClone(layer))
        module = _WithReadout(module, net.readout)
    else:
        as_maps = _AsMaps(layer, int(place) if place else None, net)
        _replace(module, layer, as_maps)
        module, layer = _WithReadout(module, net.readout), as_maps.maps
    try:
        yield module, layer
    finally:  # libraries and models refer to each other: without this, their tensors would stay in memory
        module.zero_grad(set_to_none=True)
        for part in module.modules():
            part._forward_hooks.clear()
            part._forward_pre_hooks.clear()


class _WithReadout(nn.Module):
    """A network and what makes logits of its outputs."""

    def __init__(self, network: nn.Module, readout: Readout) -> None:
        super().__init__()
        self.network, self.readout = network, readout
        self.training = network.training

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.readout(self.network(images))
        return logits


class _ThenClone(nn.Module):
    """A layer followed by a clone of its output."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.layer(*args, **kwargs).clone()


class _AsMaps(nn.Module):
    """A layer whose output passes the module `maps` as maps."""

    def __init__(self, layer: nn.Module, place: int | None, net: SplitModel) -> None:
        super().__init__()
        self.layer, self.maps = layer, nn.Identity()
        self.place, self.name, self.grid = place, net.layer, net.grid

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = self.layer(*args, **kwargs)
        place, output = outlets.chosen(out, self.place, self.name)
        maps, prefix = self.grid.split(output)
        return outlets.replaced(out, place, self.grid.join(self.maps(maps.contiguous()).clone(), prefix))


class _ToMaps(nn.Module):
    """The maps in a layer's output."""

    def __init__(self, net: SplitModel) -> None:
        super().__init__()
        self.grid = net.grid

    def forward(self, output: Tensor) -> Tensor:
        return self.grid.split(output)[0].contiguous()


class _FromMaps(_ToMaps):
    """A layer's output with other maps."""

    def forward(self, output: Tensor, maps: Tensor) -> Tensor:  # type: ignore[override]
        joined: Tensor = self.grid.join(maps, self.grid.split(output)[1])
        return joined


def _copy(module: nn.Module) -> nn.Module:
    """Copy all module objects, with new parameters in the storage of the old ones; buffers and other tensors are shared."""
    memo: dict[int, object] = {}
    for part in module.modules():
        values = [*part.buffers(recurse=False), *vars(part).values()]
        memo.update({id(tensor): tensor for tensor in values if isinstance(tensor, Tensor)})
    memo.update({id(p): nn.Parameter(p.detach(), requires_grad=p.is_floating_point()) for p in module.parameters()})
    return copy.deepcopy(module, memo)


def _replace(module: nn.Module, layer: nn.Module, other: nn.Module) -> None:
    for part in list(module.modules()):
        for name, child in part._modules.items():
            if child is layer and part is not other:
                part._modules[name] = other


def _in_graph(module: nn.Module, net: SplitModel, rectifiers: bool) -> tuple[nn.Module, nn.Module]:
    traced = traced_or_refused(module, net.readout)
    node = traced.node(net.layer)
    # A bit-exact identity; captum's LRP has a rule for it, but none for nn.Identity.
    network, layer = fx.GraphModule(traced.root, traced.graph), nn.AvgPool2d(1)
    network.add_submodule("target_layer", layer)
    maps = net.grid.layout == "maps"
    if not maps:
        network.add_submodule("to_maps", _ToMaps(net))
        network.add_submodule("from_maps", _FromMaps(net))
    own: list[fx.Node] = []
    with network.graph.inserting_after(node):
        own.append(node if maps else network.graph.call_module("to_maps", (node,)))
    with network.graph.inserting_after(own[0]):
        own.append(network.graph.call_module("target_layer", (own[0],)))
    with network.graph.inserting_after(own[1]):
        own.append(network.graph.call_method("clone", (own[1],)))
    with network.graph.inserting_after(own[2]):
        own.append(own[2] if maps else network.graph.call_module("from_maps", (node, own[2])))
    node.replace_all_uses_with(own[3], delete_user_cb=lambda user: user not in own)
    if rectifiers:
        own_rectifiers(network)
    network.recompile()
    return network, layer
