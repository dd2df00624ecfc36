"""Maps at the resolution of the image (N,H,W), computed by captum.

All explain the logit of the target class, with gradients at the normalised image. The whole network runs in the model's
dtype, also where the trunk is set to bfloat16.
"""

import warnings
from collections.abc import Callable
from typing import Any

from captum.attr import GuidedBackprop, IntegratedGradients, Occlusion, Saliency
from torch import Tensor

from evalkit.errors import UserError, one_of, whole
from evalkit.imports import find
from evalkit.methods.layers import layer_free
from evalkit.models.rectifiers import rectified
from evalkit.probe import Probe
from evalkit.protocol import filling, upsample


@layer_free
def gradient(probe: Probe) -> Tensor:
    """Gradient saliency (Simonyan et al., 2014, section 3.1): max over channels of |dy/dx| (N,H,W)."""
    return Saliency(_network(probe)).attribute(normalised(probe).requires_grad_(), target=probe.targets).amax(1)


@layer_free
def guided_backprop(probe: Probe) -> Tensor:
    """Guided backpropagation (Springenberg et al., 2015, section 3.4), max over channels of its absolute value (N,H,W).

    A ReLU passes back only positive gradients, and only where its input was positive; a ReLU6 counts as a ReLU, every
    other activation (hard-swish, GELU) passes its ordinary gradient. Raises UserError for a network that has no ReLU or
    that torch.fx cannot trace.
    """
    images = normalised(probe)
    method = GuidedBackprop(rectified(probe.net, images[:1]))
    with warnings.catch_warnings():  # captum warns about its hooks on every call
        warnings.filterwarnings("ignore", message="Setting backward hooks")
        return method.attribute(images.requires_grad_(), target=probe.targets).abs().amax(1)


def guided(probe: Probe, method: str = "evalkit.methods.grad_cam", **parameters: Any) -> Tensor:
    """Multiply the upsampled map of any method with guided backpropagation, pointwise (N,H,W).

    `method` is the dotted path of a function from a probe to maps (N,h,w), `parameters` are its own.
    """
    height, width = probe.images.shape[2:]
    return upsample(find(method, "method")(probe, **parameters), (height, width)) * guided_backprop(probe)


def guided_grad_cam(probe: Probe) -> Tensor:
    """Guided Grad-CAM (Selvaraju et al., ICCV 2017, section 3.2): Grad-CAM times guided backpropagation (N,H,W)."""
    return guided(probe, "evalkit.methods.grad_cam")


def guided_ablation_cam(probe: Probe) -> Tensor:
    """Guided Ablation-CAM (Desai and Ramaswamy, WACV 2020, section 4): Ablation-CAM times guided backpropagation (N,H,W)."""
    return guided(probe, "evalkit.methods.ablation_cam")


@layer_free
def integrated_gradients(probe: Probe, steps: int = 50, baseline: str = "black", batch_size: int = 32) -> Tensor:
    """Integrated gradients (Sundararajan et al., ICML 2017, eq. 1), summed over channels (N,H,W); signed.

    The straight path from the baseline image is sampled at `steps` Gauss-Legendre points, with `batch_size` images (or N,
    if that is more) in memory at once. `baseline` is a fill of the protocol: "black" (0 before normalisation, as in the
    paper), "mean" or "blur". A map sums to y(image) - y(baseline), up to the integration error.
    """
    images = normalised(probe)
    attributed = IntegratedGradients(_network(probe)).attribute(
        images,
        baselines=fill_image(probe, baseline, "baseline"),
        target=probe.targets,
        n_steps=whole(steps, "steps"),
        internal_batch_size=max(whole(batch_size, "batch_size"), len(images)),
    )
    return attributed.detach().sum(1)


@layer_free
def occlusion(probe: Probe, window: int = 32, stride: int = 16, fill: str = "black", batch_size: int = 64) -> Tensor:
    """Occlusion (Zeiler and Fergus, ECCV 2014, section 4.2): the drop of the class score under an occluding square (N,H,W).

    A square of `window` pixels moves in steps of `stride`; a pixel's value is the mean of y - y' over the squares that
    cover it. `fill` is their content: "black", "mean" (Zeiler and Fergus' grey) or "blur". About `batch_size` images (or
    N) are in memory at once. Raises UserError for a window larger than the image or a stride that leaves gaps.
    """
    images = normalised(probe)
    n, channels, height, width = images.shape
    if not 0 < whole(stride, "stride") <= whole(window, "window") <= min(height, width):
        raise UserError(f"occlusion needs stride <= window <= {min(height, width)}, the image's side; not stride={stride}, window={window}")
    return (
        Occlusion(_network(probe))
        .attribute(
            images,
            sliding_window_shapes=(channels, window, window),
            strides=(channels, stride, stride),
            baselines=fill_image(probe, fill),
            target=probe.targets,
            perturbations_per_eval=max(1, whole(batch_size, "batch_size") // n),
        )[:, 0]  # the square covers all channels, so they share one value
        .to(images.dtype)
    )


def normalised(probe: Probe, images: Tensor | None = None) -> Tensor:
    """Return the probe's images (N,channels,H,W), or others in [0,1], after normalisation, in a new tensor."""
    return (((probe.images if images is None else images) - probe.net.mean) / probe.net.std).detach()


def _network(probe: Probe) -> Callable[[Tensor], Tensor]:
    """Return the network applied to clones, because an in-place first operation would overwrite captum's input."""
    return lambda images: probe.net.whole(images.clone())


def fill_image(probe: Probe, fill: str, option: str = "fill") -> Tensor:
    """Return the normalised image (N,channels,H,W) of one of the protocol's fills; `option` is the fill's name in error messages."""
    filler = filling(probe.images, one_of(fill, ("black", "mean", "blur"), option), probe.net.mean)
    return normalised(probe, filler).expand_as(probe.images)
