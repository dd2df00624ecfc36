"""The range of pixels: every image is in [0,1] before it is normalised."""

import torch
from torch import Tensor


def in_unit_range(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert images to floats in [0,1]: uint8 is divided by 255 in the new precision; floats lie there already."""
    converted = images.to(dtype)
    return converted / 255 if images.dtype == torch.uint8 else converted
