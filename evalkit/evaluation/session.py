"""Everything one worker needs, loaded and checked before the first image is explained."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from evalkit.config.schema import RunConfig
from evalkit.data.decode import Preprocess, UnreadableImage
from evalkit.data.jpeg import DeviceDecoder, tried_decoder
from evalkit.data.labels import Classes
from evalkit.data.sources import Source, choose
from evalkit.errors import UserError
from evalkit.evaluation.apply import Method, load_methods
from evalkit.evaluation.opening import open_device, open_model
from evalkit.imports import find
from evalkit.models import zoo
from evalkit.models.settings import ModelConfig
from evalkit.point import Point

log = logging.getLogger(__name__)


class MapSource(Protocol):
    """Maps that need not be computed; `evalkit.runs.stored_maps.StoredMaps` is one."""

    code: set[str]
    """Versions of this package that computed the maps."""

    def __contains__(self, method: str) -> bool: ...

    def of(self, method: str, positions: Sequence[int], targets: Sequence[int]) -> Tensor:
        """Return raw maps (N,h,w), float32, of images by their position in the data set and the explained class."""
        ...


@dataclass(frozen=True)
class Session:
    """The loaded parts of one run."""

    config: RunConfig
    model: zoo.LoadedModel
    source: Source
    positions: list[int]
    methods: Mapping[str, Method]
    points: list[Point]
    device: torch.device
    targets: str | list[int]
    """"predicted", "label", or the classes that are explained of every image."""
    read: Preprocess | DeviceDecoder
    """How images are decoded."""
    size: tuple[int, int]
    """Height and width of every image after preprocessing; one that differs becomes an error row, whatever its batch."""
    stored: MapSource | None = None


def open_session(config: RunConfig, local_rank: int = 0) -> Session:
    """Load model, data and methods; `local_rank` is this worker's number on its machine. Raises UserError for whatever does not fit."""
    device = open_device(config, local_rank)
    if config.decode == "gpu" and device.type != "cuda":
        raise UserError("decode=gpu needs a GPU, and this run computes on the CPU; use decode=pil")
    methods = load_methods(config.method)
    source = load_source(config.data)
    if config.decode == "gpu" and not hasattr(source, "encoded"):
        raise UserError(f"data={config.data.get('name')} holds no encoded images that decode=gpu could decode; use decode=pil")
    positions = choose(source, limit=config.limit, sample=config.sample, seed=config.seed)
    if not positions:
        raise UserError(f"data={config.data.get('name')} holds no images")
    size = input_size(config.model, source, positions)
    model = open_model(config, device, size)
    targets = resolve(config.target, model.classes)
    _check_labels(config, source, positions, model.classes)
    if config.data.get("boxes") and not any(source.boxes(position) for position in positions):
        log.warning("data.boxes=%s holds no box of any of the %d images: is it their names?", config.data["boxes"], len(positions))
    read = model.preprocess if config.decode == "pil" else tried_decoder(model.preprocess, device)
    return Session(config, model, source, positions, methods, config.protocol.all_points(), device, targets, read, size)


def load_source(settings: Mapping[str, Any]) -> Source:
    """The data set of a conf/data entry."""
    factory = find(str(settings["_target_"]), "data._target_")
    try:
        source: Source = factory(**{key: value for key, value in settings.items() if key not in ("name", "_target_")})
    except TypeError as reason:
        raise UserError(f"data={settings.get('name')} cannot be opened: {reason}") from reason
    return source


def resolve(target: str | int | Sequence[str | int], classes: Classes) -> str | list[int]:
    """`predicted`, `label`, or class indices and names -> indices. Raises UserError for a class that the model lacks."""
    if target in ("predicted", "label"):
        return str(target)
    given = [target] if isinstance(target, str | int) else target
    return list(dict.fromkeys(classes.output(one) for one in given))


def input_size(model: ModelConfig, source: Source, positions: list[int]) -> tuple[int, int]:
    """Height and width after preprocessing: the config's, or where that follows the image, the first readable one's."""
    fixed = zoo.fixed_size(model)
    if fixed is not None:
        return fixed
    preprocess = Preprocess(model.resize, model.crop, model.interpolation)
    for position in positions:
        try:
            image = preprocess(source.load(position))
        except UnreadableImage:
            continue
        return image.shape[1], image.shape[2]
    raise UserError(f"none of the {len(positions)} images can be read")


def _check_labels(config: RunConfig, source: Source, positions: list[int], classes: Classes) -> None:
    """Refuse labels that fit no output while every image can still be saved."""
    if getattr(source, "streamed", False):
        return
    keys = [source.class_keys(position) for position in positions]
    outputs = [[classes.outputs_of(key) for key in of_image] for of_image in keys]  # all of them: a label that is no output is refused
    if not any(map(any, outputs)):
        called = f"the first is called '{keys[0][0]}'" if keys[0] else "the first has none"
        note = f"none of the {len(positions)} images has a label among the classes of {config.model.name} ({called})"
        if config.target == "label" or config.images == "correct":
            raise UserError(f"{note}; name them alike (model.classes=FILE, one wnid or name a line), or use target=predicted")
        log.warning("%s: top-1 cannot be told", note)
    if config.target == "label":
        bare = [position for position, known in zip(positions, outputs, strict=True) if not any(known)]
        if bare and not classes.map:
            raise UserError(
                f"target=label, but {len(bare)} of {len(positions)} images have no label among the model's classes (the first is "
                f"{source.image_id(bare[0])}); name them alike, give model.class_map, or leave them out of data.labels"
            )
        _name_unknown({str(key) for pair in zip(keys, outputs, strict=True) for key, known in zip(*pair, strict=True) if not known})


def _name_unknown(labels: set[str]) -> None:
    """Labels without an output are not explained."""
    if labels:
        log.warning("no output of the model stands for %d labels, which are not explained: %s", len(labels), ", ".join(sorted(labels)[:5]))
