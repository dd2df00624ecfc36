"""A head's graph in plain operations: sizes as numbers, and attention modules as products, with the shapes of all values."""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

_IDLE = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.Identity)
"""Modules that write nothing in eval mode, even where they may work in place."""

_WRITING = {getattr(operator, f"i{name}") for name in ("add", "sub", "mul", "truediv", "pow", "and", "or", "matmul")} | {operator.setitem}
_SIZE_METHODS = {"size", "dim", "ndimension", "numel"}


def writes(head: fx.GraphModule) -> bool:
    """Return whether an operation of the head writes into a tensor."""
    return any(_writes(head, node) for node in head.graph.nodes)


def _writes(head: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        module = head.get_submodule(str(node.target))
        return getattr(module, "inplace", False) is True and type(module) not in _IDLE
    if node.op not in ("call_method", "call_function"):
        return False
    name = str(node.target if node.op == "call_method" else getattr(node.target, "__name__", ""))
    if node.target in _WRITING or (name.endswith("_") and not name.endswith("__")) or "out" in node.kwargs:
        return True
    given = True in node.args[1:] and getattr(node.target, "__module__", "") == "torch.nn.functional"  # perhaps `inplace`, by position
    return given or (node.kwargs.get("inplace") is True and node.kwargs.get("training") is not False)


def expand(head: fx.GraphModule, *inputs: Tensor) -> fx.Graph:
    """Return a copy of a head's graph in plain operations.

    Each tensor's node has in `meta` its `shape` for two images, and `batch`, the axes whose size depends on the number of images.
    """
    graph = fx.Graph()
    result = graph.graph_copy(head.graph, {})
    graph.output(result)
    for node in list(graph.nodes):
        if node.op == "call_module" and _is_self_attention(head, node):
            _write_out(head, graph, node)
        if node.op == "call_method" and node.target == "view" and not any(isinstance(arg, torch.dtype) for arg in node.args):
            node.target = "reshape"  # which takes any layout in memory
    sizes = [_values(head, graph, [torch.cat([t[:1]] * images) for t in inputs]) for images in (2, 3)]
    _fold(graph, *sizes)
    for node in graph.nodes:
        two, three = (found.get(node) for found in sizes)
        node.meta.pop("shape", None)
        node.meta["batch"] = ()
        if isinstance(two, torch.Size) and isinstance(three, torch.Size):
            node.meta["shape"] = two
            node.meta["batch"] = tuple(axis for axis, pair in enumerate(zip(two, three, strict=True)) if pair[0] != pair[1])
    return graph


def _values(head: fx.GraphModule, graph: fx.Graph, inputs: list[Tensor]) -> dict[fx.Node, object]:
    """Run a graph; return the size of each tensor, and each whole number."""
    found: dict[fx.Node, object] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            found[n] = value.shape if isinstance(value, Tensor) else value if type(value) is int else None
            return value

    runner = Recorder(head, graph=graph)
    runner.extra_traceback = False
    with torch.no_grad():
        runner.run(*inputs)
    return found


def _fold(graph: fx.Graph, two: dict[fx.Node, object], three: dict[fx.Node, object]) -> None:
    """Put numbers in the place of sizes, and one node in the place of all that are the number of images; leave assertions out."""
    last_input = [node for node in graph.nodes if node.op == "placeholder"][-1]
    first_input = next(iter(graph.nodes))
    with graph.inserting_after(last_input):
        batch = graph.call_method("size", (first_input, 0))
    sizes: set[fx.Node] = set()  # and what is computed from sizes alone, as opposed to whole numbers that are read from values
    for node in list(graph.nodes):
        if node.target is torch._assert:
            graph.erase_node(node)
            continue
        if node.op not in ("call_function", "call_method"):
            continue
        query = node.target in _SIZE_METHODS or (node.target is getattr and node.args[1] in ("shape", "ndim")) or node.target is len
        if query or (node.all_input_nodes and sizes.issuperset(node.all_input_nodes)):
            sizes.add(node)
        value = two.get(node)
        if type(value) is not int or node not in sizes:
            continue
        same = three[node] == value
        if same or (value, three[node]) == (2, 3):
            number: Any = value if same else batch
            for user in list(node.users):
                user.args, user.kwargs = (fx.map_arg(given, lambda n: number if n is node else n) for given in (user.args, user.kwargs))  # noqa: B023
    remove_unread(graph)


def remove_unread(graph: fx.Graph) -> None:
    """Remove what nobody reads from a graph that writes into no tensor."""
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)


def _is_self_attention(head: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a node is a plain `nn.MultiheadAttention(x, x, x)` of which only the output is read."""
    module = head.get_submodule(str(node.target))
    if type(module) is not nn.MultiheadAttention or len(node.args) != 3 or len(set(node.args)) != 1:
        return False
    if set(node.kwargs) - {"need_weights", "average_attn_weights"} or module.training:
        return False
    plain = module.batch_first and module.in_proj_weight is not None and module.bias_k is None and not module.add_zero_attn
    read = [user for user in node.users if user.users]
    return plain and all(user.target is operator.getitem and user.args[1] == 0 for user in read)


def _write_out(head: fx.GraphModule, graph: fx.Graph, node: fx.Node) -> None:
    """Put the products of an attention module in its place. Source: Vaswani et al., NeurIPS 2017, section 3.2.2."""
    module = head.get_submodule(str(node.target))
    assert isinstance(module, nn.MultiheadAttention)
    x, heads, k, path = node.args[0], module.num_heads, module.embed_dim, node.target
    with graph.inserting_before(node):

        def parameter(name: str) -> fx.Node | None:
            there = name.rpartition(".")
            owner = module.get_submodule(there[0]) if there[0] else module
            return graph.get_attr(f"{path}.{name}") if getattr(owner, there[2]) is not None else None

        qkv = graph.call_function(F.linear, (x, parameter("in_proj_weight"), parameter("in_proj_bias")))
        batch, tokens = (graph.call_method("size", (x, axis)) for axis in (0, 1))
        parts = graph.call_method("permute", (graph.call_method("reshape", (qkv, batch, tokens, 3, heads, k // heads)), 2, 0, 3, 1, 4))
        unbound = graph.call_method("unbind", (parts, 0))
        query, key, value = (graph.call_function(operator.getitem, (unbound, i)) for i in range(3))
        mixed = graph.call_function(F.scaled_dot_product_attention, (query, key, value))
        joined = graph.call_method("reshape", (graph.call_method("transpose", (mixed, 1, 2)), batch, tokens, k))
        out = graph.call_function(F.linear, (joined, parameter("out_proj.weight"), parameter("out_proj.bias")))
    for user in list(node.users):
        if user.users:
            user.replace_all_uses_with(out)
        graph.erase_node(user)
    graph.erase_node(node)
