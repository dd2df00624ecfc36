"""The parts of a run that each worker loads and checks before it explains the first image."""

import logging
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from evalkit.config.calls import fitted
from evalkit.config.schema import RunConfig
from evalkit.data.decode import Misfit, Preprocess, UnreadableImage, stacked
from evalkit.data.jpeg import DeviceDecoder, tried_decoder
from evalkit.data.labels import Classes
from evalkit.data.sources import Source, choose
from evalkit.errors import UserError
from evalkit.evaluation.apply import Method, load_methods
from evalkit.evaluation.at_layers import at_layers
from evalkit.evaluation.cancellation import warn_of_cancellation
from evalkit.evaluation.control_versions import load_controls, with_controls
from evalkit.evaluation.inventory import check_labels
from evalkit.evaluation.lists import warn_of_lists
from evalkit.evaluation.opening import open_device, open_model
from evalkit.evaluation.randomised import RandomNetwork, random_networks
from evalkit.imports import arguments_refused, failure, find
from evalkit.models import zoo
from evalkit.models.outputs import check_on_images
from evalkit.models.settings import ModelConfig
from evalkit.pixels import in_unit_range
from evalkit.point import Point
from evalkit.until import shuffled

log = logging.getLogger(__name__)

_TRIED = 16
"""Images among which two readable ones are looked for, to check the network on them."""


class MapSource(Protocol):
    """A source of stored maps, such as `evalkit.runs.stored_maps.StoredMaps`."""

    code: set[str]
    """Versions of this package that computed the maps."""

    def __contains__(self, method: str) -> bool: ...

    def of(self, method: str, positions: Sequence[int], targets: Sequence[int]) -> Tensor:
        """Return the raw maps (N,h,w), float32, of images given by position in the data set and explained class."""
        ...


@dataclass(frozen=True)
class Session:
    """The loaded parts of one run."""

    config: RunConfig
    model: zoo.LoadedModel
    source: Source
    positions: list[int]
    methods: Mapping[str, Method]
    """Functions of the probe of `model.net`, by the names of their rows (see `at_layers` and `with_controls`)."""
    points: list[Point]
    device: torch.device
    targets: str | list[int]
    """"predicted", "label", or the classes that are explained for every image."""
    read: Preprocess | DeviceDecoder
    """The decoder of the images."""
    size: tuple[int, int]
    """Height and width of every image after preprocessing; an image of another size becomes an error row."""
    stored: MapSource | None = None
    random: Sequence[RandomNetwork] = ()
    """The networks of measures=[randomisation]."""


def open_session(config: RunConfig, local_rank: int = 0) -> Session:
    """Load model, data and methods; `local_rank` is this worker's number on its machine. Raises UserError where they do not fit."""
    device = open_device(config, local_rank)
    if config.decode == "gpu" and device.type != "cuda":
        raise UserError("decode=gpu needs a GPU, and this run computes on the CPU; use decode=pil")
    if config.decode == "gpu" and config.model.channels != 3:
        raise UserError(f"decode=gpu decodes to the 3 channels of RGB, and model.channels={config.model.channels}; use decode=pil")
    configured, controls = load_methods(config.method), load_controls(config.control)
    source, positions = _chosen(config)
    if config.decode == "gpu" and not hasattr(source, "encoded"):
        raise UserError(f"data={config.data.get('name')} holds no encoded images that decode=gpu could decode; use decode=pil")
    size = input_size(config.model, source, positions)
    model = open_model(config, device, size)
    _check_grid(config, size)
    images = _check_outputs(config, model, source, positions, size)
    methods = at_layers(configured, config.model.layers, model.nets, config.model.fuse)
    random = _random_networks(config, model, configured, images, size)
    if images is not None and local_rank == 0:
        warn_of_cancellation(methods, model.net, images)
    methods = with_controls(methods, controls, config.control_of)
    config.question(methods)
    targets = resolve(config.target, model.classes, tell=local_rank == 0)
    check_labels(config, source, positions, model.classes, tell=local_rank == 0)
    if local_rank == 0:
        warn_of_lists(source, positions, model.classes)
    read = model.preprocess if config.decode == "pil" else tried_decoder(model.preprocess, device)
    points = config.protocol.all_points()
    return Session(config, model, source, positions, methods, points, device, targets, read, size, random=random)


def load_source(settings: Mapping[str, Any]) -> Source:
    """Open the data set of a conf/data entry. Raises UserError where its settings do not fit."""
    factory = find(str(settings["_target_"]), "data._target_")
    parameters = {key: value for key, value in settings.items() if key not in ("name", "_target_")}
    try:
        with arguments_refused():
            source: Source = factory(**fitted(factory, parameters, "data"))
    except SystemExit as reason:
        raise UserError(f"data={settings.get('name')} cannot be opened: {failure(reason)}") from reason
    except TypeError as reason:
        raise UserError(f"data={settings.get('name')} cannot be opened: {reason}") from reason
    return source


def resolve(target: str | int | Sequence[str | int], classes: Classes, *, tell: bool = True) -> str | list[int]:
    """Return "predicted", "label", or the indices of classes given by index or name. Raises UserError for an unknown class.

    `tell` says in the log as which class a name was read that no class has as it is written.
    """
    if target in ("predicted", "label"):
        return str(target)
    chosen = [target] if isinstance(target, str | int) else target
    outputs = list(dict.fromkeys(classes.output(one) for one in chosen))
    for one in chosen if tell else ():
        names = classes.read_as(one)
        if names is not None:
            log.warning("target '%s' read as '%s'", one, names)
    return outputs


def data_size(config: RunConfig) -> tuple[int, int]:
    """Return height and width, after preprocessing, of the first readable image of a run. Raises UserError where there is none."""
    fixed = zoo.fixed_size(config.model)
    return fixed or input_size(config.model, *_chosen(config))


def _chosen(config: RunConfig) -> tuple[Source, list[int]]:
    """Return the data set, and the positions in it that are evaluated. Raises UserError where there are none."""
    source = load_source(config.data)
    positions = choose(source, limit=config.limit, sample=config.sample, seed=config.seed)
    if not positions:
        raise UserError(f"data={config.data.get('name')} holds no images")
    if config.until is not None and getattr(source, "streamed", False):
        raise UserError(
            "until takes the images in random order, and streamed data come in their own: use data.streaming=false, or no until"
        )
    return source, positions if config.until is None else shuffled(positions, config.seed, config.images_per_shard)


def input_size(model: ModelConfig, source: Source, positions: list[int]) -> tuple[int, int]:
    """Return height and width after preprocessing: the configured ones, or where they follow the image, those of the first readable one."""
    fixed = zoo.fixed_size(model)
    if fixed is not None:
        return fixed
    preprocess, reasons = zoo.preprocessing(model), list[str]()
    for position in positions:
        try:
            image = preprocess(source.load(position))
        except UnreadableImage as reason:
            reasons.append(f"{source.image_id(position)}: {reason}")
            continue
        return image.shape[1], image.shape[2]
    raise UserError(f"none of the {len(positions)} images can be read (the first is {reasons[0]})")


def _check_grid(config: RunConfig, size: tuple[int, int]) -> None:
    """Raise UserError where single deletion has more patches in a row or column than the image has pixels."""
    grid = config.single_deletion.grid
    if "single_deletion" in config.measures and grid > min(size):
        raise UserError(f"single_deletion.grid={grid} patches do not fit a side of {min(size)} pixels: choose at most {min(size)}")


def _random_networks(
    config: RunConfig, model: zoo.LoadedModel, methods: Mapping[str, Method], images: Tensor | None, size: tuple[int, int]
) -> list[RandomNetwork]:
    """Return the networks of measures=[randomisation]; none where it is not chosen. `images` (n,channels,H,W) are as read."""
    if "randomisation" not in config.measures:
        return []
    if images is None:
        images = torch.full((1, model.net.channels, *size), 0.5)
    return random_networks(config, model, methods, in_unit_range(images[:1].to(model.net.device), model.net.dtype))


def _check_outputs(config: RunConfig, model: zoo.LoadedModel, source: Source, positions: list[int], size: tuple[int, int]) -> Tensor | None:
    """Check the network on two readable images, in a streamed data set the first ones, else of different parts and so often of two classes.

    Returns these images (n,channels,H,W) as read; None if none can be. Raises UserError for outputs that cannot be scored
    (`check_on_images`), for images=correct where there is one output, and where the settings fit none of the images tried (`Misfit`).
    """
    if model.classes.outputs < 2:
        if config.images == "correct":
            raise UserError(f"{config.model.name} has one output, which is predicted for every image, so images=correct selects nothing")
        log.warning("%s has one output: it is the predicted class of every image, and top-1 is undefined", config.model.name)
    middle = [] if getattr(source, "streamed", False) else [positions[len(positions) // 2]]
    images, misfits = list[Tensor](), list[str]()
    reader = copy(source)  # since a stream that was begun cannot be sent to other processes
    for position in dict.fromkeys([positions[0], *middle, *positions[1:_TRIED]]):
        try:
            image = model.preprocess(reader.load(position))
            images += [image] if image.shape[1:] == size else []
        except UnreadableImage as reason:  # it becomes an error row
            misfits += [f"{source.image_id(position)}: {reason}"] if isinstance(reason, Misfit) else []
        if len(images) == 2:
            break
    if images:
        net = model.net
        batch = stacked(images)
        check_on_images(net, in_unit_range(batch.to(net.device), net.dtype))
        return batch
    if misfits:
        raise UserError(f"none of the images tried fits the settings: {misfits[0]}")
    return None
