"""Images and maps as pictures: colours, overlays and data URIs."""

import io

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from evalkit.output.pages import data_uri

COLOURS = "inferno"
"""Colour map of heat maps. Its lightness rises evenly, so it can be read in grey and by colour-blind readers."""
OVERLAY = 0.55
"""Opacity of the heat map over the photograph."""


def heat(values: Tensor, colours: str = COLOURS) -> Tensor:
    """Colour a map (H,W), scaled from its least value to its greatest; returns (3,H,W). A constant map gets the lowest colour."""
    low, high = values.min(), values.max()
    scaled = (values - low) / (high - low) if high > low else torch.zeros_like(values)
    return torch.from_numpy(colormaps[colours](scaled.numpy())[..., :3]).permute(2, 0, 1).float()


def overlay(image: Tensor, values: Tensor) -> Tensor:
    """Lay a map (H,W) over the image (3,H,W) in grey, since the image's colours would mix with the map's."""
    return (1 - OVERLAY) * image.mean(0, keepdim=True) + OVERLAY * heat(values)


def webp_uri(image: Tensor, side: int) -> str:
    """Encode an image (3,H,W) in [0,1] as a data URI in WebP, its longer side at most `side` pixels."""
    picture = to_pil(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=70, method=4)
    return data_uri(file.getvalue(), "image/webp")


def to_pil(image: Tensor) -> Image.Image:
    """Convert an image (3,H,W) in [0,1] to an RGB picture."""
    return Image.fromarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def to_array(image: Tensor) -> np.ndarray:
    """Convert an image (3,H,W) to an array (H,W,3) in [0,1]."""
    return image.float().permute(1, 2, 0).clamp(0, 1).cpu().numpy()
