"""Batches of decoded images, in order; unreadable images are listed separately."""

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from evalkit.data.decode import Preprocess, UnreadableImage, content, stacked
from evalkit.data.jpeg import DeviceDecoder
from evalkit.data.sources import ClassKey, Source
from evalkit.errors import UserError
from evalkit.imports import failure


@dataclass(frozen=True)
class Batch:
    """A part of one shard. `images` holds only the readable images (n,channels,H,W), at the positions `readable`.

    They are uint8, or float32 in [0,1] where one of them has more than 8 bits.
    """

    shard: int
    last: bool
    """Whether the shard ends with this batch."""
    keys: dict[int, tuple[ClassKey, ...]]
    """Class keys of every position, readable or not."""
    readable: list[int]
    images: Tensor | None
    errors: dict[int, str]
    """The reason for each position that could not be read."""


def batches(
    source: Source,
    read: Preprocess | DeviceDecoder,
    size: tuple[int, int],
    shards: Iterable[tuple[int, Sequence[int]]],
    batch_size: int,
    workers: int,
    pin: bool,
) -> Iterator[Batch]:
    """Yield the batches of all shards, in order. One loader serves all shards; no batch crosses the end of a shard.

    `shards` gives each shard with its positions. With a `Preprocess`, the workers decode; with a `DeviceDecoder`, they
    only read, and the images are on its device. A shard is taken from `shards` when its first image is due to be decoded,
    a few batches ahead. An image that is not of `size` (height, width) after preprocessing counts as unreadable, since
    which images are scored must not depend on the batches.
    """
    under_way: deque[tuple[int, bool, list[int]]] = deque()

    def planned() -> Iterator[list[int]]:
        for shard, positions in shards:
            for start in range(0, len(positions), batch_size):
                under_way.append((shard, start + batch_size >= len(positions), list(positions[start : start + batch_size])))
                yield under_way[-1][2]

    if getattr(source, "streamed", False):
        workers = 0  # each worker would stream the whole set
    image = partial(_decoded, source, read) if isinstance(read, Preprocess) else partial(_undecoded, source)
    loader = DataLoader(
        _Examples(source, image),
        batch_sampler=planned(),
        num_workers=workers,
        collate_fn=list,
        pin_memory=False,
        worker_init_fn=_end_in_silence,
    )
    for examples in _examples_of(loader):
        yield _collate(*under_way.popleft(), _tensors(examples, read), size, pin and isinstance(read, Preprocess))


def _examples_of(loader: "DataLoader[_Sent]") -> "Iterator[list[_Sent]]":
    """Iterate over batches. Raises UserError where a worker process died."""
    try:
        yield from loader
    except RuntimeError as reason:
        if "DataLoader worker" not in str(reason):
            raise
        raise UserError(
            "a process that decodes images died, as when memory runs out; use fewer workers, or workers=0, and run the same command again: "
            "what is finished is kept"
        ) from reason


def _end_in_silence(_worker: int) -> None:
    """Make a worker ignore Ctrl-C, and end without an error on SIGTERM or when its parent has ended.

    Ctrl-C and schedulers signal the whole process group: a worker that ended before its parent would look like an error
    of a method. A worker whose parent was killed might wait forever for its pipe to be emptied.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


_Image = Tensor | str | UserError
"""An image, or the reason why there is none."""

_Keys = tuple[ClassKey, ...]


_Sent = tuple[_Keys, np.ndarray | bytes | str | UserError]
"""The message of a worker. An array goes through its pipe; a tensor would need a file in /dev/shm, which is small in containers,
and a thread that prints errors when the run is stopped."""


class _Examples(Dataset[_Sent]):
    def __init__(self, source: Source, image: Callable[[int], np.ndarray | bytes]) -> None:
        self.source, self.image = source, image

    def __getitem__(self, position: int) -> _Sent:
        try:
            image: np.ndarray | bytes | str | UserError = self.image(position)
        except UnreadableImage as reason:
            image = str(reason)
        except UserError as reason:  # raised again in the main process, without a worker's traceback
            image = reason
        except SystemExit as reason:  # a user's data source may raise anything
            image = UserError(f"an image cannot be read: {failure(reason)}")
        return self.source.class_keys(position), image


def _decoded(source: Source, preprocess: Preprocess, position: int) -> np.ndarray:
    return preprocess(source.load(position)).numpy()


def _undecoded(source: Source, position: int) -> bytes:
    return content(source.encoded(position))  # type: ignore[attr-defined]  # the session checks that it exists


def _tensors(examples: list[_Sent], read: Preprocess | DeviceDecoder) -> list[tuple[_Keys, _Image]]:
    encoded = [image for _, image in examples if isinstance(image, bytes)]
    decoded = iter(read(encoded) if isinstance(read, DeviceDecoder) else ())

    def tensor(image: np.ndarray | bytes | str | UserError) -> _Image:
        if isinstance(image, np.ndarray):
            return torch.from_numpy(image)
        return next(decoded) if isinstance(image, bytes) else image

    return [(keys, tensor(image)) for keys, image in examples]


def _collate(shard: int, last: bool, positions: list[int], examples: list[tuple[_Keys, _Image]], size: tuple[int, int], pin: bool) -> Batch:
    keys: dict[int, tuple[ClassKey, ...]] = {}
    images: dict[int, Tensor] = {}
    errors: dict[int, str] = {}
    for position, (key, image) in zip(positions, examples, strict=True):
        keys[position] = key
        if isinstance(image, UserError):
            raise image
        if isinstance(image, str):
            errors[position] = image
        elif tuple(image.shape[1:]) != size:
            pixels = f"{image.shape[2]}x{image.shape[1]} pixels where the first image has {size[1]}x{size[0]}"
            errors[position] = f"{pixels}: set model.resize=[h,w] or model.crop"
        else:
            images[position] = image
    together = stacked(list(images.values())) if images else None
    return Batch(shard, last, keys, list(images), together.pin_memory() if pin and together is not None else together, errors)
