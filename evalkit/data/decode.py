"""Decoding of images, and their preprocessing to the channels, size and crop that the model's normalisation expects."""

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

from evalkit.pixels import in_unit_range

# Errors that Pillow's decoders raise on broken or malicious files.
_DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, zlib.error, Image.DecompressionBombError)


Picture = Image.Image | Tensor
"""A decoded image: Pillow's, of any mode, or a tensor (channels,h,w), uint8 or float32 in [0,1]."""


class UnreadableImage(Exception):
    """An image that cannot be decoded; the message is written to the image's rows."""


class Misfit(UnreadableImage):
    """An image that the settings do not fit: its channels are not the model's, or no white level of its values is known."""


def decode(encoded: bytes | Path, *, formats: tuple[str, ...] | None = None, most_pixels: int | None = None) -> Image.Image:
    """Decode a file, or its bytes, as `read_picture` does, and convert it to RGB. Raises UnreadableImage."""
    return to_rgb(read_picture(encoded, formats=formats, most_pixels=most_pixels))


def read_picture(encoded: bytes | Path, *, formats: tuple[str, ...] | None = None, most_pixels: int | None = None) -> Image.Image:
    """Decode a file, or its bytes, in the mode in which it is stored; of several pages or frames the first.

    An EXIF rotation is not applied, since ImageNet's protocols apply none. `formats` are Pillow's names of the accepted formats,
    by default all; images of more than `most_pixels` are not decoded. Raises UnreadableImage.
    """
    try:
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded, formats=formats) as image:
            if most_pixels is not None and image.width * image.height > most_pixels:
                raise UnreadableImage(f"{image.width} x {image.height} pixels are more than {most_pixels / 1e6:g} million")
            image.load()
            if image.mode == "I" and image.format == "PNG":  # older versions of Pillow open 16-bit PNGs as I
                return Image.fromarray(np.asarray(image).astype(np.uint16))
            return image
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

    def load(self, position: int) -> Picture:
        """Return the decoded image, in the mode in which it is stored. Raises the errors of `encoded`."""
        return read_picture(self.encoded(position))


def extent(picture: Picture) -> tuple[int, int]:
    """Return height and width."""
    return (picture.shape[-2], picture.shape[-1]) if isinstance(picture, Tensor) else (picture.height, picture.width)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB. 16-bit greys are scaled to 8 bits: Pillow's own conversion would clip them to white.

    Raises Misfit for 32-bit integers and floats, for which it is not known what value is white.
    """
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise Misfit(f"32-bit values (Pillow mode {image.mode}) have no known white level; convert the picture to 8 bits")
    return _converted(image, "RGB")


def with_channels(picture: Picture, channels: int) -> Picture:
    """Convert a picture to grey (1 channel), RGB (3) or RGBA (4); a tensor is returned as it is.

    Grey is Pillow's L, 0.299 R + 0.587 G + 0.114 B, without regard to opacity; 16-bit greys become float32 in [0,1], value / 65535,
    for RGB alone 8 bits (`to_rgb`). RGBA is opaque where the picture stores no opacity, as in CMYK, which becomes RGB first.

    Raises Misfit: a tensor of other channels, or a picture for 2 or more than 4; 32-bit values as in `to_rgb`, but for floats in [0,1],
    which can be read as grey. Raises UnreadableImage: Pillow cannot convert it.
    """
    if isinstance(picture, Tensor):
        if len(picture) != channels:
            raise Misfit(_misfit(tuple(picture.shape), channels))
        return picture
    if channels == 3:
        return to_rgb(picture)
    if channels == 1:
        return _grey(picture)
    if channels == 4:
        return _rgba(picture)
    raise Misfit(f"a picture has 1, 3 or 4 channels, and model.channels={channels}: save arrays (.npy), and set data=arrays")


def _misfit(shape: tuple[int, ...], channels: int) -> str:
    last = "; they are its last axis: set data.channels_last=true" if shape[-1] == channels else ""
    return f"its array {shape} has {shape[0]} channel{'s' * (shape[0] != 1)}, and model.channels={channels}{last}"


def _grey(image: Image.Image) -> Picture:
    if image.mode.startswith("I;16"):
        return torch.from_numpy(np.asarray(image).astype(np.float32) / 65535)[None]
    if image.mode == "F":
        values = torch.from_numpy(np.array(image))[None]
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise Misfit(
                "32-bit floats outside [0,1] have no known white level; divide them, or save arrays (.npy) and set data=arrays "
                "data.value_range=[low,high]"
            )
        return values
    return image if image.mode == "L" else _converted(to_rgb(image), "L")


def _rgba(image: Image.Image) -> Picture:
    if image.mode.startswith("I;16"):
        grey = _grey(image)
        assert isinstance(grey, Tensor)
        return torch.cat([grey.expand(3, -1, -1), torch.ones_like(grey)])
    return _converted(image if image.has_transparency_data else to_rgb(image), "RGBA")


def _converted(image: Image.Image, mode: str) -> Image.Image:
    try:
        return image if image.mode == mode else image.convert(mode)
    except ValueError as reason:
        raise UnreadableImage(str(reason)) from reason


@dataclass(frozen=True)
class Preprocess:
    """A conversion to the model's channels, a resize, and then a central crop.

    8-bit images stay uint8, so that they are exact multiples of 1/255 in [0,1]; others are float32 in [0,1].
    `resize` is the shorter side, (height, width), or None; `crop` is the side of the central square, or None.
    Pillow interpolates the pictures of 8 bits, torchvision all others, both with antialiasing.
    """

    resize: int | Sequence[int] | None
    crop: int | None
    interpolation: str = "bilinear"
    channels: int = 3

    def __call__(self, picture: Picture) -> Tensor:
        """Map a picture to (channels,H,W), uint8 or float32 in [0,1]. Tensors are resized on their device. Raises as `with_channels`."""
        image = with_channels(picture, self.channels)
        if self.resize is not None:
            size = [self.resize] if isinstance(self.resize, int) else list(self.resize)
            image = tvf.resize(image, size, InterpolationMode(self.interpolation))
        if self.crop is not None:
            image = tvf.center_crop(image, [self.crop, self.crop])
        if isinstance(image, Tensor):
            return (image.clamp(0, 1) if image.is_floating_point() else image).contiguous()  # bicubic weights may leave [0,1]
        pixels = torch.from_numpy(np.array(image))
        return (pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)).contiguous()


def stacked(images: Sequence[Tensor]) -> Tensor:
    """Stack images (channels,H,W) to (n,channels,H,W): uint8 where all are, else float32 in [0,1], so that no precision is lost."""
    if len({image.dtype for image in images}) > 1:
        images = [in_unit_range(image, torch.float32) for image in images]
    return torch.stack(list(images))
