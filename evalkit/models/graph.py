"""Tracing and cutting of models with torch.fx: the graph node of a layer's output, and what lies before and after it."""

import inspect
import keyword
import operator
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from evalkit.errors import UserError, did_you_mean
from evalkit.models.copies import eval_copy
from evalkit.models.grid import Grid
from evalkit.models.outlets import named
from evalkit.models.readout import Readout


class _LayerTracer(fx.Tracer):
    """A symbolic tracer that records the output node of every module call, containers included."""

    def __init__(self, readout: Callable[[Any], Any]) -> None:
        modules, functions = _opaque()
        super().__init__(autowrap_functions=functions)
        self.opaque, self.readout = modules, readout
        self.calls: dict[str, list[fx.Node]] = {}

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:  # noqa: ARG002 - torch's
        """Make one input, the images. All other parameters of `forward` keep their defaults, as where a caller gives images only."""
        name = [*inspect.signature(root_fn).parameters, "images"][1]  # the first is `self`

        def scores(root: nn.Module, images: fx.Proxy) -> Any:
            return self.readout(root_fn(root, images))

        return scores, [self.root, self.create_proxy("placeholder", name, (), {})]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self.opaque) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        out = super().call_module(m, forward, args, kwargs)
        for name, _, proxy in named(self.path_of_module(m), out, fx.Proxy):
            self.calls.setdefault(name, []).append(proxy.node)
        return out


def _opaque() -> tuple[tuple[type[nn.Module], ...], tuple[Callable[..., Any], ...]]:
    """Return the modules and functions that stay whole: scripted ones, and those that timm, where imported, excludes from tracing."""
    timm = sys.modules.get("timm.models")
    modules, functions = (timm.get_notrace_modules(), timm.get_notrace_functions()) if timm is not None else ((), ())
    return (torch.jit.ScriptModule, *modules), tuple(functions)


@dataclass(frozen=True)
class Traced:
    """A model's graph and its layers: `layers[name]` is the node whose value is that layer's output."""

    root: "Root"
    """The module in which the graph's names of modules and parameters are found."""
    graph: fx.Graph
    layers: dict[str, fx.Node]
    repeated: frozenset[str]
    """Names of modules that are called more than once; their calls are `layers[name_0]`, `layers[name_1]`, ..."""

    def node(self, layer: str) -> fx.Node:
        """Return the node of `layer`. Raises UserError for a name that is unknown or ambiguous."""
        if layer in self.repeated:
            calls = [name for name in self.layers if name.rpartition("_")[0] == layer]
            raise UserError(f"layer '{layer}' is called {len(calls)} times in one forward pass; name one of its calls: {', '.join(calls)}")
        if layer not in self.layers:
            raise UserError(f"layer '{layer}' is not in {type(self.root.network).__name__}{did_you_mean(layer, self.layers)}")
        return self.layers[layer]


class Root(nn.Module):
    """Holds the traced module as `network`, so that names such as `meta`, `graph` or `code` meet no attribute of fx.GraphModule.

    Graphs are run as generated Python, in which no name may be a keyword: what lies below such a name is held directly too.
    """

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__()
        self.network = module
        aliases: dict[str, str] = {}
        for node in graph.nodes:
            if node.op in ("call_module", "get_attr"):
                target = str(node.target)
                if any(keyword.iskeyword(part) for part in target.split(".")):
                    name = aliases.setdefault(target, f"renamed_{len(aliases)}")
                    setattr(self, name, operator.attrgetter(target)(module))
                    node.target = name
                else:
                    node.target = f"network.{target}"


def trace(module: nn.Module, readout: Callable[[Any], Any] | None = None) -> Traced:
    """Trace a module in eval mode, with what is applied behind it (`Readout`, by default the one without arguments).

    Raises whatever torch.fx raises on a model that it cannot trace, and UserError as `eval_copy` and `Readout` do.
    """
    module = eval_copy(module)  # tracing may leave symbolic values in a module's attributes
    tracer = _LayerTracer(readout or Readout())
    graph = tracer.trace(module)
    layers: dict[str, fx.Node] = {}
    for name, calls in tracer.calls.items():
        if len(calls) == 1:
            layers[name] = calls[0]
        else:
            layers.update({f"{name}_{i}": node for i, node in enumerate(calls)})
    for node in graph.nodes:
        source = node.args[0] if node.target is operator.getitem else None
        if isinstance(source, fx.Node) and source.op == "call_module" and isinstance(node.args[1], int):  # one of several outputs of a leaf
            layers.setdefault(f"{source.target!s}:{node.args[1]}", node)
    for node in graph.nodes:  # functional calls, such as DenseNet's F.relu, have the names of their nodes
        if node.op in ("call_function", "call_method"):
            layers.setdefault(node.name, node)
    _bypass_identities(module, graph, layers)
    return Traced(Root(module, graph), graph, layers, frozenset(name for name, calls in tracer.calls.items() if len(calls) > 1))


def _bypass_identities(module: nn.Module, graph: fx.Graph, layers: dict[str, fx.Node]) -> None:
    """Remove every `nn.Identity` that is the only reader of a value; its names become names of that value.

    Libraries use them where an option is off, also after the last layer, which would then not be seen as the last.
    Where something else reads the value too, the Identity is a separate branch and stays.
    """
    for node in list(graph.nodes):
        if node.op != "call_module" or type(module.get_submodule(str(node.target))) is not nn.Identity:
            continue
        (source,) = node.all_input_nodes
        if source.op == "placeholder" or len(source.users) > 1:
            continue
        node.replace_all_uses_with(source)
        graph.erase_node(node)
        layers.update({name: source for name, layer in layers.items() if layer is node})


class _Shapes(fx.Interpreter):
    """Runs a graph and writes the shape of every tensor into its node's `meta`."""

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            n.meta["shape"] = value.shape
        return value


def propagate(root: nn.Module, graph: fx.Graph, *inputs: Tensor) -> None:
    """Run the graph and write every tensor's shape into its node (`shape`). Raises the error of an operation."""
    runner = _Shapes(root, graph=graph)
    runner.extra_traceback = False  # which torch would add to the message of an error
    with torch.no_grad():
        runner.run(*inputs)


def shape(node: fx.Node) -> torch.Size:
    """Return the shape that `propagate` wrote; empty where the value is not a tensor."""
    return node.meta.get("shape", torch.Size())


def descendants(node: fx.Node) -> set[fx.Node]:
    """Return all nodes whose value depends on `node`."""
    visited: set[fx.Node] = set()
    open_nodes = list(node.users)
    while open_nodes:
        user = open_nodes.pop()
        if user not in visited:
            visited.add(user)
            open_nodes.extend(user.users)
    return visited


def influences(graph: fx.Graph, node: fx.Node) -> bool:
    """Return whether the graph's output depends on a node."""
    return next(iter(reversed(graph.nodes))) in descendants(node)


def crossing(graph: fx.Graph, node: fx.Node) -> list[fx.Node]:
    """Return the nodes that the part after `node` reads besides it: none where the layer separates the graph.

    Values that depend on no input (parameters and what is computed from them) do not count, since the head computes them
    itself, nor do sizes: they are the same for all images of a batch.
    """
    return [n for n in _read_behind(graph, node) if not is_size(n)]


def measured(graph: fx.Graph, node: fx.Node) -> list[fx.Node]:
    """Return the nodes before `node` of whose value the part after it reads sizes other than that of the batch, and nothing else."""
    read = _read_behind(graph, node)
    tensors = dict.fromkeys(tensor for n in read if is_size(n) for tensor in _measured_by(n))
    return [tensor for tensor in tensors if tensor is not node and tensor not in read]


def _read_behind(graph: fx.Graph, node: fx.Node) -> list[fx.Node]:
    after = descendants(node)
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    varying = set(inputs).union(*(descendants(n) for n in inputs))
    reads = {arg: None for user in graph.nodes if user in after for arg in user.all_input_nodes}
    return [n for n in reads if n in varying and n not in after and n is not node]


def behind_grid(head: fx.GraphModule, grid: Grid) -> fx.GraphModule:
    """Return a head that reads maps, and the prefix tokens next, where the given one reads the layer's output as it lies."""
    if grid.layout == "maps":
        return head
    graph = fx.Graph()
    output, *context = (node for node in head.graph.nodes if node.op == "placeholder")
    tracer = fx.proxy.GraphAppendingTracer(graph)
    maps, *prefix = (fx.Proxy(graph.placeholder(name), tracer) for name in ("maps", "prefix")[: 2 if grid.prefix else 1])
    env = {output: grid.join(maps, *prefix).node}
    env |= {node: graph.placeholder(node.name) for node in context}
    for node in head.graph.nodes:
        if node.op not in ("placeholder", "output"):
            env[node] = graph.node_copy(node, env.__getitem__)
    (result,) = next(node for node in head.graph.nodes if node.op == "output").args
    graph.output(env[result])
    return runnable(head, graph)


def is_batch_size(node: fx.Node) -> bool:
    """Return whether a node is `x.size(0)` or `x.shape[0]`."""
    if node.op == "call_method" and node.target == "size":
        return bool(node.args[1:] == (0,))
    if node.op == "call_function" and node.target is operator.getitem and node.args[1] == 0:
        source = node.args[0]
        if isinstance(source, fx.Node) and source.op == "call_function":
            return bool(source.target is getattr and source.args[1] == "shape")
        return isinstance(source, fx.Node) and source.op == "call_method" and source.target == "size" and len(source.args) == 1
    return False


def is_size(node: fx.Node) -> bool:
    """Return whether a node is a tensor's shape, one of its sizes, its dtype or device, or is computed from these alone."""
    if node.op == "call_method" and node.target in ("size", "dim"):
        return True
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in ("shape", "ndim", "dtype", "device")
    inputs = node.all_input_nodes
    return node.op in ("call_function", "call_method") and bool(inputs) and all(map(is_size, inputs))


def _measured_by(size: fx.Node) -> list[fx.Node]:
    """Return the tensors from whose sizes, other than that of the batch, a node is computed."""
    if is_batch_size(size):
        return []
    return [tensor for part in size.all_input_nodes for tensor in (_measured_by(part) if is_size(part) else [part])]


def carried(tensor: Tensor) -> Tensor:
    """Return an empty tensor that holds the sizes of a tensor (N,...) as (N,0,...): a head reads sizes where it must not need values."""
    return tensor.new_empty(len(tensor), 0, *tensor.shape[1:])


def with_sizes(carrier: Tensor) -> Tensor:
    """Return zeros of the sizes that `carried` has written down, in the memory of one number."""
    return carrier.new_zeros(()).expand(len(carrier), *carrier.shape[2:])


def _measured(node: fx.Node) -> object:
    """Return the node of the tensor whose batch size this is."""
    source = node.args[0]
    return source.args[0] if node.op == "call_function" and isinstance(source, fx.Node) else source


def extract(
    module: nn.Module,
    wanted: Iterable[fx.Node],
    inputs: Sequence[fx.Node],
    outputs: fx.Node | tuple[fx.Node, list[fx.Node]],
    sizes: Mapping[fx.Node, fx.Node] | None = None,
) -> fx.GraphModule:
    """Return a module that computes `outputs` from `inputs` with the `wanted` nodes, given in graph order; submodules are shared.

    Batch sizes of tensors outside are read from the first input, so that the module accepts any number of images. `sizes` gives for
    a tensor outside the input that has `carried` its other sizes.
    """
    graph, wanted = fx.Graph(), list(wanted)
    inside = {*inputs, *wanted}
    env: dict[fx.Node, fx.Node] = {node: graph.placeholder(node.name) for node in inputs}
    batch = graph.call_method("size", (env[inputs[0]], 0)) if inputs else None
    env |= {tensor: graph.call_function(with_sizes, (env[carrier],)) for tensor, carrier in (sizes or {}).items()}

    def value(node: fx.Node) -> fx.Node:
        if node not in env:
            if is_batch_size(node) and batch is not None and _measured(node) not in inside:
                return batch
            env[node] = graph.node_copy(node, value)
        return env[node]

    for node in wanted:
        if not is_batch_size(node) and node.target is not getattr and node.target != "size":
            value(node)  # also without readers, since it may be an in-place operation
    graph.output(value(outputs) if isinstance(outputs, fx.Node) else (value(outputs[0]), [value(n) for n in outputs[1]]))
    return runnable(module, graph)


def runnable(module: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """Return a module that runs a graph whose parts are those of `module`."""
    part = fx.GraphModule(module, graph)
    type(part).__call__ = nn.Module.__call__  # type: ignore[method-assign]  # torch's own prints generated code where an operation fails
    return part
