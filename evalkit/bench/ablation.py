"""`evalkit bench ablation`: the time of Ablation-CAM relative to a forward pass and to pytorch-grad-cam."""

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

from evalkit.ablation.tiers import BYTE_BUDGET
from evalkit.bench import timing
from evalkit.errors import UserError
from evalkit.files import writable_file
from evalkit.methods import ablation_cam
from evalkit.models import graph
from evalkit.probe import Probe


def bench_ablation(
    model: str, overrides: list[str], *, batch_size: int, repeats: int, threads: int | None, peer: bool, json_file: Path | None
) -> dict[str, Any]:
    """Time exact Ablation-CAM, from images to maps, against one plain forward, and against pytorch-grad-cam's on one image.

    Weights are random unless `model.weights=FILE` is given. Returns flat keys; `ratio_forward` is ours / forward (batch
    of `batch_size`, median of interleaved repeats), `ratio_pytorch_grad_cam` is theirs / ours on the same single image.
    Raises UserError if pytorch-grad-cam is missing.
    """
    if peer and importlib.util.find_spec("pytorch_grad_cam") is None:
        raise UserError("pytorch-grad-cam is not installed: in evalkit's folder, pip install '.[peers]', or pass --no-peer")
    writable_file(json_file, "--json")
    bench = timing.bench_network(model, overrides, batch_size, threads)

    def ours() -> Tensor:
        return ablation_cam(Probe(bench.net, bench.images))

    times = timing.take_turns({"forward": bench.forward, "ours": ours}, repeats)
    ratios = [a / b for a, b in zip(times["ours"], times["forward"], strict=True)]
    figures = bench.facts() | {
        "tier": Probe(bench.net, bench.images[:1]).tier.number,
        "repeats": repeats,
        "forward_seconds": statistics.median(times["forward"]),
        "ablation_seconds": statistics.median(times["ours"]),
        "ratio_forward": statistics.median(times["ours"]) / statistics.median(times["forward"]),
        "ratio_forward_lowest": min(ratios),
        "ratio_forward_highest": max(ratios),
        "flop_ratio_forward": _flops(ours) / _flops(bench.forward),
        "byte_budget": BYTE_BUDGET,
    }
    if peer:
        figures |= _against_peer(bench, repeats)
    timing.write(figures, json_file)
    return figures


def _against_peer(bench: timing.BenchNetwork, repeats: int) -> dict[str, Any]:
    """Time both on one image; the peer once, at its default batch size, after a warm-up on a few channels."""
    from pytorch_grad_cam import AblationCAM  # noqa: PLC0415 - optional

    module, image, normalised = bench.module, bench.images[:1], bench.normalised[:1]
    layer = target_module(module, bench.net.layer)
    with AblationCAM(model=module, target_layers=[layer], ratio_channels_to_ablate=0.02) as warm:
        warm(input_tensor=normalised, targets=None)
    with AblationCAM(model=module, target_layers=[layer]) as cam:
        batch = cam.batch_size
        started = time.perf_counter()
        theirs = cam(input_tensor=normalised, targets=None)[0]
        peer_seconds = time.perf_counter() - started
    ours = timing.take_turns({"ours": lambda: ablation_cam(Probe(bench.net, image))}, repeats)["ours"]
    heat = torch.nn.functional.interpolate(ablation_cam(Probe(bench.net, image))[:, None], size=theirs.shape, mode="bilinear")[0, 0]
    return {
        "peer_batch_size": batch,
        "peer_seconds": peer_seconds,
        "peer_repeats": 1,
        "ablation_seconds_one_image": statistics.median(ours),
        "ratio_pytorch_grad_cam": peer_seconds / statistics.median(ours),
        "correlation_pytorch_grad_cam": _correlation(theirs.ravel(), heat.numpy().ravel()),
    }


def _correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return None if a map is constant, as all-zero maps of random weights are, since JSON has no NaN."""
    return float(np.corrcoef(first, second)[0, 1]) if np.ptp(first) > 0 and np.ptp(second) > 0 else None


def _flops(work: Callable[[], Tensor]) -> int:
    """Count the floating point operations of all matrix products and convolutions, a lower bound of the work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def target_module(module: nn.Module, layer: str) -> nn.Module:
    """Return the submodule that other libraries hook. Raises UserError if the layer is the output of a function."""
    if layer not in dict(module.named_modules()):
        modules = ", ".join(name for name in graph.trace(module).layers if "." not in name)
        raise UserError(f"pytorch-grad-cam needs a module as its layer, and '{layer}' is none (some are: {modules}); pass --no-peer")
    return module.get_submodule(layer)
