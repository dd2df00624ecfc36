"""Decoding of images, and their preprocessing to the uint8 crop that the model's normalisation expects."""

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

# Errors that Pillow's decoders raise on broken or malicious files.
_DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, zlib.error, Image.DecompressionBombError)


class UnreadableImage(Exception):
    """An image that cannot be decoded; the message is written to the image's rows."""


def decode(encoded: bytes | Path, *, formats: tuple[str, ...] | None = None, most_pixels: int | None = None) -> Image.Image:
    """Decode a file, or its bytes, to an RGB image as stored: without EXIF rotation, since ImageNet's protocols apply none.

    `formats` are Pillow's names of the accepted formats, by default all; images of more than `most_pixels` are not decoded.
    Raises UnreadableImage.
    """
    try:
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded, formats=formats) as image:
            if most_pixels is not None and image.width * image.height > most_pixels:
                raise UnreadableImage(f"{image.width} x {image.height} pixels are more than {most_pixels / 1e6:g} million")
            image.load()
            return to_rgb(image)
    except _DECODE_ERRORS as reason:
        # strerror, since str(OSError) also holds errno and the file name.
        text = (reason.strerror if isinstance(reason, OSError) else "") or str(reason) or type(reason).__name__
        if isinstance(reason, Image.DecompressionBombError):
            text = f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million pixels"
        if isinstance(reason, Image.UnidentifiedImageError):
            empty = (len(encoded) if isinstance(encoded, bytes) else encoded.stat().st_size) == 0
            unknown = "not an image, or a format that Pillow cannot read" if formats is None else f"not an image in {', '.join(formats)}"
            text = "the file is empty" if empty else unknown
        raise UnreadableImage(text) from reason


def content(encoded: bytes | Path) -> bytes:
    """Return the bytes of an image. Raises UnreadableImage."""
    try:
        return encoded if isinstance(encoded, bytes) else encoded.read_bytes()
    except OSError as reason:
        raise UnreadableImage(reason.strerror or str(reason)) from reason


class Encoded(ABC):
    """Base class of sources whose images are files: implements `load` with `encoded`."""

    @abstractmethod
    def encoded(self, position: int) -> bytes | Path:
        """Return the image's file or its content. Raises UnreadableImage, or UserError where the file system fails."""

    def load(self, position: int) -> Image.Image:
        """Return the decoded image. Raises the errors of `encoded`."""
        return decode(self.encoded(position))


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB. 16-bit greys are scaled to 8 bits: Pillow's own conversion would clip them to white.

    Raises UnreadableImage for 32-bit integers and floats, for which it is not known what value is white.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # older versions of Pillow open 16-bit PNGs as I
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UnreadableImage(f"32-bit values (Pillow mode {image.mode}) have no known white level; convert the picture to 8 bits")
    return image if image.mode == "RGB" else image.convert("RGB")


@dataclass(frozen=True)
class Preprocess:
    """A resize and then a central crop; the result stays uint8, so that images are exact multiples of 1/255 in [0,1].

    `resize` is the shorter side, (height, width), or None; `crop` is the side of the central square, or None.
    Pillow interpolates the images, hence with antialiasing.
    """

    resize: int | Sequence[int] | None
    crop: int | None
    interpolation: str = "bilinear"

    def __call__(self, image: Image.Image | Tensor) -> Tensor:
        """Map an RGB image, or uint8 (3,h,w), to uint8 (3,H,W). Tensors are resized on their device, with antialiasing too."""
        if self.resize is not None:
            size = [self.resize] if isinstance(self.resize, int) else list(self.resize)
            image = tvf.resize(image, size, InterpolationMode(self.interpolation))
        if self.crop is not None:
            image = tvf.center_crop(image, [self.crop, self.crop])
        if isinstance(image, Tensor):
            return image.contiguous()
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
