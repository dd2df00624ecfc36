"""Scores of the explained class: its confidence and its logit."""

import torch
from torch import Tensor


def confidence_and_logit(logits: Tensor, targets: Tensor, output: str = "softmax") -> tuple[Tensor, Tensor]:
    """Return the targets' confidences, by softmax or sigmoid, and logits, both float64 (n,), from logits (n,C) and targets (n,).

    The softmax is computed in float64: in float32 it is exactly 1 on most easy images, which alone moves increase
    and win by several points.
    """
    wide = logits.double()
    chosen = targets[:, None]
    confidence = (wide.sigmoid() if output == "sigmoid" else wide.softmax(1)).gather(1, chosen)[:, 0]
    return confidence, wide.gather(1, chosen)[:, 0]


def scored(logits: Tensor, targets: Tensor) -> Tensor:
    """Return whether each row of logits (n,C) defines its target's scores (n,), bool.

    The target's logit is finite, and no other is nan or +inf; -inf is allowed there: it excludes a class from a softmax.
    """
    return (logits < torch.inf).all(1) & logits.gather(1, targets[:, None])[:, 0].isfinite()
