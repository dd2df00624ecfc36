"""Methods at several layers of one network: which of them depend on the layer, and maps of several layers fused into one."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from evalkit.errors import one_of
from evalkit.protocol import soft_mask, upsample

M = TypeVar("M", bound=Callable[..., Tensor])


def layer_free(method: M) -> M:
    """Declare that a method's maps do not depend on the layer: a run that explains several layers computes them once.

    The same as `method.layer_free = True`. The value may also be a function of the method's parameters that returns a boolean.
    """
    method.layer_free = True  # type: ignore[attr-defined]
    return method


def is_layer_free(method: Callable[..., Any], **parameters: Any) -> bool:
    """Return whether a method with these parameters is declared to be free of the layer (see `layer_free`); by default it is not."""
    declared = getattr(method, "layer_free", False)
    return bool(declared(**parameters)) if callable(declared) else bool(declared)


def fuse(maps: Sequence[Tensor], size: tuple[int, int], how: str) -> Tensor:
    """Fuse raw maps of several layers, each (N,h,w) with its own h and w, into one (N,H,W) of the given size, in [0,1].

    Each map is min-max normalised, image by image, and then upsampled (bilinear, align_corners False); a constant map counts as 0.
    "mean" averages them over the layers, as pytorch-grad-cam does for several target layers (`BaseCAM.aggregate_multi_layers`);
    that library clips maps at 0 first, which changes only methods with negative values, and normalises the mean again, which
    changes no order. "max" takes the largest, as torch-cam's `fuse_cams`; for LayerCAM that library, like LayerCAM's paper (Jiang
    et al., TIP 2021, eq. 9), passes the normalised maps through tanh(2x) before it upsamples them, which is left out here.
    """
    fused = [upsample(soft_mask(low), size) for low in maps]
    stacked = torch.stack(fused)
    return stacked.mean(0) if one_of(how, ("mean", "max"), "fuse") == "mean" else stacked.amax(0)
