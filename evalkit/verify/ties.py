"""What swaps of pixels near a tie make of a masked score: the range that rounding on another machine explains."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from evalkit import protocol
from evalkit.data.loader import batches
from evalkit.evaluation.apply import apply_method
from evalkit.evaluation.session import Session
from evalkit.evaluation.targets import explained
from evalkit.scores import confidence_and_logit
from evalkit.verify.compare import Suspect, point_in_words
from evalkit.verify.tolerances import COARSER, NEAR_TIE

DRAWS = 32
"""Roundings that are tried."""
_LAST_PLACES = 2.0**-22
"""What the interpolation's rounding may be, as a share of the largest value."""
_SPREAD = 1e-4
"""The variance of interpolated ranks below which all of them are equal; of neighbours that differ by 1 it is some hundredths."""
_NOTHING = ([np.inf] * 2, [-np.inf] * 2)
"""A range that holds no number."""


def swapped_range(session: Session, suspect: Suspect) -> tuple[list[float], list[float]]:
    """Return the lowest and the highest masked confidence (nan without one) and logit, widened on both sides by half their distance.

    The raw map is computed again and varied `DRAWS` times (see `variations`), so that only pixels whose values are that close change
    places.
    """
    net, output = session.model.net, session.config.model.output
    images = [(0, [suspect.index])]
    batch = next(iter(batches(session.source, session.read, session.size, images, 1, 0, pin=False)))
    if batch.images is None:
        return _NOTHING
    probe, targets = explained(session, batch.images.to(session.device), batch.readable, batch.keys)
    outputs = [target.output for target in targets]
    if probe is None or suspect.target not in outputs:  # another class is explained where this image is alone
        return _NOTHING
    chosen = outputs.index(suspect.target)
    low = apply_method(suspect.method, session.methods[suspect.method], probe)[chosen]
    varied = variations(low, session.size, NEAR_TIE * COARSER[session.config.precision], np.random.default_rng(suspect.index))
    point = next(each for each in session.points if point_in_words(each.select, each.top_percent, each.fill) == suspect.point)
    mask, _ = protocol.kept(point, protocol.Ranking(varied))
    several = probe.images[chosen : chosen + 1].expand(DRAWS, -1, -1, -1)
    scores = []
    for part in range(0, DRAWS, session.config.batch_size):
        here = slice(part, part + session.config.batch_size)
        shown, kept = several[here], mask[here]
        fills = protocol.Fills(shown, net.mean, net.std, [suspect.index] * len(shown))
        logits = net(protocol.perturb(shown, kept, fills(point.fill, kept)))
        confidence, logit = confidence_and_logit(logits, torch.full((len(logits),), suspect.target, device=logits.device), output)
        scores.append(torch.stack([logit if confidence is None else confidence, logit]))
    found = torch.cat(scores, 1).cpu().numpy()
    least, most = found.min(1), found.max(1)
    return list(least - (most - least) / 2), list(most + (most - least) / 2)


def variations(low: Tensor, size: tuple[int, int], share: float, rng: np.random.Generator) -> Tensor:
    """Return `DRAWS` upsampled maps (DRAWS,H,W) that rounding may make of a map (h,w) of this `size` (H, W); the first is the map itself.

    Each distinct value but 0 (as a ReLU leaves it) is varied by up to `share` of the largest one. Exactly equal values stay equal, since
    no rounding of the map tells them apart: a constant map stays constant. Pixels interpolated between different values are varied by
    some units in the last place besides, as the interpolation rounds; so the twins of a symmetric map change places. Those of a plateau
    lie as the interpolation rounds the plateau's value.
    """
    values, at = low.flatten().unique(return_inverse=True)
    noise = _uniform(rng, (DRAWS, len(values)), low)
    moved = torch.where(values == 0, 0, values + share * low.abs().amax() * noise)
    large = protocol.upsample(moved[:, at].view(DRAWS, *low.shape), size)
    ranks = at.view(1, *low.shape).double()
    plateau = (protocol.upsample(ranks**2, size) - protocol.upsample(ranks, size) ** 2).abs() < _SPREAD
    return torch.where(plateau, large, large + _LAST_PLACES * low.abs().amax() * _uniform(rng, large.shape, low))


def _uniform(rng: np.random.Generator, shape: Sequence[int], like: Tensor) -> Tensor:
    """Return numbers of -1 to 1, in the first draw 0."""
    noise = torch.from_numpy(rng.uniform(-1, 1, tuple(shape)).astype(np.float32)).to(like.device)
    noise[0] = 0
    return noise
