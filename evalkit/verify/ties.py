"""What swaps of pixels near a tie make of a masked score: the range that rounding on another machine explains."""

import numpy as np
import torch

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
_NOTHING = ([np.inf] * 2, [-np.inf] * 2)
"""A range that holds no number."""


def swapped_range(session: Session, suspect: Suspect) -> tuple[list[float], list[float]]:
    """Return the lowest and the highest masked confidence (nan without one) and logit, widened on both sides by half their distance.

    The raw map is computed again, and each of its values that is not exactly 0 (as a ReLU leaves it) varied by up to `NEAR_TIE` of
    the largest one, `DRAWS` times; so only pixels that close to each other change places.
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
    noise = torch.from_numpy(np.random.default_rng(suspect.index).uniform(-1, 1, (DRAWS, *low.shape)).astype(np.float32)).to(low.device)
    noise[0] = 0
    varied = torch.where(low == 0, 0, low + NEAR_TIE * COARSER[session.config.precision] * low.abs().amax() * noise)
    point = next(each for each in session.points if point_in_words(each.select, each.top_percent, each.fill) == suspect.point)
    mask, _ = protocol.kept(point, protocol.Ranking(protocol.upsample(varied, session.size)))
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
