"""A model with its methods, ready for photographs: what `explain`, the figures and the app have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from evalkit import protocol
from evalkit.config.schema import RunConfig
from evalkit.data.decode import UnreadableImage, decode
from evalkit.errors import UserError, printable
from evalkit.evaluation.apply import Method, apply_method, load_methods
from evalkit.evaluation.opening import open_device, open_model
from evalkit.evaluation.session import resolve
from evalkit.models import zoo
from evalkit.models.settings import ModelConfig
from evalkit.probe import Probe
from evalkit.scores import confidence_and_logit


@dataclass(frozen=True)
class PhotoSession:
    """The loaded parts of a configuration that single photographs need. Nothing in it changes from one to the next."""

    config: RunConfig
    model: zoo.LoadedModel
    methods: Mapping[str, Method]
    device: torch.device
    targets: list[int] | None
    """The classes that are explained of every photograph; None for the predicted one."""

    def image(self, picture: Image.Image) -> Tensor:
        """An RGB picture as the network sees it: (1,3,H,W) in [0,1]."""
        return self.model.preprocess(picture)[None].to(self.device).to(self.model.net.dtype) / 255

    def probe(self, picture: Image.Image, target: int | None = None) -> Probe:
        """One picture in front of the model; None explains the predicted class. Raises UserError for a class that the model lacks."""
        return Probe(self.model.net, self.image(picture), None if target is None else [target])

    def probes(self, picture: Image.Image) -> list[Probe]:
        """One probe for each class that is explained."""
        return [self.probe(picture)] if self.targets is None else [self.probe(picture, target) for target in self.targets]

    def low_map(self, method: str, probe: Probe) -> Tensor:
        """A method's raw map (1,h,w), float32. Raises UserError as `apply_method` does."""
        return apply_method(method, self.methods[method], probe)

    def map(self, method: str, probe: Probe) -> Tensor:
        """A method's map at the image's size (1,H,W), as it is ranked."""
        return protocol.upsample(self.low_map(method, probe), (probe.images.shape[2], probe.images.shape[3]))

    def class_name(self, probe: Probe) -> str:
        """The explained class as the model calls it, printable."""
        return printable(self.model.classes.name(int(probe.targets[0])))

    def confidence(self, probe: Probe, logits: Tensor | None = None) -> tuple[float, float]:
        """Confidence and score (logit) of the explained class on the photograph, or on what got other logits (1,C)."""
        found = confidence_and_logit(probe.logits if logits is None else logits, probe.targets, self.config.model.output)
        return float(found[0][0]), float(found[1][0])

    @property
    def random_weights(self) -> bool:
        """Whether there is nothing to explain: every picture has to say so."""
        return self.model.weights.startswith("random")


def open_photo_session(config: RunConfig, size: tuple[int, int] | None = None) -> PhotoSession:
    """Load model and methods. `size` (height, width) is that of a picture, for models that take pictures as they are.

    Raises UserError for whatever does not fit, and for target=label, which a photograph has not.
    """
    if config.target == "label":
        raise UserError("photographs have no labels: use target=predicted, or a class by index or name")
    methods = load_methods(config.method)
    device = open_device(config)
    model = open_model(config, device, size if taken_as_they_are(config.model) else None)
    targets = resolve(config.target, model.classes)
    return PhotoSession(config, model, methods, device, targets if isinstance(targets, list) else None)


def taken_as_they_are(model: ModelConfig) -> bool:
    """Whether photographs reach the network in their own size."""
    return model.resize is None and model.crop is None


def read_photographs(files: Sequence[Path]) -> list[Image.Image]:
    """RGB pictures. Raises UserError for files that cannot be read, and names every one."""
    pictures, bad = [], []
    for file in files:
        try:
            pictures.append(decode(file))
        except UnreadableImage as reason:
            bad.append(f"{file}: {reason}")
    if bad:
        raise UserError(f"cannot read {'; '.join(bad)}")
    return pictures


def open_photographs(config: RunConfig, files: Sequence[Path]) -> tuple[PhotoSession, list[Image.Image]]:
    """Both, the photographs first: a file that cannot be read is told before anything is loaded. Raises UserError."""
    pictures = read_photographs(files)
    width, height = pictures[0].size
    return open_photo_session(config, (height, width)), pictures


def in_full(confidence: float) -> str:
    """Three digits; one that would round to 0 or 1, and is not, by the bound that it is beyond."""
    if 0 < confidence < 0.0005:
        return "<0.001"
    return ">0.999" if 0.9995 <= confidence < 1 else f"{confidence:.3f}"


def remark(heat: Tensor) -> str:
    """What a reader of a map (1,H,W) must know: that it is constant, or not finite; else nothing."""
    if not bool(heat.isfinite().all()):
        return " (the map is not finite: it explains nothing)"
    return " (constant map)" if bool(heat.amax() == heat.amin()) else ""
