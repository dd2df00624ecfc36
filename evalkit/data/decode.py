"""From encoded bytes to the uint8 crop that the model's normalisation expects."""

import io
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tvf

# What Pillow raises on broken or hostile files, from its several decoders.
_DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, zlib.error, Image.DecompressionBombError)


class UnreadableImage(Exception):
    """An image that cannot be decoded; the message is the reason its rows carry."""


def decode(encoded: bytes | Path, *, formats: tuple[str, ...] | None = None, most_pixels: int | None = None) -> Image.Image:
    """A file or its bytes -> RGB image, as stored: no EXIF rotation, since ImageNet's protocols apply none.

    `formats` are Pillow's names of those that are accepted, default all; images of more than `most_pixels` are not decoded.
    Raises UnreadableImage.
    """
    try:
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded, formats=formats) as image:
            if most_pixels is not None and image.width * image.height > most_pixels:
                raise UnreadableImage(f"{image.width} x {image.height} pixels are more than {most_pixels / 1e6:g} million")
            image.load()
            return to_rgb(image)
    except _DECODE_ERRORS as reason:
        text = (reason.strerror if isinstance(reason, OSError) else "") or str(reason) or type(reason).__name__  # without errno and name
        if isinstance(reason, Image.DecompressionBombError):
            text = f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million pixels"
        if isinstance(reason, Image.UnidentifiedImageError):
            empty = (len(encoded) if isinstance(encoded, bytes) else encoded.stat().st_size) == 0
            unknown = "not an image, or a format that Pillow cannot read" if formats is None else f"not an image in {', '.join(formats)}"
            text = "the file is empty" if empty else unknown
        raise UnreadableImage(text) from reason


def content(encoded: bytes | Path) -> bytes:
    """The bytes of an image. Raises UnreadableImage."""
    try:
        return encoded if isinstance(encoded, bytes) else encoded.read_bytes()
    except OSError as reason:
        raise UnreadableImage(reason.strerror or str(reason)) from reason


class Encoded(ABC):
    """For sources whose images are files: `load` in terms of `encoded`."""

    @abstractmethod
    def encoded(self, position: int) -> bytes | Path:
        """The image's file, or its content. Raises UnreadableImage, and UserError where a file system fails: that is no image's fault."""

    def load(self, position: int) -> Image.Image:
        """The decoded image. Raises as `encoded` does."""
        return decode(self.encoded(position))


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode -> RGB. 16-bit greys are scaled to 8 bits: Pillow's own conversion would clip them to white.

    Raises UnreadableImage for 32-bit whole numbers and floats, which have no known white.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # older Pillow's 16-bit PNGs
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UnreadableImage(f"32-bit values (Pillow mode {image.mode}) have no known white; convert the picture to 8 bits")
    return image if image.mode == "RGB" else image.convert("RGB")


@dataclass(frozen=True)
class Preprocess:
    """Resize, then crop; the result stays uint8, so that images are exactly multiples of 1/255 in [0,1].

    `resize` is the shorter side, (height, width), or None; `crop` the side of the central square, or None;
    images are interpolated by Pillow, hence antialiased.
    """

    resize: int | Sequence[int] | None
    crop: int | None
    interpolation: str = "bilinear"

    def __call__(self, image: Image.Image | Tensor) -> Tensor:
        """RGB image, or uint8 (3,h,w) -> uint8 (3,H,W); tensors are resized on their device, antialiased too."""
        if self.resize is not None:
            size = [self.resize] if isinstance(self.resize, int) else list(self.resize)
            image = tvf.resize(image, size, InterpolationMode(self.interpolation))
        if self.crop is not None:
            image = tvf.center_crop(image, [self.crop, self.crop])
        if isinstance(image, Tensor):
            return image.contiguous()
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
