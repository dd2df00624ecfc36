"""What a finished run looked at: its images decoded again, its stored maps over them, and both as pictures for a page."""

import io
from functools import cached_property, lru_cache

import numpy as np
import torch
import yaml
from matplotlib import colormaps
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from evalkit import protocol
from evalkit.config import RunConfig
from evalkit.data.decode import Preprocess
from evalkit.data.sources import Source
from evalkit.errors import UserError
from evalkit.pages import address
from evalkit.runs import Point, Run
from evalkit.session import load_source
from evalkit.stored_maps import StoredMaps

COLOURS = "inferno"
"""Of heat maps: its lightness rises evenly, so it survives colour blindness and printing in grey."""
OVERLAY = 0.55
"""Opacity of the heat map over the photograph."""
OUR_SOURCES = "evalkit.data."
"""A run folder may be somebody else's: of the functions it names only our own readers of images are called."""


class Photographs:
    """The images of a run as its network saw them, with the maps that were stored of them.

    `root` replaces the folder that the run names, where the images have moved. Raises UserError: they are not there, or
    are not those of the run.
    """

    def __init__(self, run: Run, root: str | None = None) -> None:
        self.run = run
        self.config = _configuration(run)
        settings = dict(self.config.data)
        if not str(settings.get("_target_")).startswith(OUR_SOURCES):
            raise UserError(f"{run.path} read its images by {settings.get('_target_')}, which is not called again for pictures")
        if root is not None:
            settings["path" if "path" in settings else "root"] = root
        try:
            self.source: Source = load_source(settings)
        except UserError as reason:
            raise UserError(f"the images of {run.path} are not there ({reason}); name their folder with --data-root") from reason
        if self.source.fingerprint != run.provenance["identity"]["data"]["fingerprint"]:
            raise UserError(f"the images of {run.path} have changed since, or are others; name their folder with --data-root")
        model = self.config.model
        self.preprocess = Preprocess(model.resize, model.crop, model.interpolation)
        self.image = lru_cache(maxsize=1)(self._image)
        self.map = lru_cache(maxsize=1)(self._map)

    @cached_property
    def maps(self) -> StoredMaps:
        """Raises UserError where the run was made without maps=store."""
        return StoredMaps(self.run.folders)

    def _image(self, index: int) -> Tensor:
        """The image at a position of the data set after preprocessing, (3,H,W) in [0,1]. Raises UnreadableImage."""
        return self.preprocess(self.source.load(index)).float() / 255

    def _map(self, method: str, index: int, target: int) -> Tensor:
        """A method's map of an image and class, at the image's size (H,W), as it was ranked."""
        height, width = self.image(index).shape[1:]
        return protocol.upsample(self.maps.of(method, [index], [target]), (height, width))[0]

    def explanation(self, method: str, index: int, target: int, point: Point) -> Tensor:
        """What the network was shown at a protocol point, (3,H,W)."""
        image = self.image(index)[None]
        select, top, fill = point
        chosen = protocol.Point(select, None if np.isnan(top) else top, fill)
        kept, _ = protocol.kept(chosen, protocol.Ranking(self.map(method, index, target)[None]))
        mean = torch.tensor(self.config.model.mean)[None, :, None, None]
        return protocol.perturb(image, kept, protocol.filling(image, fill, mean))[0]


def _configuration(run: Run) -> RunConfig:
    file = run.path / "run.yaml"
    try:
        return RunConfig.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as reason:
        raise UserError(f"{file} cannot be read, or is no configuration of a run ({type(reason).__name__})") from reason


def heat(values: Tensor, colours: str = COLOURS) -> Tensor:
    """A map (H,W) in colours (3,H,W), from its least value to its greatest; a constant map is all in the lowest colour."""
    low, high = values.min(), values.max()
    scaled = (values - low) / (high - low) if high > low else torch.zeros_like(values)
    return torch.from_numpy(colormaps[colours](scaled.numpy())[..., :3]).permute(2, 0, 1).float()


def overlay(image: Tensor, values: Tensor) -> Tensor:
    """A map (H,W) over the image (3,H,W) in grey, since its own colours would mix with the map's."""
    return (1 - OVERLAY) * image.mean(0, keepdim=True) + OVERLAY * heat(values)


def data_uri(image: Tensor, side: int) -> str:
    """An image (3,H,W) in [0,1] as WebP inside an address, its longer side at most `side` pixels."""
    picture = to_pil(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=70, method=4)
    return address(file.getvalue(), "image/webp")


def to_pil(image: Tensor) -> Image.Image:
    """(3,H,W) in [0,1] -> RGB."""
    return Image.fromarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
