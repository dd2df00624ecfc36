"""Analysis of a head's graph: how far the channels stay separate, and which operation mixes them first.

The head is r ∘ L ∘ g, where g treats each channel by itself and L is the first operation that mixes channels. The walk
uses a list of known operations. An operation that is not on the list ends the walk: this costs speed, never exactness.
"""

import operator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from evalkit.models import graph
from evalkit.models.graph import is_batch_size, shape

ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh,
    nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Softsign, nn.Identity,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.PReLU,
)  # fmt: skip
BY_AXIS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.PReLU)
"""Of these, those that take the axis after the batch for the channels."""
_SPATIAL = (nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.ZeroPad2d, nn.ReflectionPad2d)
ELEMENTWISE_FUNCTIONS: set[object] = {
    torch.relu, torch.sigmoid, torch.tanh, F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish,
    F.hardswish, F.hardsigmoid, F.hardtanh, F.softplus, F.softsign, F.sigmoid, F.tanh,
}  # fmt: skip
_SPATIAL_FUNCTIONS: set[object] = {F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, torch.max_pool2d}
ARITHMETIC: set[object] = {
    operator.add, operator.iadd, torch.add, operator.sub, operator.mul, operator.imul, torch.mul, operator.truediv,
}  # fmt: skip
_RESHAPE_METHODS = {"flatten", "view", "reshape", "squeeze", "contiguous"}
_RESHAPES: set[object] = {torch.flatten, torch.reshape, torch.squeeze}
MOVES: set[object] = {torch.permute, torch.transpose, "permute", "transpose"}


@dataclass(frozen=True)
class Walk:
    """How far the channels stay separate.

    `steps` are the nodes passed (g), `state` is the last of them (or the activations), `mixing` is the node of L where
    it is a Linear or an ungrouped Conv2d that nothing bypasses, else None. The channels of `state` are its axis 1.
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
    passed: list[fx.Node] = []
    state, axis = start, 1
    walked = Walk([], start, None)
    while True:
        users = [user for user in state.users if not _only_batch_size(user)]
        if len(users) != 1 or users[0].op == "output":
            return walked
        node = users[0]
        following = _channel_axis(head, node, state, axis)
        if following is None:
            return replace(walked, mixing=node) if walked.state is state and _is_mixing(head, node, state) else walked
        passed.append(node)
        state, axis = node, following
        if axis == 1:
            walked = Walk(list(passed), state, None)


def is_pooling_only(head: fx.GraphModule, steps: list[fx.Node]) -> bool:
    """Return whether g is only global average pooling (CAM's condition), apart from dropout, reshapes and moved axes."""
    pooled = False
    channels = shape(next(node for node in head.graph.nodes if node.op == "placeholder"))[1]
    for node in steps:
        module = _module(head, node)
        averages = type(module) in (nn.AdaptiveAvgPool2d, nn.AvgPool2d) or calls(node, {F.adaptive_avg_pool2d, F.avg_pool2d})
        if averages or _averaged_axes(node) is not None:
            pooled = shape(node)[1:].numel() == channels
        elif type(module) not in (nn.Dropout, nn.Dropout2d, nn.Identity, nn.Flatten) and not (
            calls(node, _RESHAPES, _RESHAPE_METHODS) or node.target in MOVES or is_idle_dropout(node)
        ):
            return False
    return pooled


def has_parameters(head: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a node calls a module with parameters or buffers."""
    module = _module(head, node)
    return module is not None and bool([*module.parameters(), *module.buffers()])


def _module(head: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return head.get_submodule(str(node.target)) if node.op == "call_module" else None


def calls(node: fx.Node, functions: set[object], methods: set[str] = frozenset()) -> bool:  # type: ignore[assignment]
    """Return whether a node calls one of these functions, or a method of one of these names."""
    return (node.op == "call_function" and node.target in functions) or (node.op == "call_method" and node.target in methods)


def _only_batch_size(node: fx.Node) -> bool:
    return is_batch_size(node) or (len(node.users) > 0 and all(is_batch_size(user) for user in node.users))


def _channel_axis(head: fx.GraphModule, node: fx.Node, state: fx.Node, axis: int) -> int | None:
    """Return the axis of the channels in a node's value, they being `axis` of `state`; None where they do not stay apart."""
    before, after = shape(state), shape(node)
    if len(after) < 2 or after[0] != 2:
        return None
    if calls(node, ARITHMETIC):
        return axis if after == before and all(_is_own_or_constant(arg, state) for arg in node.args) else None
    if calls(node, {torch.cat}):
        return _axis_in_sequence(node, state, axis)
    if node.all_input_nodes[0] is not state:
        return None
    module = _module(head, node)
    if isinstance(module, nn.Flatten) or calls(node, _RESHAPES, _RESHAPE_METHODS):
        return _axis_in_reshaped(before, after, axis)
    if node.target in MOVES:
        return _axis_in_moved(node, len(before), axis)
    if node.target is operator.getitem:
        return _axis_in_part(node, axis)
    if type(module) in ELEMENTWISE or calls(node, ELEMENTWISE_FUNCTIONS, {"relu", "sigmoid", "tanh"}) or is_idle_dropout(node):
        return axis if after == before and (axis == 1 or type(module) not in BY_AXIS) else None
    averaged = _averaged_axes(node)
    if averaged is not None:
        gone = {number % len(before) for number in averaged}
        return None if {0, axis} & gone else axis - (0 if len(after) == len(before) else sum(number < axis for number in gone))
    if len(before) != 4 or axis != 1 or after[1] != before[1]:
        return None
    if type(module) is nn.Conv2d:
        return 1 if module.groups == module.in_channels == module.out_channels else None
    return 1 if type(module) in _SPATIAL or calls(node, _SPATIAL_FUNCTIONS) else None


def _axis_in_reshaped(before: torch.Size, after: torch.Size, axis: int) -> int | None:
    """Follow the channels where axes other than theirs are merged, or where they come first and everything is flattened."""
    if after == before:
        return axis
    channels = before[axis]
    if axis == 1 and after[1:].numel() == before[1:].numel() and (len(after) == 2 or after[1] == channels):
        return 1
    return len(after) - 1 if axis == len(before) - 1 and len(after) > 2 and after[-1] == channels else None


def _axis_in_moved(node: fx.Node, axes: int, axis: int) -> int | None:
    """Follow the channels through `permute` and `transpose`."""
    order = order_of_axes(node, axes)
    if order is None:
        return None
    moved = order.index(axis)
    return moved if moved > 0 and order[0] == 0 else None


def order_of_axes(node: fx.Node, axes: int) -> list[int] | None:
    """Return which axis of its input each axis of a `permute` or `transpose` is; None where that is no list of numbers."""
    given = node.args[1:]
    order = list(given[0]) if len(given) == 1 and isinstance(given[0], list | tuple) else list(given)
    if node.kwargs or not all(isinstance(number, int) for number in order):
        return None
    numbers: list[int] = [number % axes for number in order]  # type: ignore[operator,misc]
    if "transpose" in str(getattr(node.target, "__name__", node.target)):
        numbers = [dict(zip(numbers, reversed(numbers), strict=True)).get(number, number) for number in range(axes)]
    return numbers


def _axis_in_sequence(node: fx.Node, state: fx.Node, axis: int) -> int | None:
    """Follow the channels where constants, such as prefix tokens, are put before or behind the positions."""
    parts = node.args[0]
    along = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    if not isinstance(parts, list | tuple) or not isinstance(along, int) or along % len(shape(state)) in (0, axis):
        return None
    others = [part for part in parts if part is not state]
    constant = all(isinstance(part, fx.Node) and part.op == "placeholder" for part in others)
    return axis if constant and len(others) == len(parts) - 1 else None


def _axis_in_part(node: fx.Node, axis: int) -> int | None:
    """Follow the channels where some positions are taken, as in `tokens[:, 0]` or `tokens[:, 1:]`."""
    index = node.args[1]
    parts = index if isinstance(index, tuple) else ()
    if not parts or not all(isinstance(part, int) or is_plain_slice(part) for part in parts):
        return None
    whole = slice(None)
    if parts[0] != whole or (len(parts) > axis and parts[axis] != whole):
        return None
    return axis - sum(isinstance(part, int) for part in parts[:axis])


def is_plain_slice(part: object) -> bool:
    """Return whether this is a slice whose bounds are numbers."""
    return isinstance(part, slice) and all(bound is None or isinstance(bound, int) for bound in (part.start, part.stop, part.step))


def _is_own_or_constant(arg: object, state: fx.Node) -> bool:
    if isinstance(arg, fx.Node):  # the head's context, such as a residual, is constant while channels are ablated
        return arg is state or (arg.op == "placeholder" and shape(arg) == shape(state))
    return isinstance(arg, int | float)


def is_idle_dropout(node: fx.Node) -> bool:
    """Return whether a node is a functional dropout that changes nothing."""
    return calls(node, {F.dropout}) and (node.kwargs.get("training") is False or node.args[2:3] == (False,))


def _averaged_axes(node: fx.Node) -> list[int] | None:
    """Return the axes over which a node averages; None where it does something else."""
    axes = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    numbers = [axes] if isinstance(axes, int) else axes
    if not calls(node, {torch.mean}, {"mean"}) or not isinstance(numbers, list | tuple):
        return None
    return [number for number in numbers if isinstance(number, int)] if all(isinstance(number, int) for number in numbers) else None


def _is_mixing(head: fx.GraphModule, node: fx.Node, state: fx.Node) -> bool:
    module = _module(head, node)
    if type(module) is nn.Linear:
        return len(shape(state)) == 2
    return type(module) is nn.Conv2d and module.groups == 1 and module.padding_mode == "zeros" and len(shape(state)) == 4
