"""Dead positions: where a head reads a few positions of an operation's output, the operation is needed there only.

A vision transformer's classifier reads `x[:, 0]`, its class token. Whatever treats each position by itself gives the same value
there when it is applied to the selected positions only, so the selection moves towards the input, up to the last attention, of
which it keeps the queries. An operation that is not known here ends the move: this costs speed, never exactness.
"""

import operator
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from evalkit.models import channelwise
from evalkit.models.expand import expand, remove_unread, writes
from evalkit.models.graph import runnable, shape

_SOFTMAX: set[object] = {torch.softmax, F.softmax, "softmax"}
_MATMUL: set[object] = {torch.matmul, torch.bmm, operator.matmul, "matmul", "bmm"}
_UNBIND: set[object] = {torch.unbind, "unbind"}
_CHUNK: set[object] = {torch.chunk, torch.split, "chunk", "split"}
_RESHAPE: set[object] = {torch.reshape, "reshape", "view"}
_FLATTEN: set[object] = {torch.flatten, "flatten"}
_UNFLATTEN: set[object] = {torch.unflatten, "unflatten"}
_SELECT: set[object] = {torch.select, "select"}
_SAME: set[object] = {"relu", "sigmoid", "tanh", "contiguous", "clone"}
_LEAST_SAVED = 0.5
"""A selection of more than this share of the positions stays where it is."""


def without_dead_positions(head: fx.GraphModule, *inputs: Tensor) -> tuple[fx.GraphModule, bool] | None:
    """Return a head of the same values in plain operations (`expand`) that leaves out what nobody reads, and whether it leaves out any.

    Sizes other than the number of images are fixed to those of `inputs`, the activations and the context of at least one image.
    None for a head that writes into tensors, since selections are views of them.
    """
    if writes(head):
        return None
    graph = expand(head, *inputs)
    push = _Push(head, graph)
    for node in list(graph.nodes):
        push.replace(node)
    remove_unread(graph)
    return runnable(head, graph), push.moved > 0


class _Push:
    """Moves selections of positions towards the inputs of a graph with known shapes."""

    def __init__(self, head: fx.GraphModule, graph: fx.Graph) -> None:
        self.head, self.graph = head, graph
        self.moved = 0
        self._made: dict[tuple[fx.Node, int, int, int], fx.Node] = {}

    def replace(self, node: fx.Node) -> None:
        """Replace a node that selects positions by one that reads an operation on the selected positions; bypass one that selects all."""
        if node.target is operator.getitem and isinstance(node.args[0], fx.Node) and _selects_all(node.args[0], node):
            node.replace_all_uses_with(node.args[0])
            return
        for source, axis, start, stop, index in _selections(node):
            if stop - start > _LEAST_SAVED * shape(source)[axis] or axis in source.meta["batch"]:
                continue
            before = self.moved
            with self.graph.inserting_before(node):
                taken = self._take(source, axis, start, stop)
                selected = self._call("call_function", operator.getitem, (taken, index), {}, node, shape(node))
            if self.moved == before:
                self.graph.erase_node(selected)
                continue
            node.replace_all_uses_with(selected)
            return

    def _take(self, node: fx.Node, axis: int, start: int, stop: int) -> fx.Node:
        """Return a node with the positions `start` to `stop` of an axis of a node's value; the axis stays."""
        size = list(shape(node))
        if (start, stop) == (0, size[axis]):
            return node
        key = node, axis, start, stop
        if key not in self._made:
            size[axis] = stop - start
            call = None if axis in node.meta["batch"] else self._moved(node, axis, start, stop)
            if call is not None:
                self.moved += 1
            op, target, args, kwargs = call or ("call_method", "narrow", (node, axis, start, stop - start), {})
            self._made[key] = self._call(op, target, args, kwargs, node, torch.Size(size))
        return self._made[key]

    def _call(self, op: str, target: Any, args: Any, kwargs: Any, like: fx.Node, size: torch.Size) -> fx.Node:
        made = self.graph.create_node(op, target, tuple(args), kwargs)
        made.meta.update(shape=size, batch=like.meta["batch"])
        return made

    def _moved(self, node: fx.Node, axis: int, start: int, stop: int) -> tuple[str, Any, tuple[Any, ...], dict[str, Any]] | None:
        """Return the call that computes the selected positions from selected positions of what a node reads; None where unknown."""
        if node.op not in ("call_module", "call_function", "call_method") or not node.args:
            return None
        span, args, first = (start, stop), list(node.args), node.args[0]
        target = node.target
        if channelwise.calls(node, {torch.cat}):
            return self._cat(node, axis, *span)
        if channelwise.calls(node, channelwise.ARITHMETIC):
            # A number, or a tensor that is the same at all positions, is read as it is.
            return node.op, target, tuple(self._operand(arg, node, axis, *span) for arg in args), node.kwargs
        if not isinstance(first, fx.Node):
            return None
        if target is F.scaled_dot_product_attention:
            return self._attention(node, axis, *span)
        if target is operator.getitem:
            return self._part(node, axis, *span)
        source = self._source_axis(node, first, axis)
        if source is None or source in first.meta.get("batch", ()):
            return None
        args[0] = self._take(first, source, *span)
        if target in _RESHAPE:
            sizes = list(args[1]) if isinstance(args[1], list | tuple) else args[1:]
            sizes[axis] = stop - start
            return "call_method", "reshape", (args[0], *sizes), {}
        return node.op, target, tuple(args), node.kwargs

    def _operand(self, arg: Any, node: fx.Node, axis: int, start: int, stop: int) -> Any:
        if not isinstance(arg, fx.Node):
            return arg
        own = axis - len(shape(node)) + len(shape(arg))
        return arg if own < 0 or shape(arg)[own] == 1 else self._take(arg, own, start, stop)

    def _attention(self, node: fx.Node, axis: int, start: int, stop: int) -> Any:
        """Select queries, and the rows of a mask."""
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = dict(zip(names, node.args, strict=False)) | node.kwargs
        if axis != len(shape(node)) - 2 or given.get("is_causal") or given.get("dropout_p") or given.get("enable_gqa"):
            return None
        if not all(isinstance(given.get(name), fx.Node) for name in names[:3]):
            return None
        given["query"] = self._take(given["query"], axis, start, stop)  # type: ignore[arg-type]
        given["attn_mask"] = self._operand(given.get("attn_mask"), node, axis, start, stop)
        return node.op, node.target, (given.pop("query"), given.pop("key"), given.pop("value")), given

    def _cat(self, node: fx.Node, axis: int, start: int, stop: int) -> Any:
        """Select in each part; along the axis of the positions, in the parts that hold some of them."""
        parts, along = node.args[0], node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        if not isinstance(parts, list | tuple) or not isinstance(along, int) or not all(isinstance(part, fx.Node) for part in parts):
            return None
        taken: list[Any] = []
        offset = 0
        for part in parts:
            assert isinstance(part, fx.Node)
            if along % len(shape(node)) != axis:
                taken.append(self._take(part, axis, start, stop))
                continue
            size = shape(part)[axis]
            low, high = max(start - offset, 0), min(stop - offset, size)
            if low < high:
                taken.append(self._take(part, axis, low, high))
            offset += size
        return "call_function", torch.cat, (taken, along), {}

    def _part(self, node: fx.Node, axis: int, start: int, stop: int) -> Any:
        """Select in the whole of which a node reads a part: one of several tensors, or a slice."""
        whole, index = node.args
        assert isinstance(whole, fx.Node)
        if isinstance(index, int) and channelwise.calls(whole, _UNBIND | _CHUNK, _names(_UNBIND | _CHUNK)):
            source = whole.args[0]
            unbinds = whole.target in _UNBIND
            given = whole.args[1:] if unbinds else whole.args[2:]
            dim = whole.kwargs.get("dim", given[0] if given else 0)
            if not isinstance(source, fx.Node) or not isinstance(dim, int):
                return None
            dim %= len(shape(source))
            own = axis + (unbinds and dim <= axis)
            if dim == own or own in source.meta["batch"]:
                return None
            taken = self._take(source, own, start, stop)
            tuple_of = self.graph.create_node(whole.op, whole.target, (taken, *whole.args[1:]), whole.kwargs)
            tuple_of.meta.update(batch=())
            return "call_function", operator.getitem, (tuple_of, index), {}
        parts = _plain_index(index, len(shape(whole)))
        if parts is None:
            return None
        own = [number for number, part in enumerate(parts) if isinstance(part, slice)][axis]
        low, high, step = parts[own].indices(shape(whole)[own])
        if step != 1 or own in whole.meta["batch"]:
            return None
        parts[own] = slice(None)
        return "call_function", operator.getitem, (self._take(whole, own, low + start, min(low + stop, high)), tuple(parts)), {}

    def _source_axis(self, node: fx.Node, source: fx.Node, axis: int) -> int | None:
        """Return the axis of the first input along which the same positions lie; None where a position reads others."""
        before, after = shape(source), shape(node)
        target = node.target
        if not before or not after:
            return None
        if node.target in channelwise.MOVES:
            return _before_move(node, len(before), axis)
        module = self.head.get_submodule(str(target)) if node.op == "call_module" else None
        if target in _RESHAPE or target in _FLATTEN or target in _UNFLATTEN:
            own = _before_reshape(source, node, axis)
            divided = node.args[1] if target in _UNFLATTEN and len(node.args) == 3 else None
            return None if target in _UNFLATTEN and (not isinstance(divided, int) or divided % len(before) == own) else own
        if len(before) != len(after) or before[axis] != after[axis]:
            return None
        from_end = len(after) - axis
        if target in _MATMUL:
            return axis if from_end == 2 else None
        if isinstance(module, nn.Softmax) or target in _SOFTMAX:
            dim = module.dim if isinstance(module, nn.Softmax) else node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
            return axis if isinstance(dim, int) and dim % len(after) != axis else None
        if type(module) in (nn.LayerNorm, nn.RMSNorm) or target in (F.layer_norm, F.rms_norm):
            normalised = node.args[1] if len(node.args) > 1 else node.kwargs.get("normalized_shape")
            if isinstance(module, nn.LayerNorm | nn.RMSNorm):
                normalised = module.normalized_shape
            return axis if isinstance(normalised, list | tuple) and from_end > len(normalised) else None
        if type(module) is nn.Linear or target is F.linear:
            return axis if from_end > 1 else None
        same = type(module) in channelwise.ELEMENTWISE and type(module) not in channelwise.BY_AXIS
        same = same or channelwise.calls(node, channelwise.ELEMENTWISE_FUNCTIONS, _names(_SAME)) or channelwise.is_idle_dropout(node)
        return axis if same and before == after else None


def _names(targets: set[object]) -> set[str]:
    return {target for target in targets if isinstance(target, str)}


def _selections(node: fx.Node) -> Iterator[tuple[fx.Node, int, int, int, tuple[Any, ...]]]:
    """Yield source, axis, start, stop and the index that is left, of a node that selects neighbouring positions along an axis."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or not shape(source) or not shape(node):
        return
    size = shape(source)
    index: Any = node.args[1] if node.target is operator.getitem and node.op == "call_function" else None
    if node.target in _SELECT and len(node.args) == 3 and all(isinstance(arg, int) for arg in node.args[1:]):
        index = (*[slice(None)] * (node.args[1] % len(size)), node.args[2])  # type: ignore[operator]
    parts = _plain_index(index, len(size))
    for axis, part in enumerate(parts or ()):
        assert parts is not None
        if isinstance(part, int):
            at = part % size[axis]
            yield source, axis, at, at + 1, (*parts[:axis], 0, *parts[axis + 1 :])
        elif part != slice(None) and part.indices(size[axis])[2] == 1:
            start, stop, _ = part.indices(size[axis])
            if start < stop:
                yield source, axis, start, stop, (*parts[:axis], slice(None), *parts[axis + 1 :])


def _selects_all(source: fx.Node, node: fx.Node) -> bool:
    parts = _plain_index(node.args[1], len(shape(source)))
    slices = parts is not None and all(isinstance(part, slice) and part.step in (None, 1) and not part.start for part in parts)
    return slices and len(shape(source)) > 0 and shape(source) == shape(node) and all(parts[a] == slice(None) for a in source.meta["batch"])  # type: ignore[index]


def _plain_index(index: object, axes: int) -> list[Any] | None:
    """Return one whole number or slice for each axis; None where an index holds something else."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if len(parts) > axes or not all(
        (isinstance(part, int) and not isinstance(part, bool)) or channelwise.is_plain_slice(part) for part in parts
    ):
        return None
    return parts + [slice(None)] * (axes - len(parts))


def _before_move(node: fx.Node, axes: int, axis: int) -> int | None:
    """Follow an axis back through `permute` and `transpose`."""
    order = channelwise.order_of_axes(node, axes)
    return None if order is None else order[axis]


def _before_reshape(source: fx.Node, node: fx.Node, axis: int) -> int | None:
    """Follow an axis back through a reshape that keeps it whole: as many elements lie before it and behind it, for any batch."""
    size = shape(node)[axis]
    if size < 2 or axis in node.meta["batch"]:
        return None
    for own, other in enumerate(shape(source)):
        if other == size and own not in source.meta["batch"]:
            ahead, behind = (shape(source)[:own], shape(node)[:axis]), (shape(source)[own + 1 :], shape(node)[axis + 1 :])
            batch_ahead = any(number < own for number in source.meta["batch"]) == any(number < axis for number in node.meta["batch"])
            if ahead[0].numel() == ahead[1].numel() and behind[0].numel() == behind[1].numel() and batch_ahead:
                return own
    return None
