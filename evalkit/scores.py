"""Scores of the explained class: its confidence and its logit."""

import torch
from torch import Tensor


def confidence_and_logit(logits: Tensor, targets: Tensor, output: str = "softmax") -> tuple[Tensor | None, Tensor]:
    """Return the targets' confidences and logits, both float64 (n,), from logits (n,C) and targets (n,).

    `output` is model.output: a confidence is the softmax, under "sigmoid" and "binary" the sigmoid of the target's logit alone (the
    scores -z and z of "binary" have confidences that sum to 1), and under "raw" there is None.

    The softmax is computed in float64: in float32 it is exactly 1 on most easy images, which alone moves increase
    and win by several points.
    """
    wide = logits.double()
    chosen = targets[:, None]
    logit = wide.gather(1, chosen)[:, 0]
    if output == "raw":
        return None, logit
    return wide.softmax(1).gather(1, chosen)[:, 0] if output == "softmax" else logit.sigmoid(), logit


def scored(logits: Tensor, targets: Tensor) -> Tensor:
    """Return whether each row of logits (n,C) defines its target's scores (n,), bool.

    The target's logit is finite, and no other is nan or +inf; -inf is allowed there: it excludes a class from a softmax.
    """
    return (logits < torch.inf).all(1) & logits.gather(1, targets[:, None])[:, 0].isfinite()
