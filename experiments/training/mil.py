"""Attention-based multiple-instance learning: a network of patches, and its attention as maps beside CAM methods.

An image is a bag, its patches are the instances (Ilse, Tomczak and Welling, "Attention-based deep multiple instance learning",
ICML 2018; Patil et al., WIECON-ECE 2019). `attention_mil.py` trains the network on the embedded digits; a run with both maps:

    PYTHONPATH=experiments/training evalkit run --conf experiments/conf model=digits_mil model.weights=mil/mil_32_seed0.safetensors \\
      'method=[mil_attention,mil_evidence,grad_cam,ablation_cam,random,centre]' out=results/mil
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from evalkit.errors import UserError
from evalkit.models.digits_nets import DigitsGAP
from evalkit.probe import Probe

CHANNELS = 64
"""Features of an instance, K."""


class Instances(nn.Module):
    """Cuts images into patches and encodes each of them alone, by the convolutions of `DigitsGAP` and average pooling.

    Patches of `patch` x `patch` pixels lie `stride` apart. Cell (i,j) of the output is the patch whose centre is the cell's own, at
    pixel ((i + 1/2) stride, (j + 1/2) stride): at the border, patches larger than the stride are filled up with the mean colour.
    """

    def __init__(self, patch: int, stride: int) -> None:
        super().__init__()
        if not 0 < stride <= patch or (patch - stride) % 2:
            raise UserError(
                f"patches of {patch} pixels cannot lie {stride} apart: the stride must be at most the patch, and both even or odd"
            )
        self.patch, self.stride = patch, stride
        self.encoder = nn.Sequential(DigitsGAP().features, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def patches(self, images: Tensor) -> Tensor:
        """Cut normalised images (N,3,H,W) into patches (N,h,w,3,patch,patch); h = H / stride, w = W / stride."""
        margin = (self.patch - self.stride) // 2
        padded = pad(images, (margin, margin, margin, margin))
        return padded.unfold(2, self.patch, self.stride).unfold(3, self.patch, self.stride).permute(0, 2, 3, 1, 4, 5)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (N,3,H,W) to the features of their instances (N,K,h,w)."""
        bags = self.patches(images)
        features: Tensor = self.encoder(bags.flatten(0, 2))
        return features.view(bags.shape[0], bags.shape[1], bags.shape[2], CHANNELS).permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Weights of the instances of a bag, which sum to 1 (Ilse et al. 2018): eq. 9 where `gated`, else eq. 8.

    a_k = softmax over k of w^T (tanh(V h_k) * sigmoid(U h_k)), h_k being the features of instance k; eq. 8 has no U.
    """

    def __init__(self, channels: int = CHANNELS, hidden: int = 64, gated: bool = True) -> None:
        super().__init__()
        self.V = nn.Conv2d(channels, hidden, 1, bias=False)
        self.U = nn.Conv2d(channels, hidden, 1, bias=False) if gated else None
        self.w = nn.Conv2d(hidden, 1, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N,K,h,w) to weights (N,h,w)."""
        hidden = self.V(features).tanh()
        if self.U is not None:
            hidden = hidden * self.U(features).sigmoid()
        scores: Tensor = self.w(hidden)[:, 0]
        return scores.flatten(1).softmax(1).view_as(scores)


class Bag(nn.Module):
    """Classifies bags of instances: their mean by attention (Ilse et al. 2018, eq. 7), then a linear layer."""

    def __init__(self, gated: bool, num_classes: int) -> None:
        super().__init__()
        self.attention = Attention(gated=gated)
        self.classifier = nn.Linear(CHANNELS, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map features of instances (N,K,h,w) to logits (N,num_classes)."""
        logits: Tensor = self.classifier((self.attention(features)[:, None] * features).sum((2, 3)))
        return logits


class AttentionMIL(nn.Module):
    """A network from images to logits that sees patches, each alone, and pools them by attention.

    Target layer `instances`, whose output (N,K,h,w) has one position for each patch. `patch` and `stride` are in pixels; equal
    numbers cut the image into patches that do not overlap.
    """

    def __init__(self, patch: int = 32, stride: int = 16, gated: bool = True, num_classes: int = 10) -> None:
        super().__init__()
        self.instances = Instances(patch, stride)
        self.bag = Bag(gated, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (N,3,H,W) to logits (N,num_classes)."""
        logits: Tensor = self.bag(self.instances(x))
        return logits


def attention_map(probe: Probe) -> Tensor:
    """Return the attention weights a_k of the patches (N,h,w), at least 0, of sum 1; they do not depend on the explained class.

    Raises UserError: the network is no AttentionMIL, or is explained at another layer than `instances`.
    """
    return _attention(probe, "attention_map")[1]


def attention_evidence(probe: Probe) -> Tensor:
    """Return what each patch adds to the explained class's score: attention times the instance's score, a_k w_c^T h_k (N,h,w).

    The class score is their sum and the bias b_c, since the layer behind the pooling is linear. Patches that speak against the
    class are negative. Errors as in `attention_map`.
    """
    module, attention = _attention(probe, "attention_evidence")
    weights = module.bag.classifier.weight[probe.targets].detach()
    return attention * torch.einsum("nk,nkhw->nhw", weights, probe.activations)


def _attention(probe: Probe, method: str) -> tuple[AttentionMIL, Tensor]:
    module = probe.net.module
    if not isinstance(module, AttentionMIL) or probe.net.layer != "instances":
        raise UserError(
            f"{method} reads the attention of mil.AttentionMIL at layer 'instances', not {probe.net.name} at '{probe.net.layer}': set "
            "model=digits_mil, or leave the method out"
        )
    with torch.no_grad():
        return module, module.bag.attention(probe.activations)
