"""Arrays of numpy (.npy) as images, for any number of channels and any range of values."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evalkit.data.decode import Misfit, UnreadableImage
from evalkit.data.listing import list_arrays
from evalkit.data.sources import FileList, Folder, hash_entries, open_folder
from evalkit.errors import UserError, first_line


def array_folder(
    root: Folder,
    labels: str | None = None,
    boxes: str | None = None,
    value_range: Sequence[float] | None = None,
    channels_last: bool = False,
) -> "Arrays":
    """Open .npy files in class folders, or listed in `labels`; root, labels and boxes as in `image_folder`.

    `value_range` (low, high) and `channels_last` as in `read_array`. Raises UserError as `image_folder` does, and for a range that is none.
    """
    arrays = open_folder(Arrays, list_arrays, root, labels, boxes)
    arrays.value_range, arrays.channels_last = checked_range(value_range), channels_last
    return arrays


class Arrays(FileList):
    """Arrays in .npy files below a root."""

    expected = ".npy"
    value_range: tuple[float, float] | None = None
    channels_last = False

    def load(self, position: int) -> Tensor:
        """Return the array (channels,h,w), uint8 or float32 in [0,1]. Raises UnreadableImage."""
        return read_array(self.file(position), self.value_range, channels_last=self.channels_last)

    @property
    def fingerprint(self) -> str:
        """Hash over paths, sizes, labels, boxes, and how the values are read."""
        return hash_entries([super().fingerprint, self.value_range, self.channels_last])


def checked_range(given: object) -> tuple[float, float] | None:
    """Return low and high. Raises UserError unless they are two finite numbers, the lower one first, or None."""
    if given is None:
        return None
    values = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else []
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
    if len(values) != 2 or len(numbers) != 2 or numbers[0] >= numbers[1]:
        shown = f"[{','.join(map(str, values))}]" if values else str(given)
        raise UserError(f"data.value_range={shown} must be two numbers, the lower one first, as in data.value_range=[-1000,400]")
    return numbers[0], numbers[1]


def read_array(encoded: bytes | Path, value_range: tuple[float, float] | None = None, *, channels_last: bool = False) -> Tensor:
    """Read a .npy file, or its bytes, as an image (channels,h,w): uint8, or float32 in [0,1].

    The array is (channels,height,width), with `channels_last` (height,width,channels), or (height,width), which is one channel. With a
    `value_range` (low, high), its values are mapped from there to [0,1], and those outside are clipped; without one, uint8 stays as it
    is, uint16 is divided by 65535, and floats must lie in [0,1]. Pickled objects are never loaded.

    Raises UnreadableImage: no such array, or another shape. Raises Misfit: values of which it is not known what is white.
    """
    try:
        array = _mapped(encoded)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, KeyError, MemoryError) as reason:
        text = (reason.strerror if isinstance(reason, OSError) else "") or first_line(reason)
        raise UnreadableImage(f"not an array of numpy (.npy) that can be read: {text}") from reason
    if array.ndim not in (2, 3) or array.size == 0:
        raise UnreadableImage(f"its array has the shape {array.shape}: (channels, height, width) or (height, width) is needed")
    array = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0) if channels_last else array
    if array.dtype.kind not in "uif":
        raise UnreadableImage(f"its array holds {array.dtype}: whole numbers or floats are needed")
    if array.dtype == np.uint8 and value_range is None:
        return torch.from_numpy(np.array(array, order="C"))
    return torch.from_numpy(np.ascontiguousarray(_scaled(array, value_range), dtype=np.float32))


def _mapped(encoded: bytes | Path) -> np.ndarray:
    if isinstance(encoded, Path):
        return np.lib.format.open_memmap(encoded, mode="r")
    return np.asarray(np.lib.format.read_array(io.BytesIO(encoded), allow_pickle=False))


def _scaled(array: np.ndarray, value_range: tuple[float, float] | None) -> np.ndarray:
    """Return float64 in [0,1]."""
    values = array.astype(np.float64)
    least, most = float(values.min()), float(values.max())
    if not (math.isfinite(least) and math.isfinite(most)):
        raise UnreadableImage("its array holds values that are not finite")
    if value_range is not None:
        low, high = value_range
        scaled: np.ndarray = ((values - low) / (high - low)).clip(0, 1)
        return scaled
    if (array.dtype.kind, array.dtype.itemsize) == ("u", 2):  # of either byte order
        return values / 65535
    if array.dtype.kind == "f" and least >= 0 and most <= 1:
        return values
    raise Misfit(
        f"its array holds {array.dtype} from {least:g} to {most:g}, of which no white level is known: set data.value_range=[low,high], "
        "which becomes [0,1]"
    )
