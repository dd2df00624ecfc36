"""Images and maps as pictures: colours, overlays, and files inside addresses."""

import io

import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from evalkit.output.pages import data_uri

COLOURS = "inferno"
"""Of heat maps: its lightness rises evenly, so it survives colour blindness and printing in grey."""
OVERLAY = 0.55
"""Opacity of the heat map over the photograph."""


def heat(values: Tensor, colours: str = COLOURS) -> Tensor:
    """A map (H,W) in colours (3,H,W), from its least value to its greatest; a constant map is all in the lowest colour."""
    low, high = values.min(), values.max()
    scaled = (values - low) / (high - low) if high > low else torch.zeros_like(values)
    return torch.from_numpy(colormaps[colours](scaled.numpy())[..., :3]).permute(2, 0, 1).float()


def overlay(image: Tensor, values: Tensor) -> Tensor:
    """A map (H,W) over the image (3,H,W) in grey, since its own colours would mix with the map's."""
    return (1 - OVERLAY) * image.mean(0, keepdim=True) + OVERLAY * heat(values)


def webp_uri(image: Tensor, side: int) -> str:
    """An image (3,H,W) in [0,1] as WebP inside an address, its longer side at most `side` pixels."""
    picture = to_pil(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=70, method=4)
    return data_uri(file.getvalue(), "image/webp")


def to_pil(image: Tensor) -> Image.Image:
    """(3,H,W) in [0,1] -> RGB."""
    return Image.fromarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
