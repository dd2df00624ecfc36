"""Decoding and resizing of JPEGs on the GPU with torchvision's nvJPEG, and with Pillow where nvJPEG may read a file differently."""

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
    """A decoder of encoded images to uint8 (3,H,W) on `device`; an image's pixels do not depend on the others in its batch.

    Pixels differ from Pillow's by a few 1/255, since the inverse cosine transform, the chroma's interpolation and the
    resizing are computed differently. nvJPEG decodes only complete 8-bit grey and YCbCr JPEGs. CMYK, RGB without YCbCr,
    truncated files and other formats go to Pillow and are resized on the CPU, with the same pixels, or errors, as with decode=pil.
    """

    preprocess: Preprocess
    device: torch.device

    def __call__(self, contents: Sequence[bytes]) -> list[Tensor | str]:
        """Decode images, in the same order; the result of an image that cannot be read is the reason."""
        plain = [i for i, content in enumerate(contents) if _is_plain(content)]
        images = dict(zip(plain, self._decoded([contents[i] for i in plain]), strict=True))
        return [self._finished(images.get(i), content) for i, content in enumerate(contents)]

    def _decoded(self, contents: list[bytes]) -> list[Tensor | None]:
        """Decode to uint8 (3,h,w), or None where nvJPEG refuses. It refuses a whole batch for one bad image: then each is decoded alone."""
        if not contents:
            return []
        from torchvision.io import ImageReadMode, decode_jpeg  # noqa: PLC0415 - torchvision plans to remove it, and decode=pil must work without it

        encoded = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in contents]
        try:
            return list(decode_jpeg(encoded, ImageReadMode.RGB, device=self.device))
        except torch.OutOfMemoryError as reason:  # with Pillow instead, pixels would depend on the free memory
            raise UserError("decode=gpu: the GPU's memory has no room to decode a batch; lower batch_size") from reason
        except RuntimeError:
            return [None] if len(contents) == 1 else [image for content in contents for image in self._decoded([content])]

    def _finished(self, image: Tensor | None, content: bytes) -> Tensor | str:
        try:
            return self.preprocess(decode(content) if image is None else image).to(self.device)
        except UnreadableImage as reason:
            return str(reason)


def tried_decoder(preprocess: Preprocess, device: torch.device) -> DeviceDecoder:
    """Return a decoder that was tested on a small picture: without nvJPEG, it would silently leave all pictures to Pillow.

    Raises UserError where torchvision cannot decode on the device.
    """
    decoder, small = DeviceDecoder(preprocess, device), io.BytesIO()
    Image.new("RGB", (16, 16)).save(small, "JPEG")
    if decoder._decoded([small.getvalue()]) == [None]:
        raise UserError(f"this torchvision cannot decode JPEGs on {device}; use decode=pil")
    return decoder


def _is_plain(content: bytes) -> bool:
    """Return whether the header describes a JPEG that all decoders read alike, and the file is complete."""
    if not content.rstrip(b"\0").endswith(END_OF_IMAGE):
        return False
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.format == "JPEG" and image.mode in ("L", "RGB") and image.info.get("adobe_transform", 1) == 1
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False  # decode() reports the reason
