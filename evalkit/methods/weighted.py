"""Maps that are weighted sums of the activations: sum_k w_k A_k. They differ in the weights."""

import torch
from torch import Tensor
from torch.nn.functional import relu

from evalkit import protocol
from evalkit.errors import one_of, whole
from evalkit.probe import Probe

SCORES = ("score", "softmax", "sigmoid")
"""The choices of y: the logit of the explained class, or its softmax or sigmoid (see `Probe.score_and_drops`)."""


def cam(probe: Probe) -> Tensor:
    """CAM (Zhou et al., CVPR 2016, eq. 2): M_c = sum_k w_k^c A_k, w the linear layer behind the pooling; no ReLU.

    Returns maps (N,h,w). Raises UserError on networks without global average pooling and one linear layer.
    """
    return _weighted_sum(probe.class_weights, probe.activations)


def grad_cam(probe: Probe, gradient: str = "score") -> Tensor:
    """Grad-CAM (Selvaraju et al., ICCV 2017, eq. 1 and 2; Ablation-CAM paper, eq. 1).

    w_k = mean over positions of dy/dA_k; map = ReLU(sum_k w_k A_k) (N,h,w).

    `gradient` chooses y: the class "score" (as in both papers), or its "softmax" or "sigmoid" (Ablation-CAM paper,
    section 5). A sigmoid's map is the score's times y (1 - y): smaller, but proportional, unless rounding makes it 0
    everywhere (see `Probe.scored_gradients`). A softmax adds the gradients of the other classes.
    """
    weights = probe.scored_gradients(one_of(gradient, SCORES, "gradient")).mean((2, 3))
    return relu(_weighted_sum(weights, probe.activations))


def grad_cam_pp(probe: Probe) -> Tensor:
    """Grad-CAM++ (Chattopadhay et al., WACV 2018, eq. 10 and 19) for the exponential of the class score.

    With Y = exp(S) and a piecewise linear head the derivatives are powers of g = dS/dA times Y, so that
    alpha = g^2 / (2 g^2 + g^3 sum(A)) = 1 / (2 + g sum(A)), used where g > 0. The common factor Y of the weights is left
    out: it changes neither ranking nor normalised map, and would overflow. Returns (N,h,w), not negative.
    """
    g = _wide(probe.gradients)
    alpha = 1 / (2 + g * _wide(probe.activations).sum((2, 3), keepdim=True))
    weights = torch.where(g > 0, alpha * g, 0).sum((2, 3))
    return relu(_weighted_sum(weights, _wide(probe.activations)))


def xgrad_cam(probe: Probe) -> Tensor:
    """XGrad-CAM (Fu et al., BMVC 2020, section 3): w_k = sum_ij g_kij A_kij / sum_ij A_kij; map = ReLU(sum_k w_k A_k) (N,h,w).

    A channel whose activations sum to 0 gets the weight 0.
    """
    activations = _wide(probe.activations)
    total = activations.sum((2, 3))
    weights = (probe.gradients * activations).sum((2, 3)) / torch.where(total == 0, torch.inf, total)
    return relu(_weighted_sum(weights, activations))


def ablation_cam(probe: Probe, normalise: str = "score", drop: str = "score", tokens: str = "grid") -> Tensor:
    """Ablation-CAM (Desai and Ramaswamy, WACV 2020, eq. 3 and 4): w_k = (y - y^k) / y, map = ReLU(sum_k w_k A_k).

    `drop` chooses y: the class "score" (section 4), the "softmax" confidence, which the authors tried and found less
    trustworthy, or the "sigmoid" (section 5). `normalise`: by y ("score", eq. 3) or by the L2 norm of A_k ("norm", eq. 2).

    The divisor is |y|, because a negative y would reverse every sign; where it is 0, the drops themselves are the weights.
    Neither changes the ranking for y > 0. Returns (N,h,w), not negative.

    Where prefix tokens, such as a class token, carry the channels too, `tokens` chooses what ablating channel k sets to zero: its
    values A_k in the "grid", which the map shows, or in "all" tokens, as pytorch-grad-cam does, which costs one more trunk pass. The
    class token's own values then count as evidence that lies everywhere.
    """
    ablated = probe.with_all_tokens if one_of(tokens, ("grid", "all"), "tokens") == "all" else probe
    y, drops = ablated.score_and_drops(one_of(drop, SCORES, "drop"))
    by_norm = one_of(normalise, ("score", "norm"), "normalise") == "norm"
    size = _wide(probe.activations.flatten(2)).norm(dim=2) if by_norm else y.abs()[:, None]
    weights = drops / torch.where(size > torch.finfo(size.dtype).tiny, size, 1)  # a divisor below that may overflow
    return relu(_weighted_sum(weights, probe.activations.to(weights.dtype)))  # drops in confidence are too small for float32


def ablated_input_cam(probe: Probe, fill: str = "black") -> Tensor:
    """Weights from the activations without an image (Pandit 2020, "A Different Approach", section 6).

    That text gives the idea only: a channel that is active on an all-zero image is active without having seen a shape.
    Written here as eq. 3 of Ablation-CAM, with the channel's mean |A_k| as m_k in place of the class score:
    w_k = max(0, m_k - m_k(blank image)) / m_k, the share of the activation that is due to the image, in [0, 1]. A channel
    that is more active without the image gets the weight 0; otherwise a channel with m_k near 0 would get a very large
    negative weight. Map = ReLU(sum_k w_k A_k) (N,h,w). It does not depend on the class. `fill` defines "all-zero": "black"
    (before normalisation) or "mean" (zero after it).
    """
    blank = protocol.filling(probe.images[:1], one_of(fill, ("black", "mean"), "fill"), probe.net.mean)
    without = probe.net.trunk(blank.expand_as(probe.images[:1]))[0].abs().mean((2, 3))
    means = probe.activations.abs().mean((2, 3))
    weights = relu(means - without) / torch.where(means > 0, means, 1)
    return relu(_weighted_sum(weights, probe.activations))


def score_cam(probe: Probe, batch_size: int = 32) -> Tensor:
    """Score-CAM (Wang et al., CVPR Workshops 2020, definitions 2 and 3, algorithm 1): a forward pass for each channel.

    H_k = A_k upsampled and min-max normalised; the image times H_k gives S_k, the class score; w = softmax of S over the
    channels; map = ReLU(sum_k w_k A_k) (N,h,w). The product is taken after normalisation, as in the authors' code: what
    H_k removes becomes the mean colour. Constant channels have H_k = 0 and share one pass.
    """
    maps, batch_size = [], whole(batch_size, "batch_size")
    size, device = (probe.images.shape[2], probe.images.shape[3]), probe.images.device
    mean = probe.net.mean.to(probe.images)
    extent = probe.activations.amax((2, 3)) - probe.activations.amin((2, 3))
    varies = ((extent > 0) & extent.isfinite()).cpu()  # the only time that the host waits for the device
    for i, (image, channels) in enumerate(zip(probe.images, probe.activations, strict=True)):
        masks = protocol.soft_mask(protocol.upsample(channels, size))
        varying = varies[i].nonzero()[:, 0].to(device, non_blocking=True)
        masks = torch.cat([torch.zeros_like(masks[:1]), masks[varying]])
        target = probe.targets[i : i + 1]
        scores = torch.cat([probe.net(protocol.perturb(image[None], part, mean))[:, target] for part in masks.split(batch_size)])[:, 0]
        by_channel = scores[:1].repeat(len(channels))
        by_channel[varying] = scores[1:]
        maps.append(relu(_weighted_sum(by_channel.softmax(0)[None], channels[None])))
    return torch.cat(maps)


def eigen_cam(probe: Probe) -> Tensor:
    """Eigen-CAM (Muhammad and Yeasin, IJCNN 2020, section III): A as (hw,K) on its first right singular vector.

    No centring, as in the paper. The sign of a singular vector is arbitrary: it is chosen so that the map's sum is not
    negative. It does not depend on the class. Returns (N,h,w), nan for an image whose activations are not finite.
    """
    activations = _wide(probe.activations)  # torch has no SVD of 16-bit numbers
    finite = activations.isfinite().all((1, 2, 3))[:, None, None]
    _, _, v = torch.linalg.svd(torch.where(finite, activations.flatten(2).mT, 0), full_matrices=False)
    maps = _weighted_sum(v[:, 0], activations)
    return torch.where(finite, torch.where(maps.sum((1, 2), keepdim=True) < 0, -maps, maps), torch.nan)


def _wide(tensor: Tensor) -> Tensor:
    """Return 16-bit numbers as float32, others as they are: sums over positions exceed the range of float16 above 65504."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _weighted_sum(weights: Tensor, activations: Tensor) -> Tensor:
    """Return the sums (N,h,w) of activations (N,K,h,w) with weights (N,K)."""
    dtype = torch.promote_types(weights.dtype, activations.dtype)  # part of a network may be in half precision
    return torch.einsum("nk,nkhw->nhw", weights.to(dtype), activations.to(dtype))
