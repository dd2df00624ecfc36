"""Common parts of the benchmarks: the network that is timed, the timing in turns, and the report."""

import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evalkit.config.compose import compose_jobs
from evalkit.evaluation.opening import open_device, open_model
from evalkit.models import zoo
from evalkit.models.settings import ModelConfig
from evalkit.models.split import SplitModel


@dataclass(frozen=True)
class BenchNetwork:
    """A network in eval mode, whole and cut at its layer, and random images (N,channels,H,W) of its size, in [0,1] and normalised."""

    config: ModelConfig
    weights: str
    module: nn.Module
    net: SplitModel
    images: Tensor
    normalised: Tensor

    def forward(self) -> Tensor:
        """Return the logits (N,C) of one plain pass of the uncut network over all images."""
        with torch.inference_mode():
            logits: Tensor = self.net.readout(self.module(self.normalised))
        return logits

    def facts(self) -> dict[str, Any]:
        """Return what the measurements depend on besides the code."""
        return {
            "model": self.config.name,
            "layer": self.net.layer,
            "weights": self.weights,
            "batch_size": len(self.images),
            **machine(self.images.device),
        }


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """Return what the measurements depend on besides code and model."""
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device is not None and device.type == "cuda" else {}
    return {**gpu, "threads": torch.get_num_threads(), "torch": torch.__version__, "processor": platform.processor() or platform.machine()}


def bench_network(model: str, overrides: list[str], batch_size: int, threads: int | None) -> BenchNetwork:
    """Open the model on the device of the overrides. Weights are random unless `model.weights=FILE` is given.

    Apart from dead units, the time does not depend on the weights.
    """
    if not any(o.startswith("model.weights=") for o in overrides):
        overrides = [*overrides, "model.weights=null"]
    if threads is not None:
        torch.set_num_threads(threads)
    config = compose_jobs([f"model={model}", *overrides])[0].config
    config.model.only_layer("this benchmark")
    device = open_device(config)
    loaded = open_model(config, device)
    net, size = loaded.net, zoo.input_size(config.model)
    images = torch.rand(batch_size, config.model.channels, *size, generator=torch.Generator().manual_seed(0)).to(device)
    return BenchNetwork(config.model, loaded.weights, loaded.module.eval(), net, images, (images - net.mean) / net.std)


def take_turns(contestants: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 2) -> dict[str, list[float]]:
    """Return the seconds of each contestant, called in turns, after `warm_up` rounds."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repeats + warm_up):
        for name, contestant in contestants.items():
            started = time.perf_counter()
            contestant()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            if turn >= warm_up:
                times[name].append(time.perf_counter() - started)
    return times


def write(figures: dict[str, Any], file: Path | None) -> None:
    """Write flat JSON, if a file is given."""
    if file is not None:
        file.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n")
