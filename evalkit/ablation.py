"""Exact score drops per ablated channel, in three tiers.

Ablation-CAM (Desai and Ramaswamy, WACV 2020, section 4) sets one channel k of the activations A to zero and repeats
the forward pass: y^k. Written head = r ∘ L ∘ g, with g acting on each channel by itself and L the first operation
that mixes channels, L being linear in its input,

    L(g(A with k ablated)) = L(g(A)) - L_k(g_k(A_k) - g_k(0)),        L_k = the part of L that reads channel k,

so that all K ablated inputs of r cost one application of L. No tier approximates:

1. L is the last layer: the drops are the subtrahend itself, no forward pass at all.
2. r runs on the K variants. Of a last linear layer only the row of the target class is computed; where r acts on
   each output channel by itself, only the target's channel of L is.
3. Anything else: g once, and whatever follows it repeated for every channel.
"""

import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from evalkit.models import channelwise
from evalkit.models.graph import descendants, extract, is_batch_size
from evalkit.models.split import Context, SplitModel

log = logging.getLogger(__name__)

BYTE_BUDGET = 256 * 2**20
"""Bytes that the variants of one chunk may take, intermediate values of the head included."""


class Tier(Protocol):
    """Computes `drops` for one head."""

    number: int
    reason: str

    def drops(self, activations: Tensor, context: Context, targets: Tensor, scores: Tensor) -> Tensor:
        """A (N,K,h,w), context, target classes (N,) and their scores y (N,) -> y - y^k, (N,K)."""
        ...


_tiers: weakref.WeakKeyDictionary[SplitModel, tuple[torch.Size, Tier]] = weakref.WeakKeyDictionary()


def tier_of(net: SplitModel, activations: Tensor, context: Context) -> Tier:
    """The model's tier, chosen when activations of this shape are first seen."""
    shape = activations.shape[1:]
    known = _tiers.get(net)
    if known is None or known[0] != shape:
        known = _tiers[net] = (shape, _choose(net, activations, context))
    return known[1]


def _choose(net: SplitModel, activations: Tensor, context: Context) -> Tier:
    """The cheapest exact tier for this head, read off its graph and then checked on the given activations."""
    head = net.head_graph
    if head is None:
        held = weakref.proxy(net)  # the cache must not keep its own key alive
        reason = "the model is not traced: the whole network is repeated"
        return Repeat(lambda a, c: held.head(a, c), None, reason, variant_bytes=16 * 2**20)  # noqa: PLW0108 - a bound method would hold it
    channelwise.propagate(head, activations, context)
    tier = _read(head)
    if tier.number < 3 and not _agrees(net, tier, activations, context):
        log.warning("tier %d differs from the plain head of '%s'; repeating the head instead (tier 3)", tier.number, net.layer)
        tier = _repeat(head, channelwise.Walk([], _inputs(head)[0], None), "its shortcut failed the check against the plain head")
    log.info("Ablation-CAM at '%s': tier %d, %s", net.layer, tier.number, tier.reason)
    return tier


def class_weights(net: SplitModel, activations: Tensor, context: Context) -> Tensor | None:
    """W (C,K) where the head is global average pooling directly on A, then one linear layer; else None."""
    head = net.head_graph
    if head is None:
        return None
    channelwise.propagate(head, activations, context)
    walked = channelwise.walk(head, _inputs(head)[0])
    if walked.mixing is None or not channelwise.is_pooling_only(head, walked.steps) or not _is_last(walked.mixing):
        return None
    layer = head.get_submodule(str(walked.mixing.target))
    return layer.weight if isinstance(layer, nn.Linear) else None


def _read(head: fx.GraphModule) -> Tier:
    activations = _inputs(head)[0]
    walked = channelwise.walk(head, activations)
    if walked.mixing is None:
        return _repeat(head, walked, "channels mix in an operation that is not a plain linear layer")
    layer = head.get_submodule(str(walked.mixing.target))
    behind = descendants(walked.mixing)
    rest = [n for n in head.graph.nodes if n in behind and n.op != "output"]
    known = {walked.mixing, *rest}
    if any(n not in known and n.op != "get_attr" and not is_batch_size(n) for node in rest for n in node.all_input_nodes):
        return _repeat(head, walked, "something bypasses the first mixing layer")
    g = _part(head, walked.steps, walked.state)
    output = _output(head)
    if isinstance(layer, nn.Linear):
        if output is walked.mixing:
            return ClosedForm(g, layer)
        last = head.get_submodule(str(output.target)) if output.op == "call_module" else None
        if type(last) is nn.Linear and len(channelwise.shape(output)) == 2 and len(output.args) == 1:
            before = output.all_input_nodes[0]
            return MixOnce(g, layer, extract(head, [n for n in rest if n is not output], [walked.mixing], before), last)
        return MixOnce(g, layer, extract(head, rest, [walked.mixing], output), None)
    assert isinstance(layer, nn.Conv2d)
    onward = channelwise.walk(head, walked.mixing)
    if onward.state is output and onward.steps == rest and not any(channelwise.has_parameters(head, n) for n in rest):
        return OneRow(g, layer, extract(head, rest, [walked.mixing], output))
    return _repeat(head, walked, "a convolution follows whose outputs mix again")


class ClosedForm:
    """Tier 1: g, then one linear layer: drop_k = sum_p W_c,kp (g_k(A_k) - g_k(0))_p."""

    number = 1
    reason = "closed form: one linear layer behind the channels"

    def __init__(self, g: fx.GraphModule, linear: nn.Linear) -> None:
        self.g, self.linear = g, linear

    def drops(self, activations: Tensor, context: Context, targets: Tensor, scores: Tensor) -> Tensor:
        """See `Tier.drops`."""
        delta = _delta(self.g, activations, context).flatten(2)
        return (self.linear.weight[targets].view_as(delta) * delta).sum(2)


class OneRow:
    """Tier 2, L a convolution after which each output channel goes its own way: only the target's channel is needed."""

    number = 2
    reason = "the target's output channel of the mixing convolution, once per ablated channel"

    def __init__(self, g: fx.GraphModule, conv: nn.Conv2d, row: fx.GraphModule) -> None:
        self.g, self.conv, self.row = g, conv, row

    def drops(self, activations: Tensor, context: Context, targets: Tensor, scores: Tensor) -> Tensor:
        """See `Tier.drops`."""
        conv, delta = self.conv, _delta(self.g, activations, context)
        n, k, h, w = delta.shape
        kernel = conv.weight[targets]
        part = F.conv2d(
            delta.reshape(1, n * k, h, w),
            kernel.reshape(n * k, 1, *kernel.shape[2:]),
            None,
            conv.stride,
            conv.padding,
            conv.dilation,
            n * k,
        ).reshape(n, k, -1)
        bias = None if conv.bias is None else conv.bias[targets]
        whole = _run(self.g, activations, context).reshape(1, n * k, h, w)
        full = F.conv2d(whole, kernel, bias, conv.stride, conv.padding, conv.dilation, n)
        variants = full.reshape(n, 1, -1) - part
        ablated = self.row(variants.view(n * k, 1, *full.shape[2:]))
        return scores[:, None] - ablated.view(n, k)


class MixOnce:
    """Tier 2, L a linear layer: its K ablated outputs by subtraction, then r on them, in chunks."""

    number = 2
    reason = "the first linear layer once for all ablated channels, then only what follows it"

    def __init__(self, g: fx.GraphModule, linear: nn.Linear, rest: fx.GraphModule, last: nn.Linear | None) -> None:
        self.g, self.linear, self.rest, self.last = g, linear, rest, last

    def drops(self, activations: Tensor, context: Context, targets: Tensor, scores: Tensor) -> Tensor:
        """See `Tier.drops`."""
        mixed = self.linear(_run(self.g, activations, context).flatten(1))
        delta = _delta(self.g, activations, context).flatten(2)
        n, k, p = delta.shape
        columns = self.linear.weight.view(-1, k, p).permute(1, 2, 0)
        drops = torch.empty(n, k, dtype=delta.dtype, device=delta.device)
        # Weight, difference and variant of each unit, twice for r's own values.
        unit = 4 * delta.element_size() * max(self.linear.out_features, _widest(self.rest))
        rest = _SkipZeroColumns(self.rest)
        for ks in _chunks(k, BYTE_BUDGET // (n * unit)):
            part = torch.bmm(delta[:, ks].transpose(0, 1), columns[ks])
            for i in range(n):
                out = rest.run(torch.cat([mixed[i : i + 1], mixed[i] - part[:, i]]))
                # The last layer sees the difference of its inputs, not its outputs: a drop is far smaller than the
                # score, and subtracting two scores would leave it only their last digits.
                lost = out[:1] - out[1:]
                drops[i, ks] = lost[:, targets[i]] if self.last is None else lost @ self.last.weight[targets[i]]
        return drops


class Repeat:
    """Tier 3: g once; whatever follows it runs on all K variants, in chunks."""

    number = 3

    def __init__(self, rest: Callable[[Tensor, Context], Tensor], g: fx.GraphModule | None, reason: str, variant_bytes: int) -> None:
        self.rest, self.g, self.reason, self.variant_bytes = rest, g, reason, variant_bytes

    def drops(self, activations: Tensor, context: Context, targets: Tensor, scores: Tensor) -> Tensor:
        """See `Tier.drops`."""
        n, k = activations.shape[:2]
        full, zero = activations, torch.zeros_like(activations)
        if self.g is not None:
            full, zero = _run(self.g, full, context), _run(self.g, zero, context)
        by_channel = (n, k, -1)
        drops = torch.empty(n, k, dtype=full.dtype, device=full.device)
        for i in range(n):
            here = tuple(c[i : i + 1] for c in context)
            for ks in _chunks(k, BYTE_BUDGET // self.variant_bytes):
                size = len(range(k)[ks])
                variants = full[i].expand(size, *full.shape[1:]).clone(memory_format=torch.contiguous_format)
                rows = torch.arange(size, device=full.device)
                variants.view(size, k, -1)[rows, rows + ks.start] = zero.reshape(by_channel)[i, ks]
                scores_k = self.rest(variants, tuple(c.expand(size, *c.shape[1:]).clone() for c in here))[:, targets[i]]
                drops[i, ks] = scores[i] - scores_k
        return drops


class _SkipZeroColumns(fx.Interpreter):
    """Runs a part of a head; a linear layer reads only the inputs that are not zero in every row.

    Exact: after a ReLU, a unit that stays dead in all variants contributes nothing. Off the CPU the check would
    force a synchronisation, and the plain product is faster.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self._transposed: dict[str, Tensor] = {}

    def call_module(self, target: fx.node.Target, args: Any, kwargs: Any) -> Any:
        layer = self.fetch_attr(str(target))
        if type(layer) is not nn.Linear or args[0].dim() != 2 or args[0].device.type != "cpu":
            return layer(*args, **kwargs)
        used = (args[0] != 0).any(0).nonzero().squeeze(1)
        if len(used) > 0.8 * layer.in_features:
            return layer(args[0])
        out = args[0].index_select(1, used) @ self._rows(str(target), layer.weight).index_select(0, used)
        return out if layer.bias is None else out.add_(layer.bias)

    def _rows(self, target: str, weight: Tensor) -> Tensor:
        """The weight transposed, so that picking inputs copies whole rows; once a batch, for weights may change between two."""
        if target not in self._transposed:
            self._transposed[target] = weight.detach().t().contiguous()
        return self._transposed[target]


def _repeat(head: fx.GraphModule, walked: channelwise.Walk, reason: str) -> Repeat:
    activations, *context = _inputs(head)
    done = {activations, *walked.steps}
    nodes = [n for n in head.graph.nodes if n not in done and n.op not in ("placeholder", "output")]
    rest = extract(head, nodes, [walked.state, *context], _output(head))
    g = _part(head, walked.steps, walked.state) if walked.steps else None
    # The largest values alive at once are an operation's input and output; half of the batch-of-two that was traced.
    sizes = [channelwise.shape(n).numel() + sum(channelwise.shape(i).numel() for i in n.all_input_nodes) for n in nodes]
    return Repeat(lambda a, c: rest(a, *c), g, reason, variant_bytes=4 * max(sizes, default=1))


def _part(head: fx.GraphModule, steps: list[fx.Node], output: fx.Node) -> fx.GraphModule:
    return extract(head, steps, _inputs(head), output)


def _run(part: fx.GraphModule, activations: Tensor, context: Context) -> Tensor:
    """A part of the head on clones, since an in-place operation in it would overwrite what the probe keeps."""
    out: Tensor = part(activations.clone(), *(c.clone() for c in context))
    return out


def _delta(g: fx.GraphModule, activations: Tensor, context: Context) -> Tensor:
    """g(A) - g(0) by channel: (N,K,P) where g flattens, else (N,K,h,w)."""
    n, k = activations.shape[:2]
    delta = _run(g, activations, context) - _run(g, torch.zeros_like(activations), context)
    return delta if delta.dim() == 4 else delta.reshape(n, k, -1)


def _agrees(net: SplitModel, tier: Tier, activations: Tensor, context: Context) -> bool:
    """Compare a few random channels of one image, one with finite scores where there is one, with the plain head."""
    with torch.no_grad():
        logits = net.head(activations, context)
        at = int(logits.isfinite().all(1).int().argmax())
        one, ctx, logits = activations[at : at + 1], tuple(c[at : at + 1] for c in context), logits[at : at + 1]
        target = logits.argmax(1)
        score = logits[0, target]
        drops = tier.drops(one, ctx, target, score)[0]
        picked = torch.randperm(one.shape[1], generator=torch.Generator().manual_seed(0))[:4]
        for k in picked.tolist():
            ablated = one.clone()
            ablated[:, k] = 0
            plain = score - net.head(ablated, ctx)[0, target]
            # Scores round in their own last digits, whatever the size of the drop.
            slack = 1e-3 * float(drops.nan_to_num().abs().max()) + 1e-5 * float(score.nan_to_num().abs())
            if not torch.allclose(drops[k], plain[0], rtol=0, atol=slack, equal_nan=True):
                return False
    return True


def _inputs(head: fx.GraphModule) -> list[fx.Node]:
    return [n for n in head.graph.nodes if n.op == "placeholder"]


def _output(head: fx.GraphModule) -> fx.Node:
    node = list(head.graph.nodes)[-1].args[0]
    assert isinstance(node, fx.Node)
    return node


def _is_last(node: fx.Node) -> bool:
    return all(user.op == "output" for user in node.users)


def _widest(part: nn.Module) -> int:
    return max((m.out_features for m in part.modules() if isinstance(m, nn.Linear)), default=1)


def _chunks(total: int, size: int) -> Iterator[slice]:
    size = max(1, min(size, total))
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
