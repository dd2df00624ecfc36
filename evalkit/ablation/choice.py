"""The choice of a tier for a head: read off its graph, then checked against the plain head."""

import logging
import weakref

import torch
from torch import Tensor, fx, nn

from evalkit.ablation.attention import last_linear, read
from evalkit.ablation.tiers import ClosedForm, MixOnce, OneOutputChannel, Repeat, Tier
from evalkit.ablation.tokens import NormThenLinear
from evalkit.errors import cause
from evalkit.models import channelwise
from evalkit.models.cuts import Context
from evalkit.models.graph import descendants, extract, is_batch_size, shape
from evalkit.models.live_positions import without_dead_positions
from evalkit.models.split import SplitModel

log = logging.getLogger(__name__)

_tiers: weakref.WeakKeyDictionary[SplitModel, tuple[tuple[torch.Size, ...], Tier]] = weakref.WeakKeyDictionary()


def tier_of(net: SplitModel, activations: Tensor, context: Context) -> Tier:
    """Return the model's tier, which is chosen at the first activations and context of a shape."""
    size = tuple(tensor.shape[1:] for tensor in (activations, *context))
    cached = _tiers.get(net)
    if cached is None or cached[0] != size:
        cached = _tiers[net] = (size, _choose(net, activations, context))
    return cached[1]


def _choose(net: SplitModel, activations: Tensor, context: Context) -> Tier:
    """Return the cheapest exact tier for this head, read off its graph and then checked on the given activations."""
    head = net.head_graph
    if head is None:
        weak = weakref.proxy(net)  # the cache must not keep its own key alive
        reason = "the model is not traced: the whole network is repeated"
        return Repeat(lambda a, c: weak.head(a, c), None, reason, variant_bytes=16 * 2**20)  # noqa: PLW0108 - a bound method would keep it
    channelwise.propagate(head, activations, context)
    tier = _read(head)
    if tier.number < 3 and not _agrees(net, tier, activations, context):
        log.warning("tier %d differs from the plain head of '%s'; repeating the head instead (tier 3)", tier.number, net.layer)
        tier = _repeat(head, channelwise.Walk([], _inputs(head)[0], None), "its shortcut failed the check against the plain head")
    elif tier.number == 3:
        try:
            tier = _at_tokens(net, head, activations, context) or tier
        except torch.OutOfMemoryError:
            raise
        except Exception as reason:  # a graph rewritten for fixed sizes may fail in any way; the plain head is slower but runs
            log.warning("no shortcut behind '%s' (%s)", net.layer, cause(reason))
    log.info("Ablation-CAM at '%s': tier %d, %s", net.layer, tier.number, tier.reason)
    return tier


def _at_tokens(net: SplitModel, head: fx.GraphModule, activations: Tensor, context: Context) -> Tier | None:
    """Return a tier that computes less than the whole head, as a class token's permits; None where there is none."""
    found = without_dead_positions(head, activations, *context)
    if found is None:
        return None
    reduced, less = found
    channelwise.propagate(reduced, activations, context)
    walked = channelwise.walk(reduced, _inputs(reduced)[0])
    repeat = _repeat(reduced, walked, "what is read behind the last attention, once per channel")
    parts = read(reduced)
    tiers: list[Tier] = [] if parts is None else [NormThenLinear(parts, repeat)]
    for tier in [*tiers, repeat] if less else tiers:
        if _agrees(net, tier, activations, context):
            return tier
        log.warning("tier %d differs from the plain head of '%s': %s", tier.number, net.layer, tier.reason)
    return None


def class_weights(net: SplitModel, activations: Tensor, context: Context) -> Tensor | None:
    """Return W (C,K) where the head is global average pooling directly on A, then one linear layer; else None."""
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
    accounted = {walked.mixing, *rest}
    if any(n not in accounted and n.op != "get_attr" and not is_batch_size(n) for node in rest for n in node.all_input_nodes):
        return _repeat(head, walked, "something bypasses the first mixing layer")
    g = _part(head, walked.steps, walked.state)
    output = _output(head)
    if isinstance(layer, nn.Linear):
        return ClosedForm(g, layer) if output is walked.mixing else _mix_once(head, g, walked.mixing, rest)
    assert isinstance(layer, nn.Conv2d)
    onward = channelwise.walk(head, walked.mixing)
    if onward.state is output and onward.steps == rest and not any(channelwise.has_parameters(head, n) for n in rest):
        return OneOutputChannel(g, layer, extract(head, rest, [walked.mixing], output))
    if layer.kernel_size == shape(walked.state)[2:] and layer.padding in ((0, 0), "valid"):
        return _mix_once(head, g, walked.mixing, rest)
    return _repeat(head, walked, "a convolution follows whose outputs mix again")


def _mix_once(head: fx.GraphModule, g: fx.GraphModule, mixing: fx.Node, rest: list[fx.Node]) -> MixOnce:
    """Return tier 2 for a linear layer, or for a convolution whose kernel covers its whole input and therefore is one."""
    layer, output = head.get_submodule(str(mixing.target)), _output(head)
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    last = last_linear(head, output)
    if last is not None:
        before = output.all_input_nodes[0]
        return MixOnce(g, layer, extract(head, [n for n in rest if n is not output], [mixing], before), last)
    return MixOnce(g, layer, extract(head, rest, [mixing], output), None)


def _repeat(head: fx.GraphModule, walked: channelwise.Walk, reason: str) -> Repeat:
    activations, *context = _inputs(head)
    done = {activations, *walked.steps}
    nodes = [n for n in head.graph.nodes if n not in done and n.op not in ("placeholder", "output")]
    rest = extract(head, nodes, [walked.state, *context], _output(head))
    g = _part(head, walked.steps, walked.state) if walked.steps else None
    # An operation's input and output are in memory at once; these sizes belong to the batch of two that was traced.
    sizes = [shape(n).numel() + sum(shape(i).numel() for i in n.all_input_nodes) for n in nodes]
    return Repeat(lambda a, c: rest(a, *c), g, reason, variant_bytes=4 * max(sizes, default=1))


def _part(head: fx.GraphModule, steps: list[fx.Node], output: fx.Node) -> fx.GraphModule:
    return extract(head, steps, _inputs(head), output)


def _agrees(net: SplitModel, tier: Tier, activations: Tensor, context: Context) -> bool:
    """Compare the drops of a few random channels and cells with the plain head, on an image with finite scores if there is one."""
    with torch.no_grad():
        logits = net.head(activations, context)
        at = int(logits.isfinite().all(1).int().argmax())
        one, ctx, logits = activations[at : at + 1], tuple(c[at : at + 1] for c in context), logits[at : at + 1]
        target = logits.argmax(1)
        generator = torch.Generator().manual_seed(0)
        channels = torch.randperm(one.shape[1], generator=generator)[:4].to(one.device)
        regions = torch.zeros(2, *one.shape[2:], dtype=torch.bool, device=one.device)
        regions.flatten(1)[[0, 1], torch.randint(regions[0].numel(), (2,), generator=generator).to(one.device)] = True
        by_channel = tier.drops(one, ctx, logits, target)[0, channels, 0]
        by_region = tier.region_drops(one, ctx, logits, target, regions)[0]
        ablated = one.repeat(len(channels) + len(regions), 1, 1, 1)
        ablated[torch.arange(len(channels)), channels] = 0
        ablated[len(channels) :].masked_fill_(regions[:, None], 0)
        scores = torch.cat([net.head(variant[None], ctx)[0, target] for variant in ablated])
        plain = logits[0, target] - scores
        # The scores' rounding errors do not depend on the size of the drop.
        slack = 1e-3 * float(plain.nan_to_num().abs().max()) + 1e-5 * float(logits[0, target].nan_to_num().abs())
        return torch.allclose(torch.cat([by_channel, by_region]), plain, rtol=0, atol=slack, equal_nan=True)


def _inputs(head: fx.GraphModule) -> list[fx.Node]:
    return [n for n in head.graph.nodes if n.op == "placeholder"]


def _output(head: fx.GraphModule) -> fx.Node:
    node = list(head.graph.nodes)[-1].args[0]
    assert isinstance(node, fx.Node)
    return node


def _is_last(node: fx.Node) -> bool:
    return all(user.op == "output" for user in node.users)
