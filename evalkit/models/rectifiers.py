"""A copy of a network in which every rectifier is a separate module.

Guided backpropagation changes how a ReLU passes gradients back. captum's implementation needs modules that are called
once, not in place, and are the only readers of their input, since its hooks are on that tensor.
"""

import weakref

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from evalkit.errors import UserError, first_line
from evalkit.models.graph import Traced, descendants, trace
from evalkit.models.readout import Readout
from evalkit.models.split import SplitModel, close

_FUNCTIONS: set[object] = {F.relu, F.relu_, torch.relu, torch.relu_, F.relu6}
_METHODS = {"relu", "relu_"}
_IN_PLACE: set[object] = {F.relu_, torch.relu_, "relu_"}

_copies: weakref.WeakKeyDictionary[SplitModel, fx.GraphModule] = weakref.WeakKeyDictionary()


def rectified(net: SplitModel, example: Tensor) -> fx.GraphModule:
    """Return `net.whole` as a graph that shares its weights, with one `nn.ReLU` for each ReLU; it is built once per model.

    A ReLU6 becomes such a ReLU followed by a ceiling of 6. The outputs of both are compared on `example` (1,3,H,W), normalised.
    Raises UserError where the network cannot be traced, has no rectifier, or cannot be rewritten.
    """
    if net not in _copies:
        traced = traced_or_refused(net.module, net.readout)
        copy = fx.GraphModule(traced.root, traced.graph)
        if not own_rectifiers(copy):
            raise UserError(
                f"{type(net.module).__name__} has no ReLU or ReLU6, without which guided backpropagation is the plain gradient: "
                "use the method gradient"
            )
        with torch.no_grad():
            expected, logits = net.whole(example.clone()), copy(example)
        if not close(logits, expected, 1e-4):
            raise UserError(f"making each ReLU of {type(net.module).__name__} a separate module changes its output: avoid in-place ReLUs")
        _copies[net] = copy
    return _copies[net]


def traced_or_refused(module: nn.Module, readout: Readout) -> Traced:
    """Trace a module and what is applied behind it. Raises UserError where torch.fx cannot."""
    try:
        return trace(module, readout)
    except Exception as reason:  # torch.fx documents no closed set of errors
        name = type(module).__name__
        raise UserError(f"{name} must be rewritten for this method, and torch.fx cannot trace it ({first_line(reason)})") from reason


def own_rectifiers(network: fx.GraphModule) -> int:
    """Make every rectifier of a traced network a separate module, and return their number."""
    graph = network.graph
    image = next(node for node in graph.nodes if node.op == "placeholder")
    order = {node: position for position, node in enumerate(graph.nodes)}
    behind = descendants(image)  # all other values receive no gradient, and their tensors accept no hooks
    rectifiers = [node for node in graph.nodes if node in behind and _ceiling(network, node) is not None]
    for count, node in enumerate(rectifiers):
        source = node.all_input_nodes[0]
        with graph.inserting_before(node):
            new = _insert(network, f"rectifier_{count}", source, _ceiling(network, node))
        if _in_place(network, node):  # later readers of the source read the output of the ReLU
            source.replace_all_uses_with(new, delete_user_cb=lambda user, after=order[node]: order.get(user, -1) > after)
        node.replace_all_uses_with(new)
        graph.erase_node(node)
    with graph.inserting_after(image):
        own = graph.call_method("clone", (image,))
    image.replace_all_uses_with(own, delete_user_cb=lambda user: user is not own)  # an in-place first operation must not change it
    network.recompile()
    return len(rectifiers)


def _insert(network: fx.GraphModule, name: str, source: fx.Node, ceiling: float | None) -> fx.Node:
    """Insert a clone, a ReLU and a ceiling. The hooks are on the clone: other readers of `source` must keep their gradients."""
    network.add_submodule(name, nn.ReLU())
    relu = network.graph.call_module(name, (network.graph.call_method("clone", (source,)),))
    return relu if ceiling in (None, torch.inf) else network.graph.call_function(torch.clamp, (relu,), {"max": ceiling})


def _ceiling(network: fx.GraphModule, node: fx.Node) -> float | None:
    """Return the largest value that a rectifier lets through, infinity for a ReLU; None for other nodes."""
    if node.op == "call_module":
        return {nn.ReLU: torch.inf, nn.ReLU6: 6.0}.get(type(network.get_submodule(str(node.target))))
    if (node.op == "call_function" and node.target in _FUNCTIONS) or (node.op == "call_method" and node.target in _METHODS):
        return 6.0 if node.target is F.relu6 else torch.inf
    return None


def _in_place(network: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(network.get_submodule(str(node.target)), "inplace", False))
    return node.target in _IN_PLACE or bool(node.kwargs.get("inplace", node.args[1] if len(node.args) > 1 else False))
