"""Photographs that the page offers: samples of a data set, and the last few uploads, which live in memory only."""

import io
import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from PIL import Image, ImageOps

from evalkit.data.decode import UnreadableImage, decode
from evalkit.data.sources import Source
from evalkit.errors import UserError, printable
from evalkit.output.pages import data_uri

log = logging.getLogger(__name__)

MOST_BYTES = 10_000_000
"""Of an uploaded file."""
MOST_PIXELS = 50_000_000
"""Of an uploaded photograph: a file of a few bytes may claim to hold any number."""
MOST_ELONGATED = 20
"""Longer over shorter side. A model resizes the shorter one, so that a line of pixels would become an image without end."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""Pillow's names of what may be uploaded: its many other decoders never see a stranger's bytes."""
UPLOADS = 8
"""Of which the last are kept."""
THUMBNAIL = 112
"""Longer side, in pixels."""


@dataclass(frozen=True)
class Photograph:
    """A photograph by its key; `load` decodes it, RGB, and raises UnreadableImage."""

    key: str
    name: str
    load: Callable[[], Image.Image]


class Album:
    """Samples by their position in a data set, and uploads by a random key. May be used from several threads.

    Raises UserError where no sample can be read; single ones are left out with a warning.
    """

    def __init__(self, source: Source, positions: Sequence[int], others: int = 0) -> None:
        self.others = others
        """Images of the data set that are no samples."""
        self.samples: dict[str, Photograph] = {}
        self.thumbnails: dict[str, str] = {}
        """Pictures of the samples as addresses."""
        self._uploads: dict[str, Photograph] = {}
        self._lock = threading.Lock()
        for position in positions:
            photograph = Photograph(f"s{position}", _name(source, position), partial(source.load, position))
            try:
                self.thumbnails[photograph.key] = thumbnail(photograph.load())
            except UnreadableImage as reason:
                log.warning("%s is left out: %s", photograph.name, reason)
                continue
            self.samples[photograph.key] = photograph
        if not self.samples:
            raise UserError(f"none of the {len(positions)} sample photographs can be read")

    def add(self, content: bytes, name: str) -> tuple[Photograph, str]:
        """Keep an uploaded file; returns it with its thumbnail. Raises UserError for what is no photograph, or too large a one."""
        photograph = Photograph(secrets.token_urlsafe(9), printable(name)[:80], partial(_upright, content))
        small = thumbnail(_picture(photograph))
        with self._lock:
            self._uploads[photograph.key] = photograph
            while len(self._uploads) > UPLOADS:
                del self._uploads[next(iter(self._uploads))]
        return photograph, small

    def __getitem__(self, key: str) -> Photograph:
        """Raises UserError for a key that is not, or no longer, known."""
        with self._lock:
            found = self.samples.get(key) or self._uploads.get(key)
        if found is None:
            raise UserError(f"this photograph is no longer here (the last {UPLOADS} uploads are kept): upload it again")
        return found

    def picture(self, key: str) -> Image.Image:
        """A photograph, RGB. Raises UserError: it is not known, cannot be read, or is a strip."""
        return _picture(self[key])


def _picture(photograph: Photograph) -> Image.Image:
    try:
        picture = photograph.load()
    except UnreadableImage as reason:
        raise UserError(f"{photograph.name} cannot be read: {reason}") from reason
    if max(picture.size) > MOST_ELONGATED * min(picture.size):
        raise UserError(f"{photograph.name} is a strip of {picture.width} x {picture.height} pixels: choose a photograph")
    return picture


def _upright(content: bytes) -> Image.Image:
    """As a person sees it: phones store photographs lying on their side, and say so in EXIF."""
    return ImageOps.exif_transpose(decode(content, formats=FORMATS, most_pixels=MOST_PIXELS))


def _name(source: Source, position: int) -> str:
    labels = ", ".join(str(key) for key in source.class_keys(position))
    return printable(source.image_id(position) + (f" (labelled {labels})" if labels else ""))


def thumbnail(picture: Image.Image) -> str:
    """A small copy, as an address."""
    small = picture.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return png_uri(small)


def png_uri(picture: Image.Image) -> str:
    """A picture as PNG inside an address: what the page shows of a mask is exact, pixel by pixel."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return data_uri(file.getvalue(), "image/png")
