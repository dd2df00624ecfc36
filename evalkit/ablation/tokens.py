"""Tier 2 at the tokens of a transformer: a LayerNorm and the linear layers behind it, by a rank-one change."""

from typing import cast

import torch
from torch import Tensor

from evalkit.ablation.attention import Attention, Parts
from evalkit.ablation.tiers import BYTE_BUDGET, Repeat, chunks
from evalkit.models.cuts import Context

_Affine = tuple[Tensor, Tensor, Tensor]
"""Of a linear layer: a (T,out) for one image, or the layer's matrix; w (K,out) and c (out), as in `NormThenLinear`."""


class NormThenLinear:
    """Tier 2 at tokens: what LayerNorm and linear layers put out for all ablated channels, then only what follows it.

    Let x (K,) be a token of mean m, d = x - m, S = sum(d^2), and x' = x - x_k e_k the token with channel k ablated. Then

        m' = m - x_k / K,    x' - m' = d - x_k (e_k - 1/K),    K var' = S - x_k (2 d_k - x_k (1 - 1/K)).

    With r' = 1 / sqrt(var' + eps), the LayerNorm's weight g and bias b_N, and a linear layer W, b:

        W LN(x') + b = r' (a - x_k w_k) + c,    a = W (g d),    w_k = W (g (e_k - 1/K)),    c = W b_N + b.

    So a variant costs as many multiplications as the layer has outputs, in place of K times as many. Without a LayerNorm r' = 1,
    a = W x, w_k = W e_k and c = b. Prefix tokens are not ablated: x_k counts as 0 in all of the above.

    Where an attention's queries q come from prefix tokens, as a class token's do, and its keys and values are outputs of such
    layers, they are not made for each variant. Its scores are, up to what is the same for all tokens and leaves a softmax as it is,

        q . (r' (a - x_k w_k)) = r' (q . a) - r' x_k (q . w_k),

    and with the weights p of the softmax its output is sum_t(p r' a) - sum_t(p r' x_k) w_k + c, a and w_k being those of the values.

    S and r' are computed in float64, since S loses digits where one channel holds most of it.
    """

    number = 2
    reason = "LayerNorm and linear layers by a rank-one change for each ablated channel, then only what follows them where it is read"

    def __init__(self, parts: Parts, repeat: Repeat) -> None:
        self.parts, self.repeat = parts, repeat

    def drops(
        self, activations: Tensor, context: Context, logits: Tensor, targets: Tensor | None, byte_budget: int = BYTE_BUDGET
    ) -> Tensor:
        """See `Tier.drops`."""
        n, k = activations.shape[:2]
        parts = self.parts
        tokens = parts.tokens(activations, *context)
        fixed = self._fixed(activations, context)
        norm, linears, masks = parts.parameters()
        layers = [self._layer(norm, weight, bias) for weight, bias in linears]
        drops = torch.empty(n, k, logits.shape[1] if targets is None else 1, dtype=tokens.dtype, device=tokens.device)
        for i in range(n):
            row = slice(None) if targets is None else targets[i : i + 1]
            own = [value.narrow(axis, i, 1) for value, axis in fixed]
            deviation, inverse, change = self._statistics(tokens[i])
            affine = [(deviation @ scaled.t(), columns, constant) for scaled, columns, constant in layers]
            for ks in chunks(k, byte_budget // (4 * parts.size * tokens.element_size())):
                # The first variant is the image itself, so that a drop is the difference of two values with the same rounding errors.
                r, s = (torch.cat([first, by_channel[ks]]) for first, by_channel in (inverse, change))
                size = len(r)
                shifts = [torch.cat([torch.zeros_like(w[:1]), w[ks]]) for _, w, _ in affine]
                read = [
                    _attend(attention, query, mask, r, s, affine, shifts)
                    for attention, query, mask in zip(parts.attentions, own, masks, strict=False)
                ]
                for at in (parts.linears.index(node) for node in parts.plain):
                    a, _, c = affine[at]
                    read.append((r[:, :, None] * a).sub_(s[:, :, None] * shifts[at][:, None]).add_(c))
                read += [_expanded(value, axis, size) for value, (_, axis) in zip(own, fixed, strict=True)]
                out = parts.rest(*read)
                lost = out[:1] - out[1:]
                drops[i, ks] = lost[:, row] if parts.last is None else lost @ parts.last.weight[row].t()
        return drops

    def region_drops(
        self, activations: Tensor, context: Context, logits: Tensor, targets: Tensor, regions: Tensor, byte_budget: int = BYTE_BUDGET
    ) -> Tensor:
        """See `Tier.region_drops`; whole tokens are zero, so the head is repeated, where it is read."""
        return self.repeat.region_drops(activations, context, logits, targets, regions, byte_budget)

    def _fixed(self, activations: Tensor, context: Context) -> list[tuple[Tensor, int]]:
        """Return what no channel changes, each with its batch axis."""
        if self.parts.compute_fixed is None:
            return []
        first, others = self.parts.compute_fixed(activations, *context)
        return [(value, cast(int, node.meta["batch"][0])) for value, node in zip([first, *others], self.parts.fixed, strict=True)]

    def _statistics(self, tokens: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return d (T,K) of one image's tokens, r and r' (1,T) and (K,T), and 0 and r' x_k of the same shapes."""
        ablated = tokens.double()
        ablated = torch.cat([torch.zeros_like(ablated[: self.parts.prefix]), ablated[self.parts.prefix :]])
        k = tokens.shape[1]
        if self.parts.eps is None:
            deviation, inverse = tokens, torch.ones_like(ablated)
            before = inverse[:, :1]
        else:
            exact = tokens.double() - tokens.double().mean(1, keepdim=True)
            squares = exact.square().sum(1, keepdim=True)
            variance = (squares - ablated * (2 * exact - ablated * (1 - 1 / k))) / k
            inverse = (variance.clamp(min=0) + self.parts.eps).rsqrt()
            before = (squares / k + self.parts.eps).rsqrt()
            deviation = exact.to(tokens.dtype)
        first, by_channel = before.t().to(tokens.dtype), inverse.t().to(tokens.dtype)
        return deviation, (first, by_channel), (torch.zeros_like(first), (inverse * ablated).t().to(tokens.dtype))

    def _layer(self, norm: list[Tensor | None], weight: Tensor, bias: Tensor | None) -> _Affine:
        """Return W g (out,K), w (K,out) and c (out) of a linear layer."""
        gain, shift = norm
        scaled = weight if gain is None else weight * gain
        columns = scaled if self.parts.eps is None else scaled - scaled.mean(1, keepdim=True)
        constant = torch.zeros_like(weight[:, 0]) if bias is None else bias
        return scaled, columns.t(), constant if shift is None else constant + weight @ shift


def _attend(
    attention: Attention, query: Tensor, mask: Tensor | None, r: Tensor, s: Tensor, affine: list[_Affine], shifts: list[Tensor]
) -> Tensor:
    """Return an attention's output (V,heads,Q,d) for variants with r' and r' x_k (V,T), from queries (1,heads,Q,d)."""
    (at_key, keys), (at_value, values) = attention.key, attention.value
    q = query[0] * attention.scale
    by_token = torch.einsum("hqd,thd->hqt", q, affine[at_key][0][:, keys])
    by_channel = torch.einsum("hqd,vhd->vhq", q, shifts[at_key][:, keys])
    scores = r[:, None, None] * by_token - s[:, None, None] * by_channel[..., None]
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    p = scores.softmax(-1)
    a, _, c = affine[at_value]
    out = torch.einsum("vhqt,thd->vhqd", p * r[:, None, None], a[:, values])
    return out - (p @ s[:, None, :, None]) * shifts[at_value][:, values][:, :, None] + c[values][:, None]


def _expanded(value: Tensor, axis: int, size: int) -> Tensor:
    return value.expand(*value.shape[:axis], size, *value.shape[axis + 1 :])
