"""What a network says of the explained class: its confidence and its logit."""

from torch import Tensor


def confidence_and_logit(logits: Tensor, targets: Tensor, output: str = "softmax") -> tuple[Tensor, Tensor]:
    """Logits (n,C), targets (n,) -> the target's confidence, by softmax or sigmoid, and its logit, both float64 (n,).

    The softmax is computed in float64: in float32 it is exactly 1 on most easy images, which alone moves increase
    and win by several points.
    """
    wide = logits.double()
    chosen = targets[:, None]
    confidence = (wide.sigmoid() if output == "sigmoid" else wide.softmax(1)).gather(1, chosen)[:, 0]
    return confidence, wide.gather(1, chosen)[:, 0]
