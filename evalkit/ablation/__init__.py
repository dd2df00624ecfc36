"""Exact score drops per ablated channel, or per ablated region, in three tiers.

Ablation-CAM (Desai and Ramaswamy, WACV 2020, section 4) sets one channel k of the activations A to zero and repeats
the forward pass: y^k. Written head = r ∘ L ∘ g, with g acting on each channel by itself and L the first operation
that mixes channels, L being linear in its input,

    L(g(A with k ablated)) = L(g(A)) - L_k(g_k(A_k) - g_k(0)),        L_k = the part of L that reads channel k,

so that all K ablated inputs of r cost one application of L. No tier approximates:

1. L is the last layer: the drops are the subtrahend itself, no forward pass at all.
2. r runs on the K variants, where L is a linear layer or a convolution whose kernel covers its whole input. Of a last
   linear layer only the row of the target class is computed. Behind any other convolution r must act on each output
   channel by itself; then only the target's channel of L is computed.
   At the tokens of a transformer, L is the linear layers behind a LayerNorm: `NormThenLinear` has the algebra. What follows runs
   where it is read only, as at a class token.
3. Anything else: g once, and whatever follows it repeated for every channel; in a transformer whose classifier reads a few tokens,
   for these tokens only behind the last attention (`evalkit.models.live_positions`).

The same holds where a region of all channels is set to zero instead (`evalkit.methods.spatial_ablation`): g runs on every
variant, which is cheap, and on the CPU L reads only the positions that the region touches; at tokens, tier 3 does it.
"""

from evalkit.ablation.choice import class_weights, tier_of
from evalkit.ablation.tiers import BYTE_BUDGET, ClosedForm, MixOnce, OneOutputChannel, Repeat, Tier
from evalkit.ablation.tokens import NormThenLinear

__all__ = ["BYTE_BUDGET", "ClosedForm", "MixOnce", "NormThenLinear", "OneOutputChannel", "Repeat", "Tier", "class_weights", "tier_of"]
