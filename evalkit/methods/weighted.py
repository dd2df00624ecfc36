"""Maps that are weighted sums of the activation maps: sum_k w_k A_k. They differ in the weights."""

import torch
from torch import Tensor
from torch.nn.functional import relu

from evalkit.probe import Probe


def cam(probe: Probe) -> Tensor:
    """CAM (Zhou et al., CVPR 2016, eq. 2): M_c = sum_k w_k^c A_k, w the linear layer behind the pooling; no ReLU.

    Returns maps (N,h,w). Raises UserError on networks without global average pooling and one linear layer.
    """
    return _weighted_sum(probe.class_weights, probe.activations)


def grad_cam(probe: Probe) -> Tensor:
    """Grad-CAM (Selvaraju et al., ICCV 2017, eq. 1 and 2; Ablation-CAM paper, eq. 1).

    w_k = mean over positions of dy/dA_k; map = ReLU(sum_k w_k A_k) (N,h,w).
    """
    weights = probe.gradients.mean((2, 3))
    return relu(_weighted_sum(weights, probe.activations))


def grad_cam_pp(probe: Probe) -> Tensor:
    """Grad-CAM++ (Chattopadhay et al., WACV 2018, eq. 10 and 19) for the exponential of the class score.

    With Y = exp(S) and a piecewise linear head the derivatives are powers of g = dS/dA times Y, so that
    alpha = g^2 / (2 g^2 + g^3 sum(A)) = 1 / (2 + g sum(A)), used where g > 0. The common factor Y of the weights
    changes neither ranking nor normalised map and would overflow: it is left out. Returns (N,h,w), not negative.
    """
    g = probe.gradients
    alpha = 1 / (2 + g * probe.activations.sum((2, 3), keepdim=True))
    weights = torch.where(g > 0, alpha * g, 0).sum((2, 3))
    return relu(_weighted_sum(weights, probe.activations))


def ablation_cam(probe: Probe) -> Tensor:
    """Ablation-CAM (Desai and Ramaswamy, WACV 2020, eq. 3 and 4): w_k = (y - y^k) / y, map = ReLU(sum_k w_k A_k).

    Divided by |y|, because a negative y would turn every sign; where y = 0 the drops themselves are the weights.
    Neither changes the ranking for y > 0. Returns (N,h,w), not negative.
    """
    size = probe.scores.abs()
    weights = probe.drops / torch.where(size > 0, size, 1)[:, None]
    return relu(_weighted_sum(weights, probe.activations))


def _weighted_sum(weights: Tensor, activations: Tensor) -> Tensor:
    """(N,K) and (N,K,h,w) -> (N,h,w)."""
    return torch.einsum("nk,nkhw->nhw", weights, activations)
