"""A head whose tokens reach it through one LayerNorm and linear layers, in parts: what `evalkit.ablation.tokens` computes with."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from evalkit.models.channelwise import MOVES
from evalkit.models.graph import descendants, extract, is_batch_size, runnable, shape

_REARRANGE: set[object] = {
    *MOVES, "reshape", "view", "flatten", "unflatten", "contiguous", "narrow", "select", "unbind", "chunk", "split",
    torch.reshape, torch.flatten, torch.narrow, torch.select, torch.unbind, torch.chunk, torch.split,
}  # fmt: skip


@dataclass(frozen=True)
class Attention:
    """An attention whose queries are the same for all variants, and whose keys and values are outputs of linear layers."""

    node: fx.Node
    query: fx.Node
    key: tuple[int, Tensor]
    """Number of the linear layer, and which of its outputs (heads, d) each head reads."""
    value: tuple[int, Tensor]
    mask: fx.Node | None
    scale: float


@dataclass
class Parts:
    """Parts of a head: maps, and prefix tokens, make tokens (N,T,K); LayerNorm; linear layers; attentions; the rest.

    `fixed` are the values that the rest and the attentions read and that no ablated channel changes, each with its batch axis.
    """

    tokens: fx.GraphModule
    prefix: int
    eps: float | None
    """That of the LayerNorm; None where there is none."""
    linears: list[fx.Node]
    parameters: fx.GraphModule
    """Returns the LayerNorm's weight and bias, the linear layers' weights and biases, and the attentions' masks, None for absent ones."""
    attentions: list[Attention]
    plain: list[fx.Node]
    """The linear layers of which something else reads the output."""
    fixed: list[fx.Node]
    compute_fixed: fx.GraphModule | None
    rest: fx.GraphModule
    """Reads the attentions' outputs, those of the `plain` linear layers, and `fixed`."""
    last: nn.Linear | None
    """The last layer, where it is linear: `rest` returns its input then."""
    size: int = field(default=0)
    """Numbers in the largest operation for one variant."""


def read(head: fx.GraphModule) -> Parts | None:
    """Take apart a head in plain operations (`without_dead_positions`); None where it is built otherwise."""
    maps, *context = (node for node in head.graph.nodes if node.op == "placeholder")
    found = _tokens(maps, context)
    if found is None:
        return None
    path, prefix = found
    norm = _only([user for user in path[-1].users if _is_norm(head, user)])
    linears = list((norm or path[-1]).users)
    if norm is not None and (set(path[-1].users) != {norm} or norm.args[0] is not path[-1]):
        return None
    from_context, ablated = _depending(context), _depending([maps])
    by_batch = {maps, *context}.union(*(descendants(node) for node in (maps, *context)))
    if not linears or not all(_is_linear(head, node, norm or path[-1], by_batch) for node in linears):
        return None
    behind = ablated - {*path, norm, *linears}
    if any(reader in {*path, norm} for node in behind for reader in node.all_input_nodes):
        return None
    output = _only(list(next(node for node in head.graph.nodes if node.op == "output").all_input_nodes))
    if output not in behind:
        return None
    found_attentions = (_attention(head, node, linears, by_batch, ablated) for node in head.graph.nodes if node in behind)
    attentions = [attention for attention in found_attentions if attention is not None]
    last = last_linear(head, output)
    wanted_output = output.args[0] if last is not None else output
    assert isinstance(wanted_output, fx.Node)
    needed = _needed(wanted_output, {a.node for a in attentions} | set(linears), behind)
    rest = [node for node in head.graph.nodes if node in needed]
    attentions = [a for a in attentions if a.node is wanted_output or needed.intersection(a.node.users)]
    reads = [read for node in rest for read in node.all_input_nodes if not is_batch_size(read) and read not in ablated]
    # What depends on parameters alone, and sizes, `extract` copies into the rest.
    varying = [node for node in reads if node in from_context or (shape(node) and node.meta["batch"])]
    fixed = list(dict.fromkeys([*(a.query for a in attentions), *varying]))
    if not all(shape(node) and len(node.meta["batch"]) == 1 for node in fixed):
        return None
    plain = [node for node in linears if needed.intersection(node.users) or node is wanted_output]
    inputs = [*(a.node for a in attentions), *plain, *fixed]
    return Parts(
        tokens=extract(head, path[1:], [maps, *context], path[-1]),
        prefix=prefix,
        eps=_eps(head, norm),
        linears=linears,
        parameters=_parameters(head, norm, linears, attentions),
        attentions=attentions,
        plain=plain,
        fixed=fixed,
        compute_fixed=extract(head, [], [maps, *context], (fixed[0], fixed[1:])) if fixed else None,
        rest=extract(head, rest, inputs, wanted_output),
        last=last,
        size=_size([*rest, *plain, *(a.node for a in attentions)], attentions, shape(path[-1])[1]),
    )


def _tokens(maps: fx.Node, context: list[fx.Node]) -> tuple[list[fx.Node], int] | None:
    """Return the nodes from the maps to the tokens (N,T,K), and the number of prefix tokens among them."""
    path, prefix = [maps], 0
    for target, args in (("flatten", (2,)), ("transpose", (1, 2))):
        following = _only([user for user in path[-1].users if not is_batch_size(user)])
        if following is None or following.target != target or following.args != (path[-1], *args):
            return None
        path.append(following)
    user = _only(list(path[-1].users))
    if user is not None and user.target is torch.cat:
        parts = user.args[0]
        first = parts[0] if isinstance(parts, list | tuple) and len(parts) == 2 and parts[1] is path[-1] else None
        if not isinstance(first, fx.Node) or first not in context or user.args[1:] != (1,):
            return None
        path.append(user)
        prefix = shape(first)[1]
    return path, prefix


def _only(nodes: list[fx.Node]) -> fx.Node | None:
    return nodes[0] if len(nodes) == 1 else None


def _depending(sources: Iterable[fx.Node]) -> set[fx.Node]:
    """Return the nodes whose values depend on those of `sources`, themselves included; the batch size is no value."""
    found, waiting = set(sources), list(sources)
    while waiting:
        for user in waiting.pop().users:
            if user not in found and user.op != "output" and not is_batch_size(user):
                found.add(user)
                waiting.append(user)
    return found


def _needed(output: fx.Node, stops: set[fx.Node], among: set[fx.Node]) -> set[fx.Node]:
    """Return the nodes of `among` that an output needs, back to `stops`."""
    found: set[fx.Node] = set()
    waiting = [output]
    while waiting:
        node = waiting.pop()
        if node in among and node not in found and node not in stops:
            found.add(node)
            waiting.extend(node.all_input_nodes)
    return found


def _is_norm(head: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a node normalises each token by itself, over its channels."""
    k = shape(node)[-1:]
    if node.op == "call_module":
        module = head.get_submodule(str(node.target))
        return type(module) is nn.LayerNorm and tuple(module.normalized_shape) == tuple(k)
    return node.target is F.layer_norm and tuple(_given(node, 1, "normalized_shape", ())) == tuple(k)


def _given(node: fx.Node, place: int, name: str, default: Any = None) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _eps(head: fx.GraphModule, norm: fx.Node | None) -> float | None:
    if norm is None:
        return None
    return float(head.get_submodule(str(norm.target)).eps if norm.op == "call_module" else _given(norm, 4, "eps", 1e-5))  # type: ignore[arg-type]


def _is_linear(head: fx.GraphModule, node: fx.Node, source: fx.Node, by_batch: set[fx.Node]) -> bool:
    """Return whether a node is a linear layer of `source` whose parameters are the same for all images."""
    if not node.args or node.args[0] is not source or by_batch.intersection(node.all_input_nodes) != {source}:
        return False
    if any(argument is source for argument in (*node.args[1:], *node.kwargs.values())):
        return False
    return type(head.get_submodule(str(node.target))) is nn.Linear if node.op == "call_module" else node.target is F.linear


def last_linear(head: fx.GraphModule, output: fx.Node) -> nn.Linear | None:
    """Return the linear layer that makes a head's output (N,C) of one value (N,in); None where something else does."""
    module = head.get_submodule(str(output.target)) if output.op == "call_module" else None
    return module if type(module) is nn.Linear and len(shape(output)) == 2 and len(output.args) == 1 else None


def _attention(
    head: fx.GraphModule, node: fx.Node, linears: list[fx.Node], by_batch: set[fx.Node], ablated: set[fx.Node]
) -> Attention | None:
    """Return an attention that `Attention` describes, or None for any other node."""
    if node.target is not F.scaled_dot_product_attention:
        return None
    query, key, value = (_given(node, place, name) for place, name in enumerate(("query", "key", "value")))
    mask, scale = _given(node, 3, "attn_mask"), _given(node, 9, "scale")
    if _given(node, 4, "dropout_p", 0) or _given(node, 5, "is_causal", False) or node.kwargs.get("enable_gqa"):
        return None
    if query in ablated or mask in by_batch or len(shape(query)) != 4 or query.meta["batch"] != (0,):
        return None
    keys, values = (_heads(head, source, linears) for source in (key, value))
    if keys is None or values is None or not len(keys[1]) == len(values[1]) == shape(query)[1]:
        return None
    return Attention(node, query, keys, values, mask, float(shape(query)[-1] ** -0.5 if scale is None else scale))


def _heads(head: fx.GraphModule, node: fx.Node, linears: list[fx.Node]) -> tuple[int, Tensor] | None:
    """Return the linear layer of which a node (N,heads,T,d) only rearranges the output, and its outputs by head (heads,d).

    The places are read off a run on the outputs' own numbers.
    """
    source, passed = node, []
    while source not in linears:
        inputs = [n for n in source.all_input_nodes if not is_batch_size(n)]
        part = source.op == "call_function" and getattr(source.target, "__name__", "") == "getitem"
        if len(inputs) != 1 or not (part or (source.op in ("call_function", "call_method") and source.target in _REARRANGE)):
            return None
        passed.append(source)
        source = inputs[0]
    _, tokens, out = shape(source)
    numbers = torch.arange(tokens * out, dtype=torch.float64).view(1, tokens, out)
    places = extract(head, passed[::-1], [source], node)(numbers)
    if places.dim() != 4 or places.shape[0] != 1 or places.shape[2] != tokens:
        return None
    rows = places[0, :, 0].long()
    expected = rows[:, None] + out * torch.arange(tokens)[:, None]
    if not bool((rows < out).all()) or not torch.equal(places[0].long(), expected):
        return None
    return linears.index(source), rows.to(_device(head))  # as an index of the host it would be sent for each image


def _device(head: fx.GraphModule) -> torch.device:
    return next(tensor.device for tensor in chain(head.parameters(), head.buffers()))


def _parameters(head: fx.GraphModule, norm: fx.Node | None, linears: list[fx.Node], attentions: list[Attention]) -> fx.GraphModule:
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}

    def value(node: fx.Node) -> fx.Node:
        if node not in env:
            env[node] = graph.node_copy(node, value)
        return env[node]

    def pair(node: fx.Node, places: tuple[int, int]) -> list[fx.Node | None]:
        if node.op == "call_module":
            module = head.get_submodule(str(node.target))
            return [None if getattr(module, name) is None else graph.get_attr(f"{node.target}.{name}") for name in ("weight", "bias")]
        given = (_given(node, place, name) for place, name in zip(places, ("weight", "bias"), strict=True))
        return [value(parameter) if isinstance(parameter, fx.Node) else None for parameter in given]

    of_norm = [None, None] if norm is None else pair(norm, (2, 3))
    graph.output((of_norm, [pair(node, (1, 2)) for node in linears], [None if a.mask is None else value(a.mask) for a in attentions]))
    return runnable(head, graph)


def _size(nodes: list[fx.Node], attentions: list[Attention], tokens: int) -> int:
    sizes = [shape(node).numel() + sum(shape(i).numel() for i in node.all_input_nodes if i in nodes) for node in nodes]
    return max([*(size // 2 for size in sizes), *(2 * shape(a.node)[1:3].numel() * tokens for a in attentions)])
