"""Images and stored maps of a finished run, for pictures of them."""

from functools import cached_property, lru_cache

import torch
import yaml
from pydantic import ValidationError
from torch import Tensor

from evalkit import protocol
from evalkit.analysis.load import Run
from evalkit.config.schema import RunConfig
from evalkit.data.sources import Source
from evalkit.errors import UserError
from evalkit.evaluation.session import load_source
from evalkit.models import zoo
from evalkit.pixels import in_unit_range
from evalkit.point import Point
from evalkit.runs.stored_maps import StoredMaps

OUR_SOURCES = "evalkit.data."
"""Where evalkit's own data sources are. A run folder may come from others, so no other function that it names is called."""


class RunImages:
    """Preprocessed images of a run, with the maps stored of them.

    `root` replaces the run's data folder if the images have moved. Raises UserError if the images are missing or differ
    from those of the run.
    """

    def __init__(self, run: Run, root: str | None = None) -> None:
        self.run = run
        self.config = _configuration(run)
        settings = dict(self.config.data)
        reader = str(settings.get("_target_"))
        if not reader.startswith(OUR_SOURCES):
            raise UserError(f"the images of {run.path} were read by {reader}, which is not called again: it is not part of evalkit")
        if root is not None:
            settings["path" if "path" in settings else "root"] = root
        try:
            self.source: Source = load_source(settings)
        except UserError as reason:
            raise UserError(f"the images of {run.path} are not there ({reason}); name their folder with --data-root") from reason
        if self.source.fingerprint != run.provenance["identity"]["data"]["fingerprint"]:
            raise UserError(f"the images of {run.path} have changed since, or are not those of the run; name their folder with --data-root")
        self.preprocess = zoo.preprocessing(self.config.model)
        self.image = lru_cache(maxsize=1)(self._image)
        self.map = lru_cache(maxsize=1)(self._map)

    @cached_property
    def maps(self) -> StoredMaps:
        """Stored maps of the run. Raises UserError if it was made without maps=store."""
        return StoredMaps(self.run.folders)

    def _image(self, index: int) -> Tensor:
        """Load and preprocess the image at a position of the data set; returns (channels,H,W) in [0,1]. Raises UnreadableImage."""
        return in_unit_range(self.preprocess(self.source.load(index)), torch.float32)

    def _map(self, method: str, index: int, target: int) -> Tensor:
        """Return a method's map of an image and class at the image's size (H,W), from which pixels were ranked."""
        height, width = self.image(index).shape[1:]
        return protocol.upsample(self.maps.of(method, [index], [target]), (height, width))[0]

    def explanation(self, method: str, index: int, target: int, point: Point) -> Tensor:
        """Return the image (channels,H,W) as it was perturbed at a protocol point."""
        image = self.image(index)[None]
        kept, _ = protocol.kept(point, protocol.Ranking(self.map(method, index, target)[None]))
        mean, std = (torch.tensor(values)[None, :, None, None] for values in (self.config.model.mean, self.config.model.std))
        return protocol.perturb(image, kept, protocol.Fills(image, mean, std, [index])(point.fill, kept))[0]


def _configuration(run: Run) -> RunConfig:
    file = run.path / "run.yaml"
    try:
        return RunConfig.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as reason:
        raise UserError(f"{file} cannot be read, or is no configuration of a run ({type(reason).__name__})") from reason
