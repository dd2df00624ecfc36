"""JPEGs decoded and resized on the GPU: torchvision's nvJPEG, with Pillow for whatever it is not sure to read alike."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from evalkit.data.decode import Preprocess, UnreadableImage, decode
from evalkit.errors import UserError

END_OF_IMAGE = b"\xff\xd9"


@dataclass(frozen=True)
class DeviceDecoder:
    """Encoded images -> uint8 (3,H,W) on `device`; each one's pixels are its own, whatever it is decoded together with.

    Pixels differ from Pillow's by some 1/255: other arithmetic in the inverse cosine transform, the chroma's
    interpolation and the resizing. Only whole 8-bit grey and YCbCr JPEGs are decoded here. CMYK, RGB without YCbCr, cut-off
    files and other formats go to Pillow and to the CPU's resizing, so that they come out, or fail, as they always do.
    """

    preprocess: Preprocess
    device: torch.device

    def __call__(self, contents: Sequence[bytes]) -> list[Tensor | str]:
        """In the same order; instead of an image that cannot be read, the reason why."""
        plain = [i for i, content in enumerate(contents) if _is_plain(content)]
        images = dict(zip(plain, self._decoded([contents[i] for i in plain]), strict=True))
        return [self._finished(images.get(i), content) for i, content in enumerate(contents)]

    def _decoded(self, contents: list[bytes]) -> list[Tensor | None]:
        """uint8 (3,h,w), or None where the decoder refuses: it refuses a whole batch for one bad image."""
        if not contents:
            return []
        from torchvision.io import ImageReadMode, decode_jpeg  # noqa: PLC0415 - announced to leave torchvision: nobody else may fail then

        encoded = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in contents]
        try:
            return list(decode_jpeg(encoded, ImageReadMode.RGB, device=self.device))
        except torch.OutOfMemoryError as reason:  # going on with Pillow would make pixels depend on what else is in memory
            raise UserError("decode=gpu: the GPU's memory has no room to decode a batch; lower batch_size") from reason
        except RuntimeError:
            return [None] if len(contents) == 1 else [image for content in contents for image in self._decoded([content])]

    def _finished(self, image: Tensor | None, content: bytes) -> Tensor | str:
        try:
            return self.preprocess(decode(content) if image is None else image).to(self.device)
        except UnreadableImage as reason:
            return str(reason)


def tried_decoder(preprocess: Preprocess, device: torch.device) -> DeviceDecoder:
    """A decoder that has decoded a small picture: without nvJPEG it would leave all of them to Pillow, in silence.

    Raises UserError where torchvision cannot decode on the device.
    """
    decoder, small = DeviceDecoder(preprocess, device), io.BytesIO()
    Image.new("RGB", (16, 16)).save(small, "JPEG")
    if decoder._decoded([small.getvalue()]) == [None]:
        raise UserError(f"this torchvision cannot decode JPEGs on {device}; use decode=pil")
    return decoder


def _is_plain(content: bytes) -> bool:
    """Whether the header promises what every JPEG decoder reads alike, and the end is there."""
    if not content.rstrip(b"\0").endswith(END_OF_IMAGE):
        return False
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.format == "JPEG" and image.mode in ("L", "RGB") and image.info.get("adobe_transform", 1) == 1
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False  # decode() says what is wrong with it
