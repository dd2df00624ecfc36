"""What a finished run looked at: its images decoded again, its stored maps over them, and both as pictures for a page."""

from functools import cached_property, lru_cache

import torch
import yaml
from pydantic import ValidationError
from torch import Tensor

from evalkit import protocol
from evalkit.analysis.load import Run
from evalkit.config.schema import RunConfig
from evalkit.data.decode import Preprocess
from evalkit.data.sources import Source
from evalkit.errors import UserError
from evalkit.evaluation.session import load_source
from evalkit.point import Point
from evalkit.runs.stored_maps import StoredMaps

OUR_SOURCES = "evalkit.data."
"""A run folder may be somebody else's: of the functions it names only our own readers of images are called."""


class RunImages:
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
        kept, _ = protocol.kept(point, protocol.Ranking(self.map(method, index, target)[None]))
        mean = torch.tensor(self.config.model.mean)[None, :, None, None]
        return protocol.perturb(image, kept, protocol.filling(image, point.fill, mean))[0]


def _configuration(run: Run) -> RunConfig:
    file = run.path / "run.yaml"
    try:
        return RunConfig.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as reason:
        raise UserError(f"{file} cannot be read, or is no configuration of a run ({type(reason).__name__})") from reason
