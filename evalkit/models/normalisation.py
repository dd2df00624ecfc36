"""The check of a normalisation: images are in [0,1] before it."""

from collections.abc import Sequence

from evalkit.errors import UserError


def check_normalisation(mean: Sequence[float], std: Sequence[float], prefix: str = "") -> None:
    """Raise UserError unless mean and std can be those of images in [0,1]; `prefix` precedes their names, as in `model.`."""
    for name, values in (("mean", mean), ("std", std)):
        given = f"{prefix}{name}={_listed(values)}"
        if all(value >= 0 for value in values) and any(value > 1 for value in values):
            scaled = _listed([round(value / 255, 4) for value in values])
            raise UserError(f"{given}: images are scaled to [0, 1] before normalisation; divide by 255: {prefix}{name}={scaled}")
        least = "above 0 and at most 1" if name == "std" else "from 0 to 1"
        if not all(0 <= value <= 1 and (name == "mean" or value > 0) for value in values):
            raise UserError(f"{given}: images are scaled to [0, 1] before normalisation; give values {least}")


def _listed(values: Sequence[float]) -> str:
    return f"[{','.join(f'{value:g}' for value in values)}]"
