"""Proposal of the layer to explain where the config says `layer: auto`."""

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch.nn.modules import dropout, pooling

from evalkit.errors import UserError, first_line
from evalkit.models import graph
from evalkit.models.copies import eval_copy, uncompiled
from evalkit.models.graph import shape

_PASSES_ON = (nn.Identity, dropout._DropoutNd)
_POOLS = (pooling._MaxPoolNd, pooling._AvgPoolNd, pooling._LPPoolNd, pooling._AdaptiveAvgPoolNd, pooling._AdaptiveMaxPoolNd)


class NoLayer(UserError):
    """No layer can be proposed."""


def propose(module: nn.Module, images: Tensor) -> str:
    """Return the name of the layer whose maps the classifier pools, flattens or reads.

    It is the last output (N,K,h,w) with h·w > 1, those of poolings and dropout excepted, through which all data passes and
    after which there are learned weights: in VGG16 `features.29`, 14x14, not the 7x7 pooling after it; in SqueezeNet a layer
    before the class scores of each position. Of several names for one output, the outermost is returned.

    Args:
        module: The network in eval mode, on any device; on the meta device nothing is computed.
        images: (N,3,H,W) on that device; only their size matters.

    Raises:
        NoLayer: there is no such output, as in a transformer, whose head reads tokens, or the module cannot be traced.
        Exception: whatever the module raises where it cannot process such images, or not on this device.
    """
    name = type(uncompiled(module)).__name__
    try:
        traced = graph.trace(module)
    except UserError:
        raise
    except Exception as reason:  # torch.fx documents no closed set of errors
        raise NoLayer(f"torch.fx cannot trace {name} ({first_line(reason)}), so no layer can be proposed: set model.layer=...") from reason
    try:
        graph.propagate(traced.root, traced.graph, images)
    except Exception as reason:  # the fault may be the images' or the graph's; the module itself fails only in the first case
        with torch.no_grad():
            eval_copy(module)(images)
        raise NoLayer(f"the graph of {name} that torch.fx traced does not run ({first_line(reason)}): set model.layer=...") from reason
    module, names = traced.root, _names(traced)
    for node in reversed(traced.graph.nodes):
        if node not in names or not _is_map(shape(node), images.shape) or _is_pooling(module, node) or _is_passed_on(module, node):
            continue
        behind = graph.descendants(node)
        if not any(_mixes(module, later) for later in behind) or graph.crossing(traced.graph, node):
            continue
        if any(_mixes(module, later) and _is_sequence(shape(later), images.shape) for later in behind):
            break
        return min((names[same] for same in _same(module, node) if same in names), key=lambda layer: layer.count("."))
    raise NoLayer(
        f"{name} has no convolutional maps (images, channels, height, width) in front of its head, but tokens or channels-last tensors, "
        "as in a transformer; to explain one of its layers, set model.layer=..."
    )


def _names(traced: graph.Traced) -> dict[fx.Node, str]:
    """Return the name of every node; names of modules are preferred to functions, and containers to their contents."""
    modules = dict(traced.root.network.named_modules())

    def rank(name: str) -> tuple[bool, int]:
        is_module = name in modules or name.rpartition("_")[0] in traced.repeated
        return not is_module, name.count(".")

    names: dict[fx.Node, str] = {}
    for name in sorted(traced.layers, key=rank):
        names.setdefault(traced.layers[name], name)
    return names


def _same(module: nn.Module, node: fx.Node) -> Iterator[fx.Node]:
    """Yield the node and the nodes after it that only pass its value on: a container may end with them."""
    yield node
    while len(node.users) == 1 and _is_passed_on(module, next(iter(node.users))):
        node = next(iter(node.users))
        yield node


def _is_map(size: torch.Size, images: torch.Size) -> bool:
    """Return whether this is (N,K,h,w) with more than one position. Channels last, (N,h,w,K), lacks the image's proportions."""
    return len(size) == 4 and size[2] * size[3] > 1 and abs(size[2] - size[3] * images[2] / images[3]) <= 1


def _is_sequence(size: torch.Size, images: torch.Size) -> bool:
    """Return whether this has several positions in a layout other than that of maps."""
    if len(size) == 4:
        return size[1] * size[2] > 1 and size[2] * size[3] > 1 and not _is_map(size, images)
    return len(size) == 3


def _is_pooling(module: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), _POOLS)
    return "pool" in _called(node)


def _is_passed_on(module: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), _PASSES_ON)
    return "dropout" in _called(node) or _called(node) == "contiguous"


def _called(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _mixes(module: nn.Module, node: fx.Node) -> bool:
    """Return whether a node has weights with two axes or more: it has learned to mix channels or positions."""
    if node.op == "call_module":
        return any(p.dim() > 1 for p in module.get_submodule(str(node.target)).parameters())
    return any(arg.op == "get_attr" and len(shape(arg)) > 1 for arg in node.all_input_nodes)
