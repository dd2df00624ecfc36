"""`evalkit bench floor`: the time of a whole evaluation relative to the forward passes that it needs."""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evalkit.bench import timing
from evalkit.config.compose import compose_jobs
from evalkit.data.decode import UnreadableImage, stacked
from evalkit.errors import UserError
from evalkit.evaluation.loop import compute
from evalkit.evaluation.pace import Pace
from evalkit.evaluation.session import Session, data_size, open_session
from evalkit.evaluation.stopwatch import STAGES
from evalkit.files import writable_file
from evalkit.pixels import in_unit_range
from evalkit.runs.folder import RunFolder
from evalkit.runs.provenance import identify, shard_metadata

IMAGENET_VAL = 50_000


def bench_floor(
    model: str,
    images: Path,
    overrides: list[str],
    *,
    batch_size: int,
    limit: int | None,
    repeats: int,
    threads: int | None,
    workers: int,
    json_file: Path | None,
) -> dict[str, Any]:
    """Time an evaluation, from decoding to writing, against the floor: 1 + M*P plain passes over the same images.

    M methods and P protocol points, by default Grad-CAM and Ablation-CAM at the top 20 %. The floor's images are already
    decoded in memory. `ratio_to_floor` is evaluation / floor (medians); `ratio_to_floor_same_layout` takes the floor with
    the images in the memory layout that evalkit chooses for the network, which is often faster than the usual one.
    `share_*` is the share of each stage in the evaluation's time. Weights are random unless `model.weights=FILE` is given.
    Loading the model is not timed.
    """
    writable_file(json_file, "--json")
    if threads is not None:
        torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as scratch:
        session = _session(model, images, overrides, Path(scratch), batch_size, limit, workers)
        number, pace = itertools.count(), Pace(batch_size)

        def evaluate() -> None:
            folder = RunFolder(Path(scratch) / str(next(number)))
            folder.create_or_resume(identify(session), {}, "", len(session.positions), session.config.images_per_shard)
            spent.append(compute(session, folder, folder.missing(), shard_metadata(session), pace=pace).total)

        spent: list[dict[str, float]] = []
        decoded, decode_seconds = _decoded(session)
        passes = 1 + len(session.methods) * len(session.points)
        usual, channels_last = (_floor(session, decoded, passes, layout) for layout in (torch.contiguous_format, torch.channels_last))
        times = timing.take_turns({"evaluation": evaluate, "floor": usual, "floor_same_layout": channels_last}, repeats, warm_up=1)
    median = {name: statistics.median(seconds) for name, seconds in times.items()}
    count = len(session.positions)
    stages = {stage: statistics.median(run.get(stage, 0.0) for run in spent[-repeats:]) for stage in STAGES}
    ratios = [ours / floor for ours, floor in zip(times["evaluation"], times["floor"], strict=True)]
    layout = session.model.net.layout
    same = median["floor_same_layout" if layout == torch.channels_last else "floor"]
    rate = count / median["evaluation"]
    figures = {
        "model": session.config.model.name,
        "weights": session.model.weights,
        "methods": ",".join(session.methods),
        "points": len(session.points),
        "passes": passes,
        "images": count,
        "batch_size": batch_size,
        "repeats": repeats,
        "device": session.device.type,
        **timing.machine(session.device),
        "decode_workers": workers,
        "ratio_to_floor": median["evaluation"] / median["floor"],
        "ratio_to_floor_lowest": min(ratios),
        "ratio_to_floor_highest": max(ratios),
        "ratio_to_floor_same_layout": median["evaluation"] / same,
        "layout": str(layout).removeprefix("torch."),
        "evaluation_seconds": median["evaluation"],
        "floor_seconds": median["floor"],
        **{f"share_{stage}": seconds / median["evaluation"] for stage, seconds in stages.items()},
        "share_other": 1 - sum(stages.values()) / median["evaluation"],
        "images_per_second": rate,
        "hours_for_50000_images": IMAGENET_VAL / rate / 3600,
        "decode_seconds_per_image": decode_seconds / count,
        "decode_cores_needed": rate * decode_seconds / count,
        "limited_by": max(stages, key=lambda stage: stages[stage]),
    }
    timing.write(figures, json_file)
    return figures


def _session(model: str, images: Path, overrides: list[str], out: Path, batch_size: int, limit: int | None, workers: int) -> Session:
    defaults = {"model.weights": "null", "method": "[grad_cam,ablation_cam]", "protocol.top_percent": "20"}
    chosen = [f"{key}={value}" for key, value in defaults.items() if not any(o.startswith(f"{key}=") for o in overrides)]
    fixed = [f"model={model}", "data=image_folder", f"data.root={images}", f"batch_size={batch_size}", f"workers={workers}", f"out={out}"]
    job = compose_jobs([*fixed, *chosen, *([f"limit={limit}"] if limit is not None else []), *overrides], size=data_size)[0]
    return open_session(job.config)


def _decoded(session: Session) -> tuple[list[Tensor], float]:
    """Return all images as batches (n,channels,H,W) on the device, and the seconds to decode and preprocess them on one core."""
    started = time.perf_counter()
    images = []
    for position in session.positions:
        try:
            images.append(session.model.preprocess(session.source.load(position)))
        except UnreadableImage as reason:
            raise UserError(f"bench floor needs all images, and cannot read {session.source.image_id(position)}: {reason}") from reason
    seconds = time.perf_counter() - started
    return [batch.to(session.device) for batch in stacked(images).split(session.config.batch_size)], seconds


def _floor(session: Session, batches: list[Tensor], passes: int, layout: torch.memory_format) -> Callable[[], None]:
    """Return a plain loop: normalise each batch, then pass it `passes` times through the uncut network."""
    net = session.model.net

    def loop() -> None:
        with torch.inference_mode():
            for batch in batches:
                normalised = ((in_unit_range(batch, net.dtype) - net.mean) / net.std).contiguous(memory_format=layout)
                for _ in range(passes):
                    net.module(normalised)

    return loop
