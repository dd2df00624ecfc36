"""The checks of a normalisation: images are in [0,1] before it, and it has a number for each of their channels."""

from collections.abc import Sequence

from evalkit.errors import UserError

_COUNTS = {1: "one number", 2: "two numbers", 3: "three numbers", 4: "four numbers"}


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


def check_channels(channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise UserError unless mean and std have a number for each channel."""
    wrong = [name for name, values in (("mean", mean), ("std", std)) if len(values) != channels]
    if wrong:
        count = len({"mean": mean, "std": std}[wrong[0]])
        keys = " and ".join(f"model.{name}" for name in wrong)
        raise UserError(
            f"model.channels={channels} needs {_COUNTS.get(channels, f'{channels} numbers')} in {keys}, not {count}: set those of the "
            f"network's training, as in {example_normalisation(channels, wrong)}"
        )


def example_normalisation(channels: int, names: Sequence[str] = ("mean", "std")) -> str:
    """Return overrides that normalise images of any number of channels to [-1,1]."""
    return " ".join(f"model.{name}={_listed([0.5] * channels)}" for name in names)


def _listed(values: Sequence[float]) -> str:
    return f"[{','.join(f'{value:g}' for value in values)}]"
