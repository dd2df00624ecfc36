"""Running times of Ablation-CAM, exact and by loops, of Grad-CAM and of the ablated input, side by side in one process."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from claim_rows import Claim, Row
from torch import Tensor

from evalkit.bench import timing
from evalkit.bench.ablation import target_module
from evalkit.methods import ablated_input_cam, ablation_cam, grad_cam
from evalkit.probe import Probe

NETWORKS = ("xception", "vgg16")
TURNS = 3
BATCH = 32
PASSES = 8
"""Channels for which the whole network is repeated; the time is scaled to all of them."""

FORWARD, GRAD, EXACT, HEAD, WHOLE, BLANK = (
    "plain forward pass",
    "Grad-CAM",
    "Ablation-CAM, exact without a loop",
    "Ablation-CAM, loop over the channels, head only",
    "Ablation-CAM, loop over the channels, whole network",
    "ablated-input weights",
)
HOW = (
    f"Processor seconds on one thread for the map of one random image, weights random, {TURNS} turns after a warm-up in one process: the "
    "median, and the lowest and highest in the place of an interval (n: turns); ratios are those within a turn. The loop over the head is "
    f"that of Pandit 2020, section 2 (batches of {BATCH}); the whole network is repeated for {PASSES} channels and the time scaled to all."
)
LONGER = Claim(
    "Ablation-CAM takes much longer than Grad-CAM, since every activation map needs a pass (Xception: 96 s against 26 s).",
    *("Pandit 2020, section 5", "", "random image"),
    seeds="0",
    how=HOW,
)
GREATER = Claim(
    "The computational time of a single Ablation-CAM is greater than that of Grad-CAM.",
    *("Desai and Ramaswamy 2020, section 7", "", "random image"),
    seeds="0",
    how=f"{HOW} Here Ablation-CAM is computed without a loop, which gives the same drops.",
)
CHEAPER = Claim(
    "Weights from an ablated input are less computationally expensive than Ablation-CAM.",
    *("Pandit 2020, section 6", "", "random image"),
    seeds="0",
    how=HOW,
)


def measure(_data: Path, _out: Path) -> list[Row]:
    """Return the rows of all networks; the weights are random, so no data is read."""
    rows = []
    for network in NETWORKS:
        bench = timing.bench_network(network, [], 1, None)
        rows += compared(network, times(bench))
    return rows


def times(bench: timing.BenchNetwork) -> dict[str, list[float]]:
    """Return the processor seconds of each turn, which do not depend on what else the machine computes."""
    channels = Probe(bench.net, bench.images).activations.shape[1]
    contestants: dict[str, Callable[[], object]] = {
        FORWARD: bench.forward,
        GRAD: lambda: grad_cam(Probe(bench.net, bench.images)),
        EXACT: lambda: ablation_cam(Probe(bench.net, bench.images)),
        BLANK: lambda: ablated_input_cam(Probe(bench.net, bench.images)),
        HEAD: lambda: weighted(Probe(bench.net, bench.images), head_drops(bench.net, bench.images)),
        WHOLE: lambda: whole_drops(bench, PASSES),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(TURNS + 1):
        for name, contestant in contestants.items():
            started = time.process_time()
            contestant()
            if turn:  # the first one is a warm-up
                seconds[name].append(time.process_time() - started)
    passes = min(PASSES, channels)
    return {**seconds, WHOLE: [some * channels / passes + one for some, one in zip(seconds[WHOLE], seconds[FORWARD], strict=True)]}


def weighted(probe: Probe, drops: Tensor) -> Tensor:
    """Return the map (1,h,w) of given drops (K,), which the loops compute (Ablation-CAM paper, eq. 3 and 4)."""
    return torch.einsum("k,nkhw->nhw", drops / probe.scores.abs(), probe.activations).relu()


def head_drops(net: torch.nn.Module, image: Tensor) -> Tensor:
    """Return y - y^k (K,) of one image by a loop over the channels, in batches: what is behind the layer is repeated for each."""
    probe = Probe(net, image)
    target, drops = int(probe.targets[0]), []
    with torch.no_grad():
        for channels in torch.arange(probe.activations.shape[1]).split(BATCH):
            ablated = probe.activations.repeat(len(channels), 1, 1, 1)
            ablated[torch.arange(len(channels)), channels] = 0
            drops.append(probe.scores - probe.net.head(ablated, probe.context)[:, target])
    return torch.cat(drops)


def whole_drops(bench: timing.BenchNetwork, passes: int) -> Tensor:
    """Return y - y^k (passes,) of the first channels: the whole network is repeated on copies of the image, as libraries do."""
    layer = target_module(bench.module, bench.net.layer)
    score = bench.forward()
    target = int(score.argmax(1))

    def ablate(_module: torch.nn.Module, _inputs: object, output: Tensor) -> Tensor:
        ablated = output.clone()
        ablated[torch.arange(len(output)), torch.arange(len(output))] = 0
        return ablated

    count = min(passes, Probe(bench.net, bench.images).activations.shape[1])
    hook = layer.register_forward_hook(ablate)
    try:
        with torch.no_grad():
            scores = bench.net.readout(bench.module(bench.normalised.repeat(count, 1, 1, 1)))[:, target]
    finally:
        hook.remove()
    return score[0, target] - scores


def compared(network: str, seconds: dict[str, list[float]]) -> list[Row]:
    """Return the rows of one network: seconds, and ratios within the turns."""
    longer, greater, cheaper = (replace(claim, network=network) for claim in (LONGER, GREATER, CHEAPER))
    rows = [_row(longer, f"{name}, seconds", seconds[name]) for name in (FORWARD, GRAD, HEAD, WHOLE)]
    rows += [_row(longer, f"{name} : Grad-CAM", _ratios(seconds[name], seconds[GRAD]), "> 1") for name in (HEAD, WHOLE)]
    rows += [
        _row(greater, f"{EXACT}, seconds", seconds[EXACT]),
        _row(greater, f"{EXACT} : Grad-CAM", _ratios(seconds[EXACT], seconds[GRAD]), "> 1"),
    ]
    rows += [
        _row(cheaper, f"{BLANK}, seconds", seconds[BLANK]),
        _row(cheaper, f"{BLANK} : Grad-CAM", _ratios(seconds[BLANK], seconds[GRAD])),
    ]
    return rows + [_row(cheaper, f"{BLANK} : {name}", _ratios(seconds[BLANK], seconds[name]), "< 1") for name in (HEAD, WHOLE, EXACT)]


def _ratios(first: list[float], second: list[float]) -> list[float]:
    return [float(ratio) for ratio in np.array(first) / np.array(second)]


def _row(claim: Claim, measure: str, turns: list[float], expects: str = "") -> Row:
    return claim.estimate(measure, median(turns), min(turns), max(turns), images=1, n=len(turns), expects=expects)
