"""Model and methods loaded for single photographs; shared by `explain`, the figures and the app."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from evalkit import protocol
from evalkit.config.schema import RunConfig
from evalkit.data.arrays import checked_range, read_array
from evalkit.data.decode import Picture, UnreadableImage, decode, extent, read_picture, with_channels
from evalkit.data.listing import is_array
from evalkit.errors import UserError, printable
from evalkit.evaluation.apply import Method, apply_method, load_methods
from evalkit.evaluation.at_layers import at_layers
from evalkit.evaluation.control_versions import load_controls, with_controls
from evalkit.evaluation.opening import open_device, open_model
from evalkit.evaluation.session import resolve
from evalkit.models import zoo
from evalkit.models.settings import ModelConfig
from evalkit.pixels import in_unit_range
from evalkit.probe import Probe
from evalkit.scores import confidence_and_logit
from evalkit.weights_origin import are_random


@dataclass(frozen=True)
class PhotoSession:
    """The loaded parts of a configuration that single photographs need; the same for all of them."""

    config: RunConfig
    model: zoo.LoadedModel
    methods: Mapping[str, Method]
    device: torch.device
    targets: list[int] | None
    """The classes to explain of every photograph; None for the predicted one."""

    def image(self, picture: Picture) -> Tensor:
        """Preprocess a picture; returns (1,channels,H,W) in [0,1]. Raises UserError for one without the network's channels."""
        try:
            pixels = self.model.preprocess(picture)[None]
        except UnreadableImage as reason:
            raise UserError(f"{self.config.model.name} cannot read this picture: {reason}") from reason
        return in_unit_range(pixels.to(self.device), self.model.net.dtype)

    def probe(self, picture: Picture, target: int | None = None) -> Probe:
        """Return a probe of one picture; target None is the predicted class. Raises UserError for a class that the model does not have."""
        return Probe(self.model.net, self.image(picture), None if target is None else [target])

    def probes(self, picture: Picture) -> list[Probe]:
        """Return one probe for each explained class."""
        return [self.probe(picture)] if self.targets is None else [self.probe(picture, target) for target in self.targets]

    def low_map(self, method: str, probe: Probe) -> Tensor:
        """Compute a method's raw map (1,h,w), float32. Raises UserError as `apply_method` does."""
        return apply_method(method, self.methods[method], probe)

    def map(self, method: str, probe: Probe) -> Tensor:
        """Compute a method's map at the image's size (1,H,W), from which pixels are ranked."""
        return protocol.upsample(self.low_map(method, probe), (probe.images.shape[2], probe.images.shape[3]))

    def class_name(self, probe: Probe) -> str:
        """Return the model's name of the explained class, printable."""
        return printable(self.model.classes.name(int(probe.targets[0])))

    def scores(self, probe: Probe, logits: Tensor | None = None, between: str = "\n", y: str = "") -> str:
        """Return confidence and score (logit) of the explained class in words, from the probe's logits or from others (1,C)."""
        confidence, logit = confidence_and_logit(probe.logits if logits is None else logits, probe.targets, self.config.model.output)
        score = f"score {y}{float(logit):.2f}"
        return score if confidence is None else f"confidence {in_full(float(confidence))}{between}{score}"

    @property
    def score_word(self) -> str:
        """What the explained number is called: with model.output=raw there are no classes."""
        return "score" if self.config.model.output == "raw" else "class score"

    @property
    def random_weights(self) -> bool:
        """Whether the weights are random: every picture has to state it."""
        return are_random(self.model.weights)


def open_photo_session(config: RunConfig, size: tuple[int, int] | None = None) -> PhotoSession:
    """Load model and methods. `size` (height, width) is that of a picture, for models that do not resize or crop.

    Raises UserError if the configuration cannot be loaded, or for target=label: photographs have no labels.
    """
    if config.target == "label":
        raise UserError("photographs have no labels: use target=predicted, or a class by index or name")
    configured, controls = load_methods(config.method), load_controls(config.control)
    device = open_device(config)
    model = open_model(config, device, size if taken_as_they_are(config.model) else None)
    methods = at_layers(configured, config.model.layers, model.nets, config.model.fuse)
    methods = with_controls(methods, controls, config.control_of)
    targets = resolve(config.target, model.classes)
    return PhotoSession(config, model, methods, device, targets if isinstance(targets, list) else None)


def taken_as_they_are(model: ModelConfig) -> bool:
    """Return whether the network receives photographs in their own size."""
    return model.resize is None and model.crop is None


def read_photographs(files: Sequence[Path], read: Callable[[Path], Picture] = decode) -> list[Picture]:
    """Decode files, by default to RGB. Raises UserError that names all files that cannot be read."""
    pictures, bad = list[Picture](), list[str]()
    for file in files:
        try:
            pictures.append(read(file))
        except UnreadableImage as reason:
            bad.append(f"{file}: {reason}")
    if bad:
        raise UserError(f"cannot read {'; '.join(bad)}")
    return pictures


def _read(config: RunConfig, file: Path) -> Picture:
    """Read a picture, or an array (.npy) as data=arrays does, with the network's channels. Raises UnreadableImage."""
    if not is_array(file.name):
        return with_channels(read_picture(file), config.model.channels)
    array = read_array(file, checked_range(config.data.get("value_range")), channels_last=bool(config.data.get("channels_last")))
    return with_channels(array, config.model.channels)


def photograph_size(config: RunConfig, file: Path) -> tuple[int, int]:
    """Return height and width of a photograph after preprocessing. Raises UserError where it cannot be read."""
    fixed = zoo.fixed_size(config.model)
    if fixed is not None:
        return fixed
    image = zoo.preprocessing(config.model)(read_photographs([file], partial(_read, config))[0])
    return image.shape[1], image.shape[2]


def open_photographs(config: RunConfig, files: Sequence[Path]) -> tuple[PhotoSession, list[Picture]]:
    """Read the photographs, then load the model, so that unreadable files are reported first. Raises UserError."""
    pictures = read_photographs(files, partial(_read, config))
    return open_photo_session(config, extent(pictures[0])), pictures


def in_full(confidence: float) -> str:
    """Format a confidence with three digits, or as "<0.001" or ">0.999" if it would only round to 0 or 1."""
    if 0 < confidence < 0.0005:
        return "<0.001"
    return ">0.999" if 0.9995 <= confidence < 1 else f"{confidence:.3f}"


def remark(heat: Tensor) -> str:
    """Return a remark for the title of a map (1,H,W) that is constant or not finite, otherwise an empty string."""
    if not bool(heat.isfinite().all()):
        return " (the map is not finite: it explains nothing)"
    return " (constant map)" if bool(heat.amax() == heat.amin()) else ""
