"""`evalkit bench spatial`: the time to ablate positions relative to the time to ablate channels."""

import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evalkit.bench import timing
from evalkit.files import writable_file
from evalkit.methods.local import windows
from evalkit.probe import Probe


def bench_spatial(
    model: str,
    overrides: list[str],
    *,
    window: int,
    stride: int,
    batch_size: int,
    repeats: int,
    sampled: int,
    threads: int | None,
    json_file: Path | None,
) -> dict[str, Any]:
    """Time the ablation of positions, as in FastAblationCAM, and of channels, as in Ablation-CAM.

    FastAblationCAM is expected to be faster if there are fewer positions than channels. All seconds are per image, medians
    of `repeats` interleaved turns. "naive" runs the whole network once for every channel or window, in batches of
    `batch_size` variants: `sampled` of them, evenly spaced, are timed and scaled to all. "exact" is `evalkit.ablation` on
    `batch_size` images, from the images; "alone" is only its drops, from given activations and logits. `ratio_*` is
    channels / windows; `largest_difference_*` is between the exact and the naive drops of the first image, relative to its
    largest drop. Weights are random unless `model.weights=FILE` is given.

    Returns flat keys. Raises UserError: window and stride do not fit the layer's maps.
    """
    writable_file(json_file, "--json")
    bench = timing.bench_network(model, overrides, batch_size, threads)
    net, images = bench.net, bench.images
    probe = Probe(net, images)
    channels, height, width = probe.activations.shape[1:]
    regions = windows(height, width, window, stride)
    ks, vs = _evenly(channels, sampled), _evenly(len(regions), sampled)
    one_channel, one_region = torch.eye(channels, dtype=torch.bool)[ks, :, None, None], regions[vs, None]

    times = timing.take_turns(
        {
            "forward": bench.forward,
            "naive_channel": lambda: _naive_drops(probe, one_channel),
            "naive_spatial": lambda: _naive_drops(probe, one_region),
            "exact_channel": lambda: Probe(net, images).drops,
            "exact_spatial": lambda: Probe(net, images).region_drops(regions),
            "alone_channel": lambda: _channel_drops(probe),
            "alone_spatial": lambda: probe.region_drops(regions),
        },
        repeats,
        warm_up=1,
    )
    share = {"naive_channel": len(ks) / channels, "naive_spatial": len(vs) / len(regions)}  # share of the work of one image
    seconds = {name: statistics.median(turns) / share.get(name, batch_size) for name, turns in times.items()}
    figures = bench.facts() | {
        "tier": probe.tier.number,
        "channels": channels,
        "positions": height * width,
        "window": window,
        "stride": stride,
        "windows": len(regions),
        "repeats": repeats,
        "naive_channels_timed": len(ks),
        "naive_windows_timed": len(vs),
        **{f"{name}_seconds": value for name, value in seconds.items()},
        "ratio_count": channels / len(regions),
        **{f"ratio_{kind}": seconds[f"{kind}_channel"] / seconds[f"{kind}_spatial"] for kind in ("naive", "exact", "alone")},
        "channel_over_forward": seconds["exact_channel"] / seconds["forward"],
        "spatial_over_forward": seconds["exact_spatial"] / seconds["forward"],
        "largest_difference_channel": _difference(probe.drops[0], ks, _naive_drops(probe, one_channel)),
        "largest_difference_spatial": _difference(probe.region_drops(regions)[0], vs, _naive_drops(probe, one_region)),
    }
    timing.write(figures, json_file)
    return figures


def _evenly(total: int, most: int) -> Tensor:
    """Return at most `most` different, evenly spaced indices below `total`."""
    return torch.arange(min(total, most)) * total // min(total, most)


def _naive_drops(probe: Probe, without: Tensor) -> Tensor:
    """Return the first image's drops (S,), one pass for each mask in `without`, (S,K,1,1) or (S,1,h,w), True where A is zeroed."""
    scores = []
    with torch.no_grad():
        for masks in without.split(len(probe.images)):
            activations, context = probe.net.trunk(probe.images[:1].expand(len(masks), -1, -1, -1))
            scores.append(probe.net.head(activations.masked_fill(masks, 0), context)[:, probe.targets[0]])
    return probe.scores[0] - torch.cat(scores)


def _channel_drops(probe: Probe) -> Tensor:
    """Compute `Probe.drops` without its cache."""
    with torch.no_grad():
        return probe.tier.drops(probe.activations, probe.context, probe.logits, probe.targets)


def _difference(exact: Tensor, at: Tensor, naive: Tensor) -> float:
    """Return the largest difference relative to the largest drop; 0 if all drops are 0, as in a network of zeros."""
    return float((exact[at] - naive).abs().max() / exact.abs().max().clamp_min(torch.finfo(exact.dtype).tiny))
