"""One class for each way to compute drops; tier 2 has a third in `evalkit.ablation.tokens`. `evalkit.ablation` defines g, L and r."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from evalkit.models.cuts import Context

BYTE_BUDGET = 256 * 2**20
"""Bytes that the variants of one chunk may take by default."""


class Tier(Protocol):
    """A way to compute drops of logits for one head.

    Activations A (N,K,h,w), context and logits (N,C) belong to the same images; `targets` are class indices (N,).
    `byte_budget` bounds the memory of one chunk of variants, with the intermediate values of the head; it changes no number.
    """

    number: int
    reason: str

    def drops(
        self, activations: Tensor, context: Context, logits: Tensor, targets: Tensor | None, byte_budget: int = BYTE_BUDGET
    ) -> Tensor:
        """Return the drops by ablated channel: (N,K,1) of the targets' logits, or (N,K,C) of all logits where `targets` is None."""
        ...

    def region_drops(
        self, activations: Tensor, context: Context, logits: Tensor, targets: Tensor, regions: Tensor, byte_budget: int = BYTE_BUDGET
    ) -> Tensor:
        """Return the drops (N,V) of the targets' logits where all channels are zero inside each of the masks `regions` (V,h,w)."""
        ...


class ClosedForm:
    """Tier 1: g, then one linear layer: drop_k = sum_p W_c,kp (g_k(A_k) - g_k(0))_p."""

    number = 1
    reason = "closed form: one linear layer behind the channels"

    def __init__(self, g: fx.GraphModule, linear: nn.Linear) -> None:
        self.g, self.linear = g, linear

    def drops(
        self, activations: Tensor, context: Context, logits: Tensor, targets: Tensor | None, byte_budget: int = BYTE_BUDGET
    ) -> Tensor:
        """See `Tier.drops`."""
        delta = _delta(self.g, activations, context).flatten(2)
        weight = self.linear.weight.view(-1, *delta.shape[1:])
        if targets is None:
            return torch.einsum("nkp,ckp->nkc", delta, weight)
        return (weight[targets] * delta).sum(2, keepdim=True)

    def region_drops(
        self, activations: Tensor, context: Context, logits: Tensor, targets: Tensor, regions: Tensor, byte_budget: int = BYTE_BUDGET
    ) -> Tensor:
        """See `Tier.region_drops`."""
        drops = torch.empty(len(activations), len(regions), dtype=activations.dtype, device=activations.device)
        weight = self.linear.weight[targets]
        for i, vs, variants, repeated in _region_variants(activations, context, regions, byte_budget):
            delta = _run(self.g, activations[i : i + 1], tuple(c[:1] for c in repeated)) - self.g(variants, *repeated)
            drops[i, vs] = delta.flatten(1) @ weight[i]
        return drops


class OneOutputChannel:
    """Tier 2, L a convolution behind which output channels do not mix: only the target's channel is needed."""

    number = 2
    reason = "the target's output channel of the mixing convolution, once per ablated channel"

    def __init__(self, g: fx.GraphModule, conv: nn.Conv2d, row: fx.GraphModule) -> None:
        self.g, self.conv, self.row = g, conv, row

    def drops(
        self, activations: Tensor, context: Context, logits: Tensor, targets: Tensor | None, byte_budget: int = BYTE_BUDGET
    ) -> Tensor:
        """See `Tier.drops`."""
        delta, whole = _delta(self.g, activations, context), _run(self.g, activations, context)
        if targets is None:
            return torch.stack([self._all_classes(*image, byte_budget) for image in zip(delta, whole, logits, strict=True)])
        n, k, h, w = delta.shape
        kernel = self.conv.weight[targets]
        part = self._convolve(delta.reshape(1, n * k, h, w), kernel.reshape(n * k, 1, *kernel.shape[2:]), None, n * k)
        bias = None if self.conv.bias is None else self.conv.bias[targets]
        full = self._convolve(whole.reshape(1, n * k, h, w), kernel, bias, n)
        variants = full.reshape(n, 1, -1) - part.reshape(n, k, -1)
        ablated = self.row(variants.view(n * k, 1, *full.shape[2:]))
        return logits.gather(1, targets[:, None])[:, :, None] - ablated.view(n, k, 1)

    def region_drops(
        self, activations: Tensor, context: Context, logits: Tensor, targets: Tensor, regions: Tensor, byte_budget: int = BYTE_BUDGET
    ) -> Tensor:
        """See `Tier.region_drops`."""
        drops = torch.empty(len(activations), len(regions), dtype=activations.dtype, device=activations.device)
        for i, vs, variants, repeated in _region_variants(activations, context, regions, byte_budget):
            c = targets[i : i + 1]
            bias = None if self.conv.bias is None else self.conv.bias[c]
            ablated = self.row(self._convolve(self.g(variants, *repeated), self.conv.weight[c], bias, 1))
            drops[i, vs] = logits[i, c] - ablated.flatten()
        return drops

    def _all_classes(self, delta: Tensor, whole: Tensor, logits: Tensor, byte_budget: int) -> Tensor:
        """Return one image's drops (K,C) from its delta and g(A), both (K,h,w), and its logits (C,)."""
        full = self._convolve(whole[None], self.conv.weight, self.conv.bias, 1)
        drops = torch.empty(len(delta), len(logits), dtype=delta.dtype, device=delta.device)
        for ks in chunks(len(delta), byte_budget // (4 * full.numel() * full.element_size())):
            kernels = self.conv.weight[:, ks].transpose(0, 1)
            size = len(kernels)
            part = self._convolve(delta[None, ks], kernels.reshape(-1, 1, *kernels.shape[2:]), None, size)
            drops[ks] = logits - self.row(full - part.view(size, *full.shape[1:]))
        return drops

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        return F.conv2d(x, weight, bias, self.conv.stride, self.conv.padding, self.conv.dilation, groups)


class MixOnce:
    """Tier 2, L a linear layer, or a convolution with one output position: its ablated outputs by subtraction, then r on chunks of them."""

    number = 2
    reason = "the first linear layer once for all ablated channels, then only what follows it"

    def __init__(self, g: fx.GraphModule, linear: nn.Linear | nn.Conv2d, rest: fx.GraphModule, last: nn.Linear | None) -> None:
        self.g, self.linear, self.rest, self.last = g, linear, rest, last

    def drops(
        self, activations: Tensor, context: Context, logits: Tensor, targets: Tensor | None, byte_budget: int = BYTE_BUDGET
    ) -> Tensor:
        """See `Tier.drops`."""
        mixed = self._mix(_run(self.g, activations, context))
        delta = _delta(self.g, activations, context).flatten(2)
        n, k, p = delta.shape
        columns = self.linear.weight.view(-1, k, p).permute(1, 2, 0)
        drops = torch.empty(n, k, logits.shape[1] if targets is None else 1, dtype=delta.dtype, device=delta.device)
        rest = _SkipZeroColumns(self.rest)
        for ks in chunks(k, byte_budget // (n * self._variant_bytes(delta))):
            part = torch.bmm(delta[:, ks].transpose(0, 1), columns[ks])
            for i in range(n):
                row = slice(None) if targets is None else targets[i : i + 1]
                drops[i, ks] = self._lost(rest, mixed[i : i + 1], part[:, i], row)
        return drops

    def region_drops(
        self, activations: Tensor, context: Context, logits: Tensor, targets: Tensor, regions: Tensor, byte_budget: int = BYTE_BUDGET
    ) -> Tensor:
        """See `Tier.region_drops`."""
        mixed = self._mix(_run(self.g, activations, context))
        drops = torch.empty(len(activations), len(regions), dtype=mixed.dtype, device=mixed.device)
        rest = _SkipZeroColumns(self.rest)
        # Elsewhere the host would wait for the device at each position; there the whole product is faster.
        columns = self._columns(activations.shape[1]) if activations.device.type == "cpu" else None
        for i, vs, variants, repeated in _region_variants(activations, context, regions, byte_budget):
            delta = _run(self.g, activations[i : i + 1], tuple(c[:1] for c in repeated)) - self.g(variants, *repeated)
            if columns is None:
                part = F.linear(delta.flatten(1), self.linear.weight.flatten(1))
            else:
                part = _by_position(delta.view(len(variants), activations.shape[1], -1), columns)
            drops[i, vs] = self._lost(rest, mixed[i : i + 1], part, targets[i : i + 1])[:, 0]
        return drops

    def _columns(self, k: int) -> Tensor:
        """Return the linear layer by position (P,out,K), by one matrix transposition: a third of the time of a general permutation."""
        out = len(self.linear.weight)
        return self.linear.weight.reshape(out * k, -1).t().contiguous().view(-1, out, k)

    def _mix(self, x: Tensor) -> Tensor:
        """Return L's output (N,out) for the output of g."""
        return F.linear(x.flatten(1), self.linear.weight.flatten(1), self.linear.bias)

    def _lost(self, rest: "_SkipZeroColumns", mixed: Tensor, part: Tensor, row: Tensor | slice) -> Tensor:
        """Return the drops (V,R) of the classes in `row` from L's output (1,out) and what each variant lacks of it (V,out).

        The last layer is applied to the difference of its inputs: a drop is far smaller than the score, and the difference
        of two scores would keep only their last digits.
        """
        ones = [1] * (self.linear.weight.dim() - 2)  # the one position that a convolution leaves
        out = rest.run(torch.cat([mixed, mixed - part]).view(-1, mixed.shape[1], *ones))
        lost = out[:1] - out[1:]
        return lost[:, row] if self.last is None else lost @ self.last.weight[row].t()

    def _variant_bytes(self, delta: Tensor) -> int:
        """Return the bytes of a variant: weight, difference and variant of each unit, twice for the values inside r."""
        widest = max((m.out_features for m in self.rest.modules() if isinstance(m, nn.Linear)), default=1)
        return 4 * delta.element_size() * max(len(self.linear.weight), widest)


class Repeat:
    """Tier 3: g runs once, and all that follows it runs on all variants, in chunks."""

    number = 3

    def __init__(self, rest: Callable[[Tensor, Context], Tensor], g: fx.GraphModule | None, reason: str, variant_bytes: int) -> None:
        self.rest, self.g, self.reason, self.variant_bytes = rest, g, reason, variant_bytes

    def drops(
        self, activations: Tensor, context: Context, logits: Tensor, targets: Tensor | None, byte_budget: int = BYTE_BUDGET
    ) -> Tensor:
        """See `Tier.drops`."""
        n, k = activations.shape[:2]
        full, zero = activations, torch.zeros_like(activations)
        if self.g is not None:
            full, zero = _run(self.g, full, context), _run(self.g, zero, context)
        drops = torch.empty(n, k, logits.shape[1] if targets is None else 1, dtype=full.dtype, device=full.device)
        for i in range(n):
            row = slice(None) if targets is None else targets[i : i + 1]
            for ks in chunks(k, byte_budget // self.variant_bytes):
                size = len(range(k)[ks])
                variants = full[i].expand(size, *full.shape[1:]).clone(memory_format=torch.contiguous_format)
                rows = torch.arange(size, device=full.device)
                variants.view(size, k, -1)[rows, rows + ks.start] = zero.reshape(n, k, -1)[i, ks]
                drops[i, ks] = logits[i, row] - self.rest(variants, _expanded(context, i, size))[:, row]
        return drops

    def region_drops(
        self, activations: Tensor, context: Context, logits: Tensor, targets: Tensor, regions: Tensor, byte_budget: int = BYTE_BUDGET
    ) -> Tensor:
        """See `Tier.region_drops`."""
        drops = torch.empty(len(activations), len(regions), dtype=activations.dtype, device=activations.device)
        for i, vs, variants, repeated in _region_variants(activations, context, regions, byte_budget, self.variant_bytes):
            c = targets[i : i + 1]
            out = self.rest(variants if self.g is None else _run(self.g, variants, repeated), repeated)
            drops[i, vs] = logits[i, c] - out[:, c][:, 0]
        return drops


class _SkipZeroColumns(fx.Interpreter):
    """Run a part of a head; a linear layer reads only the inputs that are not zero in every row.

    Exact: after a ReLU, a unit that is zero in all variants contributes nothing. On other devices than the CPU the check
    would make the host wait, and the plain product is faster.
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
        """Return the transposed weight, of which selected inputs are whole rows; made for each batch, since weights may change."""
        if target not in self._transposed:
            self._transposed[target] = weight.detach().t().contiguous()
        return self._transposed[target]


def _run(part: fx.GraphModule, activations: Tensor, context: Context) -> Tensor:
    """Run a part of the head on clones, since an in-place operation in it would overwrite what the probe keeps."""
    out: Tensor = part(activations.clone(), *(c.clone() for c in context))
    return out


def _delta(g: fx.GraphModule, activations: Tensor, context: Context) -> Tensor:
    """Return g(A) - g(0) by channel: (N,K,P) where g flattens, else (N,K,h,w)."""
    n, k = activations.shape[:2]
    delta = _run(g, activations, context) - _run(g, torch.zeros_like(activations), context)
    return delta if delta.dim() == 4 else delta.reshape(n, k, -1)


def _by_position(delta: Tensor, columns: Tensor) -> Tensor:
    """Apply a linear layer (P,out,K) to differences (V,K,P) that are zero at most positions; returns (V,out)."""
    part = torch.zeros(len(delta), columns.shape[1], dtype=delta.dtype, device=delta.device)
    touched = (delta != 0).any(1)
    for position, weight in enumerate(columns):
        at = touched[:, position].nonzero()[:, 0]
        if len(at):
            part[at] += delta[at, :, position] @ weight.t()
    return part


def _region_variants(
    activations: Tensor, context: Context, regions: Tensor, byte_budget: int, variant_bytes: int = 0
) -> Iterator[tuple[int, slice, Tensor, Context]]:
    """Yield, by image and chunk, the activations without each region (V,K,h,w) and as many copies of the context.

    The caller may overwrite both.
    """
    zero = activations.new_zeros(())  # a tensor of the same type: with the number 0, torch.where takes five times as long
    own = 4 * activations[0].numel() * activations.element_size()
    for i in range(len(activations)):
        for vs in chunks(len(regions), byte_budget // max(variant_bytes, own)):
            variants = torch.where(regions[vs, None], zero, activations[i])
            yield i, vs, variants, _expanded(context, i, len(variants))


def _expanded(context: Context, i: int, size: int) -> Context:
    return tuple(c[i : i + 1].expand(size, *c.shape[1:]).clone() for c in context)


def chunks(total: int, size: int) -> Iterator[slice]:
    """Yield consecutive slices of at most `size` elements, and of at least one."""
    size = max(1, min(size, total))
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
