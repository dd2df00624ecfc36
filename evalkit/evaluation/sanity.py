"""Sanity check of maps: the network's weights are randomised layer by layer, from the output to the input.

Cascading randomisation (Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018, section 3). A map that does not
change when the learned weights are replaced does not explain the network.
"""

import copy
import logging
from collections.abc import Iterator

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from evalkit.errors import UserError
from evalkit.protocol import Ranking

log = logging.getLogger(__name__)

TOP_PERCENT = 20.0


def cascade(module: nn.Module, example: Tensor, *, every: int = 1, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name of a layer, copy of the module in which that layer and all behind it are random), the output layer first.

    Args:
        module: a classifier, which stays unchanged. The copies are new, in the module's mode and on its device.
        example: normalised images as input; layers are ordered by when they run on them.
        every: layers per stage. The first stage is the output layer alone, the last one always the whole network.
        seed: determines a layer's new weights together with its place, independent of `every` and of the device.

    A layer is a submodule with parameters of its own, re-initialised by its own `reset_parameters`, which also resets
    BatchNorm's running statistics. Submodules without it, or that do not run by themselves, stay trained; a warning names
    them.

    Raises:
        UserError: there is no layer to randomise, or `every` is not positive.
    """
    if every < 1:
        raise UserError(f"every={every}: a stage randomises one layer or more")
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    random = copy.deepcopy(module).cpu()
    order = layers_from_output(random, example.cpu())
    if not order:
        raise UserError(f"{type(module).__name__} holds no layer that could be randomised: none has parameters and reset_parameters")
    parts = dict(random.named_modules())
    for place, name in enumerate(order):
        _reset(parts[name], [seed, place])
        if place % every == 0 or place + 1 == len(order):
            yield name, copy.deepcopy(random).to(device)


def layers_from_output(module: nn.Module, example: Tensor) -> list[str]:
    """Return the names of the layers that can be randomised; the last one to run on the example comes first."""
    probe = copy.deepcopy(module).eval()
    own = {name: part for name, part in probe.named_modules() if next(part.parameters(recurse=False), None) is not None}
    calls: list[str] = []
    for name, part in own.items():
        part.register_forward_hook(lambda *_, name=name: calls.append(name))
    with torch.no_grad():
        probe(example)
    order = [name for name in dict.fromkeys(reversed(calls)) if hasattr(own[name], "reset_parameters")]
    left = [name or type(module).__name__ for name in own if name not in order]
    if left:
        log.warning("stays trained, because it has no reset_parameters or does not run by itself: %s", ", ".join(left))
    return order


def _reset(layer: nn.Module, entropy: list[int]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        layer.reset_parameters()  # type: ignore[operator]


def similarity(maps: Tensor, others: Tensor) -> dict[str, np.ndarray]:
    """Return three similarities (N,) of maps (N,h,w) of the same images, by name.

    `spearman` and `pearson` correlate the pixels' ranks and values; `overlap` is the share of the top 20 % of the pixels
    that both maps have in common (0.2 by chance; ties by pixel index, as in `protocol`). Equal maps have 1, also constant
    ones; a constant map has no correlation with another one (nan), and where a map is not finite all three are nan.
    """
    first, second, finite = _flat(maps, others)
    same = (first == second).all(axis=1)
    tops = [Ranking(m.detach().cpu()).top(TOP_PERCENT).flatten(1).numpy() for m in (maps, others)]
    similarities = {
        "spearman": np.where(same, 1, _rank_correlation(first, second)),
        "pearson": np.where(same, 1, _correlation(first, second)),
        "overlap": (tops[0] & tops[1]).sum(axis=1) / tops[0].sum(axis=1),
    }
    return {name: np.where(finite, values, np.nan) for name, values in similarities.items()}


def spearman(maps: Tensor, others: Tensor) -> np.ndarray:
    """Return Spearman's correlation (N,) of maps (N,h,w) of the same images, as in `similarity`."""
    first, second, finite = _flat(maps, others)
    return np.where(finite, np.where((first == second).all(axis=1), 1, _rank_correlation(first, second)), np.nan)


def _flat(maps: Tensor, others: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return both maps in float64 (N,h*w), 0 where one of an image's maps is not finite, and where both are finite (N,)."""
    first, second = (m.detach().double().cpu().flatten(1).numpy() for m in (maps, others))
    finite = np.isfinite(first).all(axis=1) & np.isfinite(second).all(axis=1)
    first, second = (np.where(finite[:, None], m, 0) for m in (first, second))
    return first, second, finite


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return _correlation(rankdata(first, axis=1), rankdata(second, axis=1))


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation of each row; nan where a row is constant."""
    first, second = (_centred(rows) for rows in (first, second))
    with np.errstate(invalid="ignore"):
        return (first * second).sum(axis=1) / np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))


def _centred(rows: np.ndarray) -> np.ndarray:
    """Scale rows to range 1 and subtract their means: exactly zero where constant, and large enough to be squared."""
    low, span = rows.min(axis=1, keepdims=True), np.ptp(rows, axis=1, keepdims=True)
    scaled = (rows - low) / np.where(span > 0, span, 1)
    return scaled - scaled.mean(axis=1, keepdims=True)
