"""Images and maps as pictures: colours, overlays and data URIs.

Of an image with other channels than RGB, the first three are shown as red, green and blue; of one or two, the first in grey.
"""

import io

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from evalkit.data.decode import Picture, to_rgb, with_channels
from evalkit.output.pages import data_uri
from evalkit.pixels import in_unit_range

COLOURS = "inferno"
"""Colour map of heat maps. Its lightness rises evenly, so it can be read in grey and by colour-blind readers."""
OVERLAY = 0.55
"""Opacity of the heat map over the photograph."""


def visible(image: Tensor) -> Tensor:
    """Return the channels of an image (channels,H,W) that are shown, (3,H,W)."""
    return image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)


def to_picture(stored: Picture) -> Image.Image:
    """Convert an image as a data set stores it to an RGB picture. Raises UnreadableImage."""
    if not isinstance(stored, Tensor):
        stored = with_channels(stored, 1) if stored.mode == "F" else to_rgb(stored)
    return to_pil(in_unit_range(stored, torch.float32)) if isinstance(stored, Tensor) else stored


def heat(values: Tensor, colours: str = COLOURS) -> Tensor:
    """Colour a map (H,W), scaled from its least value to its greatest; returns (3,H,W). A constant map gets the lowest colour."""
    low, high = values.min(), values.max()
    scaled = (values - low) / (high - low) if high > low else torch.zeros_like(values)
    return torch.from_numpy(colormaps[colours](scaled.numpy())[..., :3]).permute(2, 0, 1).float()


def overlay(image: Tensor, values: Tensor) -> Tensor:
    """Lay a map (H,W) over the image (channels,H,W) in grey, since the image's colours would mix with the map's; returns (3,H,W)."""
    return (1 - OVERLAY) * visible(image).mean(0, keepdim=True) + OVERLAY * heat(values)


def webp_uri(image: Tensor, side: int) -> str:
    """Encode an image (channels,H,W) in [0,1] as a data URI in WebP, its longer side at most `side` pixels."""
    picture = to_pil(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=70, method=4)
    return data_uri(file.getvalue(), "image/webp")


def to_pil(image: Tensor) -> Image.Image:
    """Convert an image (channels,H,W) in [0,1] to an RGB picture."""
    return Image.fromarray((visible(image).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def to_array(image: Tensor) -> np.ndarray:
    """Convert an image (channels,H,W) to an array (H,W,3) in [0,1]."""
    return visible(image).float().permute(1, 2, 0).clamp(0, 1).cpu().numpy()
