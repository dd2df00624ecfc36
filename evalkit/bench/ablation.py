"""`evalkit bench ablation`: ratios of contestants that take turns in one process. It prints figures and judges nothing."""

import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from evalkit import SplitModel
from evalkit.ablation.tiers import BYTE_BUDGET
from evalkit.bench import timing
from evalkit.errors import UserError
from evalkit.files import writable_file
from evalkit.methods import ablation_cam
from evalkit.models import graph
from evalkit.models.settings import ModelConfig
from evalkit.probe import Probe


def bench_ablation(
    model: str, overrides: list[str], *, batch_size: int, repeats: int, threads: int | None, peer: bool, json_file: Path | None
) -> dict[str, Any]:
    """Exact Ablation-CAM from images to maps against one plain forward, and against pytorch-grad-cam's on one image.

    Weights are random unless `model.weights=FILE` is given. Returns flat keys; `ratio_forward` is ours / forward (batch
    of `batch_size`, median of interleaved repeats), `ratio_pytorch_grad_cam` is theirs / ours on the same single image.
    Raises UserError where the peer is missing.
    """
    if peer and importlib.util.find_spec("pytorch_grad_cam") is None:
        raise UserError("pytorch-grad-cam is not installed: in evalkit's folder, pip install '.[peers]', or pass --no-peer")
    writable_file(json_file, "--json")
    network = timing.bench_network(model, overrides, batch_size, threads)
    net, images = network.net, network.images

    def ours() -> Tensor:
        return ablation_cam(Probe(net, images))

    times = timing.take_turns({"forward": network.forward, "ours": ours}, repeats)
    ratios = [a / b for a, b in zip(times["ours"], times["forward"], strict=True)]
    figures = network.facts() | {
        "tier": Probe(net, images[:1]).tier.number,
        "repeats": repeats,
        "forward_seconds": statistics.median(times["forward"]),
        "ablation_seconds": statistics.median(times["ours"]),
        "ratio_forward": statistics.median(times["ours"]) / statistics.median(times["forward"]),
        "ratio_forward_lowest": min(ratios),
        "ratio_forward_highest": max(ratios),
        "flop_ratio_forward": _flops(ours) / _flops(network.forward),
        "byte_budget": BYTE_BUDGET,
    }
    if peer:
        figures |= _against_peer(network.config, network.module, net, images[:1], repeats)
    timing.write(figures, json_file)
    return figures


def _against_peer(config: ModelConfig, module: nn.Module, net: SplitModel, image: Tensor, repeats: int) -> dict[str, Any]:
    """One image; the peer once, at its default batch size, after a warm-up on a few channels."""
    from pytorch_grad_cam import AblationCAM  # noqa: PLC0415 - optional

    layer = target_module(module, config.layer)
    normalised = (image - net.mean) / net.std
    with AblationCAM(model=module, target_layers=[layer], ratio_channels_to_ablate=0.02) as warm:
        warm(input_tensor=normalised, targets=None)
    with AblationCAM(model=module, target_layers=[layer]) as cam:
        batch = cam.batch_size
        started = time.perf_counter()
        theirs = cam(input_tensor=normalised, targets=None)[0]
        peer_seconds = time.perf_counter() - started
    ours = timing.take_turns({"ours": lambda: ablation_cam(Probe(net, image))}, repeats)["ours"]
    heat = torch.nn.functional.interpolate(ablation_cam(Probe(net, image))[:, None], size=theirs.shape, mode="bilinear")[0, 0]
    return {
        "peer_batch_size": batch,
        "peer_seconds": peer_seconds,
        "peer_repeats": 1,
        "ablation_seconds_one_image": statistics.median(ours),
        "ratio_pytorch_grad_cam": peer_seconds / statistics.median(ours),
        "correlation_pytorch_grad_cam": _correlation(theirs.ravel(), heat.numpy().ravel()),
    }


def _correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """None where a map is constant, as an all-zero one of random weights is: JSON has no NaN."""
    return float(np.corrcoef(first, second)[0, 1]) if np.ptp(first) > 0 and np.ptp(second) > 0 else None


def _flops(work: Callable[[], Tensor]) -> int:
    """Floating point operations of all matrix products and convolutions: the arithmetic floor."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def target_module(module: nn.Module, layer: str) -> nn.Module:
    """The submodule that other libraries hook. Raises UserError where the layer is a function's output."""
    if layer not in dict(module.named_modules()):
        known = ", ".join(name for name in graph.trace(module).layers if "." not in name)
        raise UserError(f"pytorch-grad-cam needs a module as its layer, and '{layer}' is none (some are: {known}); pass --no-peer")
    return module.get_submodule(layer)
