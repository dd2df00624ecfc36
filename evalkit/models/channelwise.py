"""Analysis of a head's graph: how far the channels stay separate, and which operation mixes them first.

The head is r ∘ L ∘ g, where g treats each channel by itself and L is the first operation that mixes channels. The walk
uses a list of known operations. An operation that is not on the list ends the walk: this costs speed, never exactness.
"""

import operator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from evalkit.models import graph
from evalkit.models.graph import is_batch_size, shape

_ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh,
    nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Softsign, nn.Identity,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.PReLU,
)  # fmt: skip
_SPATIAL = (nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.ZeroPad2d, nn.ReflectionPad2d)
_ELEMENTWISE_FUNCTIONS: set[object] = {
    torch.relu, torch.sigmoid, torch.tanh, F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish,
    F.hardswish, F.hardsigmoid, F.hardtanh, F.softplus, F.softsign, F.sigmoid, F.tanh,
}  # fmt: skip
_SPATIAL_FUNCTIONS: set[object] = {F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, torch.max_pool2d}
_ARITHMETIC: set[object] = {
    operator.add, operator.iadd, torch.add, operator.sub, operator.mul, operator.imul, torch.mul, operator.truediv,
}  # fmt: skip
_RESHAPE_METHODS = {"flatten", "view", "reshape", "squeeze", "contiguous"}
_RESHAPES: set[object] = {torch.flatten, torch.reshape, torch.squeeze}


@dataclass(frozen=True)
class Walk:
    """How far the channels stay separate.

    `steps` are the nodes passed (g), `state` is the last of them (or the activations), `mixing` is the node of L where
    it is a Linear or an ungrouped Conv2d that nothing bypasses, else None.
    """

    steps: list[fx.Node]
    state: fx.Node
    mixing: fx.Node | None


def propagate(head: fx.GraphModule, activations: Tensor, context: tuple[Tensor, ...]) -> None:
    """Write every tensor's shape for a batch of two into the graph; with two, no axis of size 1 is mistaken for the batch."""
    pair = [torch.cat([t[:1], t[:1]]) for t in (activations, *context)]
    graph.propagate(head, head.graph, *pair)


def walk(head: fx.GraphModule, start: fx.Node) -> Walk:
    """Follow the channels of `start` through a head with known shapes (see `propagate`)."""
    channels = shape(start)[1]
    steps: list[fx.Node] = []
    state = start
    while True:
        users = [user for user in state.users if not _only_batch_size(user)]
        if len(users) != 1 or users[0].op == "output":
            return Walk(steps, state, None)
        node = users[0]
        if _keeps_channels_apart(head, node, state, channels):
            steps.append(node)
            state = node
            continue
        return Walk(steps, state, node if _is_mixing(head, node, state) else None)


def is_pooling_only(head: fx.GraphModule, steps: list[fx.Node]) -> bool:
    """Return whether g is only global average pooling (CAM's condition), apart from dropout and reshapes."""
    pooled = False
    for node in steps:
        module = _module(head, node)
        averages = type(module) in (nn.AdaptiveAvgPool2d, nn.AvgPool2d) or _calls(node, {F.adaptive_avg_pool2d, F.avg_pool2d})
        if averages or _is_spatial_mean(node):
            pooled = shape(node)[2:].numel() == 1
        elif type(module) not in (nn.Dropout, nn.Dropout2d, nn.Identity, nn.Flatten) and not (
            _calls(node, _RESHAPES, _RESHAPE_METHODS) or _is_idle_dropout(node)
        ):
            return False
    return pooled


def has_parameters(head: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a node calls a module with parameters or buffers."""
    module = _module(head, node)
    return module is not None and bool([*module.parameters(), *module.buffers()])


def _module(head: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return head.get_submodule(str(node.target)) if node.op == "call_module" else None


def _calls(node: fx.Node, functions: set[object], methods: set[str] = frozenset()) -> bool:  # type: ignore[assignment]
    return (node.op == "call_function" and node.target in functions) or (node.op == "call_method" and node.target in methods)


def _only_batch_size(node: fx.Node) -> bool:
    return is_batch_size(node) or (len(node.users) > 0 and all(is_batch_size(user) for user in node.users))


def _keeps_channels_apart(head: fx.GraphModule, node: fx.Node, state: fx.Node, channels: int) -> bool:
    before, after = shape(state), shape(node)
    if len(after) not in (2, 4) or after[0] != 2:
        return False
    if _calls(node, _ARITHMETIC):
        return after == before and all(_is_own_or_constant(arg, state) for arg in node.args)
    if node.all_input_nodes[0] is not state:
        return False
    module = _module(head, node)
    if isinstance(module, nn.Flatten) or _calls(node, _RESHAPES, _RESHAPE_METHODS):
        flat = len(after) == 2 and after[1] == before[1:].numel()
        return flat or after in (before, (2, channels, 1, 1))
    if type(module) in _ELEMENTWISE or _calls(node, _ELEMENTWISE_FUNCTIONS, {"relu", "sigmoid", "tanh"}) or _is_idle_dropout(node):
        return after == before
    if len(before) != 4 or after[1] != channels:
        return False
    if type(module) is nn.Conv2d:
        return module.groups == module.in_channels == module.out_channels
    return type(module) in _SPATIAL or _calls(node, _SPATIAL_FUNCTIONS) or _is_spatial_mean(node)


def _is_own_or_constant(arg: object, state: fx.Node) -> bool:
    if isinstance(arg, fx.Node):  # the head's context, such as a residual, is constant while channels are ablated
        return arg is state or (arg.op == "placeholder" and shape(arg) == shape(state))
    return isinstance(arg, int | float)


def _is_idle_dropout(node: fx.Node) -> bool:
    return _calls(node, {F.dropout}) and (node.kwargs.get("training") is False or node.args[2:3] == (False,))


def _is_spatial_mean(node: fx.Node) -> bool:
    axes = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    if not _calls(node, {torch.mean}, {"mean"}) or not isinstance(axes, list | tuple):
        return False
    return {axis % 4 for axis in axes if isinstance(axis, int)} == {2, 3}


def _is_mixing(head: fx.GraphModule, node: fx.Node, state: fx.Node) -> bool:
    module = _module(head, node)
    if type(module) is nn.Linear:
        return len(shape(state)) == 2
    return type(module) is nn.Conv2d and module.groups == 1 and module.padding_mode == "zeros" and len(shape(state)) == 4
