"""Everything one worker needs, loaded and checked before the first image is explained."""

import inspect
import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evalkit import protocol
from evalkit.config import ModelConfig, RunConfig
from evalkit.data.decode import Preprocess, UnreadableImage
from evalkit.data.jpeg import DeviceDecoder, tried_decoder
from evalkit.data.labels import Classes
from evalkit.data.sources import Source, choose
from evalkit.errors import UserError, first_line
from evalkit.memory import keep_freed_memory
from evalkit.models import zoo
from evalkit.probe import Probe
from evalkit.shards import world
from evalkit.stored_maps import StoredMaps

log = logging.getLogger(__name__)

Method = Callable[[Probe], Tensor]


@dataclass(frozen=True)
class Session:
    """The loaded parts of one run."""

    config: RunConfig
    model: zoo.LoadedModel
    source: Source
    positions: list[int]
    methods: Mapping[str, Method]
    points: list[protocol.Point]
    device: torch.device
    targets: str | list[int]
    """"predicted", "label", or the classes that are explained of every image."""
    read: Preprocess | DeviceDecoder
    """How images are decoded."""
    size: tuple[int, int]
    """Height and width of every image after preprocessing; one that differs becomes an error row, whatever its batch."""
    stored: StoredMaps | None = None
    """Maps that need not be computed."""


def open_session(config: RunConfig) -> Session:
    """Load model, data and methods. Raises UserError for whatever does not fit."""
    device = pick_device(config.device)
    if config.decode == "gpu" and device.type != "cuda":
        raise UserError("decode=gpu needs a GPU, and this run computes on the CPU; use decode=pil")
    set_precision(config.precision)
    if device.type == "cpu":
        keep_freed_memory()
    methods = load_methods(config.method)
    source = load_source(config.data)
    if config.decode == "gpu" and not hasattr(source, "encoded"):
        raise UserError(f"data={config.data.get('name')} holds no encoded images that decode=gpu could decode; use decode=pil")
    positions = choose(source, limit=config.limit, sample=config.sample, seed=config.seed)
    if not positions:
        raise UserError(f"data={config.data.get('name')} holds no images")
    size = input_size(config.model, source, positions)
    model = zoo.load(config.model, device, size)
    if config.precision == "bf16":
        model.net.autocast = torch.bfloat16
    targets = resolve(config.target, model.classes)
    _check_labels(config, source, positions, model.classes)
    if config.data.get("boxes") and not any(source.boxes(position) for position in positions):
        log.warning("data.boxes=%s holds no box of any of the %d images: is it their names?", config.data["boxes"], len(positions))
    points = protocol.points(config.protocol)
    read = model.preprocess if config.decode == "pil" else tried_decoder(model.preprocess, device)
    return Session(config, model, source, positions, methods, points, device, targets, read, size)


def load_methods(chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, Method]:
    """Each method's function with its parameters. Raises UserError where a `_target_` cannot be found."""
    loaded: dict[str, Method] = {}
    for name, settings in chosen.items():
        function = zoo.find(str(settings["_target_"]), f"method.{name}._target_")
        parameters = {key: value for key, value in settings.items() if not key.startswith("_")}
        try:
            inspect.signature(function).bind(None, **parameters)
        except (TypeError, ValueError) as reason:
            raise UserError(f"method {name} cannot be called with a probe and {parameters}: {reason}") from reason
        loaded[name] = partial(function, **parameters)
    return loaded


def apply_method(name: str, method: Method, probe: Probe) -> Tensor:
    """A method's raw maps (N,h,w), checked. Raises UserError for another shape, or for writing into the probe."""
    function = method.func if isinstance(method, partial) else method
    ours = str(getattr(function, "__module__", "")).startswith("evalkit.")
    try:
        low = method(probe)
    except (UserError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as reason:  # whatever somebody's method raises, with the place where its author will look
        place = traceback.extract_tb(reason.__traceback__)[-1]
        raise UserError(
            f"method {name} failed with {type(reason).__name__}: {first_line(reason)} ({Path(place.filename).name}, line {place.lineno})"
        ) from reason
    written = probe.written(by_value=not ours)
    if written:
        raise UserError(f"method {name} writes into the probe's {written[0]}, which all methods share; let it work on a clone")
    fits = isinstance(low, Tensor) and low.dim() == 3 and len(low) == len(probe.images) and low.numel()
    if not fits or low.is_complex() or low.layout != torch.strided:
        found = f"{low.dtype} {tuple(low.shape)}" if isinstance(low, Tensor) else type(low).__name__
        found += f", {low.layout}" if isinstance(low, Tensor) and low.layout != torch.strided else ""
        found += ": wrap it in torch.from_numpy" if type(low).__module__ == "numpy" else ""
        raise UserError(f"method {name} must return maps ({len(probe.images)}, h, w), one per image; it returned {found}")
    return low.detach().to(probe.images.device, torch.float32)  # as they are stored and ranked


def load_source(settings: Mapping[str, Any]) -> Source:
    """The data set of a conf/data entry."""
    factory = zoo.find(str(settings["_target_"]), "data._target_")
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


def pick_device(name: str) -> torch.device:
    """auto: this worker's own GPU where there is one. Raises UserError for cuda without a GPU, and for one that is not there."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(f"device={name}, but torch sees no GPU here; use device=auto or device=cpu")
    chosen = name.partition(":")[2]
    if chosen:
        if int(chosen) >= torch.cuda.device_count():
            raise UserError(f"device={name}, but the GPUs here are cuda:0 to cuda:{torch.cuda.device_count() - 1}")
        return torch.device(name)
    return torch.device("cuda", world().local_rank % torch.cuda.device_count())


def set_precision(precision: str) -> None:
    """float32 means float32: TF32 only where asked for."""
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


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
