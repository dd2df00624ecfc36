"""The loop: load -> explain -> perturb -> score -> rows, shard by shard."""

import hashlib
import logging
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evalkit import protocol
from evalkit.config import Job, RunConfig
from evalkit.data.decode import UnreadableImage
from evalkit.data.labels import Classes
from evalkit.data.loader import Batch, batches
from evalkit.data.sources import ClassKey, Source, choose
from evalkit.errors import UserError
from evalkit.models import zoo
from evalkit.probe import Probe
from evalkit.records import ShardRecords
from evalkit.shards import mine, world
from evalkit.store import Identity, RunFolder

log = logging.getLogger(__name__)

Method = Callable[[Probe], Tensor]
Progress = Callable[[int], None]
"""Called with the number of images that were finished since the last call."""


@dataclass(frozen=True)
class Session:
    """Everything one worker needs, loaded and checked."""

    config: RunConfig
    model: zoo.LoadedModel
    source: Source
    positions: list[int]
    methods: Mapping[str, Method]
    points: list[protocol.Point]
    device: torch.device


def open_session(config: RunConfig) -> Session:
    """Load model, data and methods. Raises UserError for whatever does not fit."""
    device = pick_device(config.device)
    set_precision(config.precision)
    methods = load_methods(config.method)
    source = load_source(config.data)
    positions = choose(source, limit=config.limit, sample=config.sample, seed=config.seed)
    if not positions:
        raise UserError(f"data={config.data.get('name')} holds no images")
    as_they_are = config.model.resize is None and config.model.crop is None
    model = zoo.load(config.model, device, _first_size(source, positions) if as_they_are else None)
    if config.precision == "bf16":
        model.net.autocast = torch.bfloat16
    if isinstance(config.target, int) and config.target >= model.classes.outputs:
        raise UserError(f"target={config.target} is no output of {config.model.name}, which has {model.classes.outputs}")
    _check_labels(config, source, positions, model.classes)
    settings = config.protocol
    points = protocol.points(list(settings.select), settings.top_percent, list(settings.fill))
    return Session(config, model, source, positions, methods, points, device)


def run(job: Job, progress: Progress = lambda images: None, announce: Callable[[int, int], None] = lambda total, done: None) -> RunFolder:
    """Compute the missing shards of one run that are this worker's; returns its folder.

    `announce` is called once with the number of images in this worker's share and how many of them were done before.
    Raises UserError: bad configuration, or the folder belongs to another run.
    """
    config = job.config
    session = open_session(config)
    identity = identify(session)
    folder = RunFolder(config.out)
    folder.create_or_resume(identity, provenance(session), job.yaml, len(session.positions), config.shard_size)
    size = folder.provenance["shard_size"]
    missing = mine(folder.missing(), world())
    shards = {shard: session.positions[shard * size : (shard + 1) * size] for shard in missing}
    todo = sum(len(positions) for positions in shards.values())
    announce(len(session.positions), len(session.positions) - todo)
    if not shards:
        return folder
    started = time.perf_counter()
    records = ShardRecords(store_maps=config.maps == "store")
    pin = session.device.type == "cuda"
    for batch in batches(session.source, session.model.preprocess, shards, config.batch_size, config.workers, pin):
        evaluate(session, batch, records)
        progress(len(batch.keys))
        if batch.last:
            rows, maps = records.tables()
            described = {**shard_metadata(session), **records.metadata(), "seconds": time.perf_counter() - started}
            folder.write_shard(batch.shard, rows, maps, described)
            records, started = ShardRecords(store_maps=config.maps == "store"), time.perf_counter()
    return folder


def evaluate(session: Session, batch: Batch, records: "ShardRecords") -> None:
    """All methods and protocol points on one batch."""
    config, net = session.config, session.model.net
    labels = {position: session.model.classes.index(key) for position, key in batch.keys.items()}
    names = {position: session.source.image_id(position) for position in batch.keys}
    for position, reason in batch.errors.items():
        records.unreadable(position, names[position], labels[position], list(session.methods), session.points, reason)
    if batch.images is None:
        return
    images = batch.images.to(session.device, non_blocking=True).to(net.dtype) / 255
    probe, kept = _probe(session, images, batch.readable, labels)
    if probe is None:
        records.skipped += len(batch.readable)
        return
    records.skipped += len(batch.readable) - len(kept)
    records.begin(kept, [names[p] for p in kept], [labels[p] for p in kept], probe)
    fillers = {fill: protocol.filling(probe.images, fill, net.mean) for fill in {point.fill for point in session.points}}
    for name, method in session.methods.items():
        started = time.perf_counter()
        low = _map(name, method, probe)
        _synchronise(session.device)
        records.seconds[name] = records.seconds.get(name, 0.0) + time.perf_counter() - started
        maps = protocol.upsample(low, (images.shape[2], images.shape[3]))
        records.map(name, low, maps)
        ranking = protocol.Ranking.of(maps)
        for point in session.points:
            soft = point.top_percent is None
            mask = protocol.soft_mask(maps) if soft else ranking.top(float(point.top_percent or 0))
            mask = ~mask if point.select == "remove_top" else mask
            gap = torch.full_like(maps[:, 0, 0], torch.nan) if soft else ranking.gap(float(point.top_percent or 0))
            masked = net(protocol.perturb(probe.images, mask, fillers[point.fill]))
            records.score(name, point, mask, gap, masked)


def _probe(session: Session, images: Tensor, positions: list[int], labels: Mapping[int, int | None]) -> tuple[Probe | None, list[int]]:
    """The batch behind its probe; under images=correct without the images that the model gets wrong."""
    config, net = session.config, session.model.net
    probe = Probe(net, images, _targets(config, positions, labels, session), torch.tensor(positions))
    if config.images == "all":
        return probe, positions
    correct = [i for i, (p, guess) in enumerate(zip(positions, probe.logits.argmax(1).tolist(), strict=True)) if labels[p] == guess]
    if len(correct) == len(positions) or not correct:
        return (probe if correct else None), (positions if correct else [])
    kept = [positions[i] for i in correct]
    return Probe(net, images[correct], _targets(config, kept, labels, session), torch.tensor(kept)), kept


def _targets(config: RunConfig, positions: list[int], labels: Mapping[int, int | None], session: Session) -> Tensor | None:
    if config.target == "predicted":
        return None
    if isinstance(config.target, int):
        return torch.full((len(positions),), config.target)
    unknown = next((p for p in positions if labels[p] is None), None)
    if unknown is not None:
        raise UserError(
            f"target=label, but {session.source.image_id(unknown)} has no label among the model's classes (its key is {session.source.class_key(unknown)!r})"
        )
    return torch.tensor([labels[p] for p in positions])


def _map(name: str, method: Method, probe: Probe) -> Tensor:
    low = method(probe)
    if not isinstance(low, Tensor) or low.dim() != 3 or len(low) != len(probe.images):
        shape = tuple(low.shape) if isinstance(low, Tensor) else type(low).__name__
        raise UserError(f"method {name} must return maps ({len(probe.images)}, h, w), one per image; it returned {shape}")
    return low.detach().to(probe.images.device, torch.promote_types(low.dtype, torch.float32))


def _first_size(source: Source, positions: list[int]) -> tuple[int, int]:
    """Height and width of the first readable image."""
    for position in positions:
        try:
            width, height = source.load(position).size
        except UnreadableImage:
            continue
        return height, width
    raise UserError(f"none of the {len(positions)} images can be read")


def _check_labels(config: RunConfig, source: Source, positions: list[int], classes: Classes) -> None:
    """Refuse labels that fit no output while every image can still be saved."""
    if getattr(source, "streamed", False):
        return
    labels = [classes.index(source.class_key(position)) for position in positions]
    if all(label is None for label in labels):
        key: ClassKey = source.class_key(positions[0])
        note = f"none of the {len(positions)} images has a label among the classes of {config.model.name} (the first has {key!r})"
        if config.target == "label" or config.images == "correct":
            raise UserError(f"{note}; set model.classes=FILE and data.labels=FILE, or target=predicted")
        log.warning("%s: top-1 cannot be told", note)


def load_methods(chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, Method]:
    """Each method's function with its parameters. Raises UserError where a `_target_` cannot be found."""
    loaded = {}
    for name, settings in chosen.items():
        function = zoo.find(str(settings["_target_"]), f"method.{name}._target_")
        loaded[name] = partial(function, **{key: value for key, value in settings.items() if not key.startswith("_")})
    return loaded


def load_source(settings: Mapping[str, Any]) -> Source:
    """The data set of a conf/data entry."""
    factory = zoo.find(str(settings["_target_"]), "data._target_")
    source: Source = factory(**{key: value for key, value in settings.items() if key not in ("name", "_target_")})
    return source


def pick_device(name: str) -> torch.device:
    """auto: this worker's own GPU where there is one. Raises UserError for cuda without a GPU."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("device=cuda, but torch sees no GPU here; use device=auto or device=cpu")
    return torch.device("cuda", world().local_rank % torch.cuda.device_count())


def set_precision(precision: str) -> None:
    """float32 means float32: TF32 only where asked for."""
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def identify(session: Session) -> Identity:
    """What changes numbers."""
    config, model = session.config, session.model
    settings = config.model.model_dump(mode="json", exclude={"expected_top1", "expected_top1_source", "paper_table", "seed", "weights", "classes"})
    names = hashlib.sha256(repr(list(model.classes.keys or [])).encode()).hexdigest()[:16]
    facts = {
        "model": {**settings, "weights_hash": model.weights_hash, "classes_hash": names},
        "data": {"name": config.data.get("name"), "fingerprint": session.source.fingerprint},
        "method": config.method,
        "protocol": config.protocol.model_dump(mode="json"),
        **config.model_dump(mode="json", include={"target", "images", "sample", "limit", "precision"}),
        "seed": config.seed if config.sample is not None else None,
    }
    return Identity(facts)


def provenance(session: Session) -> dict[str, Any]:
    """What else a reader may ask of a number."""
    model, config = session.model, session.config
    return {
        "weights": model.weights,
        "expected_top1": config.model.expected_top1,
        "expected_top1_source": config.model.expected_top1_source,
        "paper_table": config.model.paper_table,
        "class_names": [model.classes.name(i) for i in range(model.classes.outputs)],
        "git_commit": _git_commit(),
        **shard_metadata(session),
        "versions": {name: metadata.version(name) for name in ("torch", "torchvision", "numpy", "pillow", "pyarrow", "hydra-core", "pandas")},
        "python": platform.python_version(),
        "hardware": {"machine": platform.machine(), "processor": _processor(), "threads": torch.get_num_threads()},
    }


def shard_metadata(session: Session) -> dict[str, Any]:
    """What each shard says of the code and the machine that made it."""
    device = torch.cuda.get_device_name(session.device) if session.device.type == "cuda" else "cpu"
    return {"code": code_version(), "torch": torch.__version__, "device": device, "batch_size": session.config.batch_size}


def code_version() -> str:
    """Hash over the modules that decide numbers: everything left of the rows."""
    root = Path(__file__).parent
    files = [root / name for name in ("ablation.py", "probe.py", "protocol.py", "records.py", "runner.py")]
    files += sorted(path for folder in ("data", "models", "methods") for path in (root / folder).glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _git_commit() -> str | None:
    """The checkout's commit; None for an installed package."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    shown = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return shown.stdout.strip() or None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        return f"{len(names)} x {names[0]}" if names else platform.processor()
    return platform.processor()


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
