"""Photographs that the page offers: samples of a data set, and the last few uploads, which are kept in memory only."""

import io
import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from PIL import Image, ImageOps

from evalkit.data.decode import Picture, UnreadableImage, extent, read_picture
from evalkit.data.sources import Source
from evalkit.errors import UserError, printable
from evalkit.output.pages import data_uri
from evalkit.photos.pictures import to_picture

log = logging.getLogger(__name__)

MOST_BYTES = 10_000_000
"""Largest size of an uploaded file."""
MOST_PIXELS = 50_000_000
"""Largest number of pixels of an uploaded photograph: a file of a few bytes can declare any number."""
MOST_ELONGATED = 20
"""Largest ratio of longer to shorter side. Models resize the shorter side, so the longer one could become huge."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""Formats that may be uploaded, by Pillow's names: its many other decoders never process untrusted files."""
UPLOADS = 8
"""Number of uploads that are kept."""
THUMBNAIL = 112
"""Longer side of a thumbnail, in pixels."""


@dataclass(frozen=True)
class Photograph:
    """A photograph and its key; `load` decodes it and raises UnreadableImage."""

    key: str
    name: str
    load: Callable[[], Picture]


class Album:
    """Samples by their position in a data set, and uploads by a random key. Thread-safe.

    Raises UserError if no sample can be read; single unreadable samples are left out with a warning.
    """

    def __init__(self, source: Source, positions: Sequence[int], others: int = 0) -> None:
        self.others = others
        """Number of images of the data set that are not samples."""
        self.samples: dict[str, Photograph] = {}
        self.thumbnails: dict[str, str] = {}
        """Thumbnails of the samples as data URIs."""
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
        """Keep an uploaded file; return it with its thumbnail. Raises UserError if it is not a photograph or is too large."""
        photograph = Photograph(secrets.token_urlsafe(9), printable(name)[:80], partial(_upright, content))
        small = thumbnail(_picture(photograph))
        with self._lock:
            self._uploads[photograph.key] = photograph
            while len(self._uploads) > UPLOADS:
                del self._uploads[next(iter(self._uploads))]
        return photograph, small

    def __getitem__(self, key: str) -> Photograph:
        """Return a photograph by its key. Raises UserError for a key that is unknown or no longer kept."""
        with self._lock:
            photograph = self.samples.get(key) or self._uploads.get(key)
        if photograph is None:
            raise UserError(f"this photograph is no longer here (the last {UPLOADS} uploads are kept): upload it again")
        return photograph

    def picture(self, key: str) -> Picture:
        """Decode a photograph. Raises UserError if it is not kept, cannot be read, or is too narrow (`MOST_ELONGATED`)."""
        return _picture(self[key])


def _picture(photograph: Photograph) -> Picture:
    try:
        picture = photograph.load()
    except UnreadableImage as reason:
        raise UserError(f"{photograph.name} cannot be read: {reason}") from reason
    height, width = extent(picture)
    if max(height, width) > MOST_ELONGATED * min(height, width):
        raise UserError(f"{photograph.name} is too narrow ({width} x {height} pixels): choose another photograph")
    return picture


def _upright(content: bytes) -> Image.Image:
    """Decode a photograph and rotate it as its EXIF says: phones may store photographs sideways."""
    return ImageOps.exif_transpose(read_picture(content, formats=FORMATS, most_pixels=MOST_PIXELS))


def _name(source: Source, position: int) -> str:
    labels = ", ".join(str(key) for key in source.class_keys(position))
    return printable(source.image_id(position) + (f" (labelled {labels})" if labels else ""))


def thumbnail(picture: Picture) -> str:
    """Return a small copy as a data URI. Raises UnreadableImage for values that cannot be shown."""
    small = to_picture(picture).copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return png_uri(small)


def png_uri(picture: Image.Image) -> str:
    """Encode a picture as a data URI in PNG, which is lossless: the page shows masks exactly."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return data_uri(file.getvalue(), "image/png")
