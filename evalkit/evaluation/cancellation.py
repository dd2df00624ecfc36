"""A warning before a run: HiResCAM at a layer where its terms g_k A_k cancel at every position, so that nothing is left to show."""

import logging
from collections.abc import Mapping

from torch import Tensor

from evalkit import methods
from evalkit.evaluation.apply import Method
from evalkit.evaluation.at_layers import AtLayer, Fused, function_of
from evalkit.models.split import SplitModel
from evalkit.probe import Probe

log = logging.getLogger(__name__)

CANCELS = 1e-5
"""Size of |sum_k g_k A_k| relative to sum_k |g_k A_k|, both summed over positions, below which the terms count as cancelling.

Behind a LayerNorm that alone reads a position, its epsilon leaves about 1e-6 and float32's rounding 1e-7; elsewhere it is about 1e-2.
"""


def warn_of_cancellation(named: Mapping[str, Method], net: SplitModel, images: Tensor) -> None:
    """Warn of each `hires_cam` whose terms cancel everywhere in a few images (n,channels,H,W). Raises UserError as the method would."""
    chosen = {name: one for name, one in named.items() if function_of(one)[0] is methods.hires_cam and not isinstance(one, Fused)}
    if not chosen:
        return
    probe = Probe(net, images)
    for name, method in chosen.items():
        cut = method.net if isinstance(method, AtLayer) else net
        if bool(AtLayer(cancelled, cut.layer, cut, keep=False)(probe) < CANCELS):
            log.warning(
                "%s: at layer '%s' its terms g_k A_k cancel at every position, as where only a LayerNorm reads it; what is left is that "
                "norm's epsilon and rounding, not evidence: choose an earlier layer, or another method",
                name,
                cut.layer,
            )


def cancelled(probe: Probe) -> Tensor:
    """Return the sum over images and positions of |sum_k g_k A_k|, relative to that of sum_k |g_k A_k|; nan where every term is 0."""
    terms = (probe.gradients * probe.activations).detach().float()
    return terms.sum(1).abs().sum() / terms.abs().sum()
