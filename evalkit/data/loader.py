"""Batches of decoded images, in order, with the unreadable ones set apart."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from evalkit.data.decode import Preprocess, UnreadableImage
from evalkit.data.sources import ClassKey, Source


@dataclass(frozen=True)
class Batch:
    """Part of one shard. `images` holds only the readable ones: uint8 (n,3,H,W), at positions `readable`."""

    shard: int
    last: bool
    """Whether the shard ends here."""
    keys: dict[int, tuple[ClassKey, ...]]
    """Class keys of every position, readable or not."""
    readable: list[int]
    images: Tensor | None
    errors: dict[int, str]
    """Position -> why it could not be read."""


def batches(
    source: Source,
    preprocess: Preprocess,
    size: tuple[int, int],
    shards: Mapping[int, Sequence[int]],
    batch_size: int,
    workers: int,
    pin: bool,
) -> Iterator[Batch]:
    """Positions of each shard -> its batches. One loader serves all shards, and no batch crosses a shard's end.

    An image that is not of `size` (height, width) after preprocessing counts as unreadable: which images are scored
    must not depend on how they are batched.
    """
    plan = [
        (shard, start + batch_size >= len(positions), list(positions[start : start + batch_size]))
        for shard, positions in shards.items()
        for start in range(0, len(positions), batch_size)
    ]
    if getattr(source, "streamed", False):
        workers = 0  # each worker would stream the whole set
    loader = DataLoader(
        _Decoded(source, preprocess),
        batch_sampler=[positions for _, _, positions in plan],
        num_workers=workers,
        collate_fn=list,
        pin_memory=False,
    )
    for (shard, last, positions), examples in zip(plan, loader, strict=True):
        yield _collate(shard, last, positions, examples, size, pin)


_Example = tuple[tuple[ClassKey, ...], Tensor | str]


class _Decoded(Dataset[_Example]):
    def __init__(self, source: Source, preprocess: Preprocess) -> None:
        self.source, self.preprocess = source, preprocess

    def __getitem__(self, position: int) -> _Example:
        try:
            image: Tensor | str = self.preprocess(self.source.load(position))
        except UnreadableImage as reason:
            image = str(reason)
        return self.source.class_keys(position), image


def _collate(shard: int, last: bool, positions: list[int], examples: list[_Example], size: tuple[int, int], pin: bool) -> Batch:
    keys: dict[int, tuple[ClassKey, ...]] = {}
    images: dict[int, Tensor] = {}
    errors: dict[int, str] = {}
    for position, (key, image) in zip(positions, examples, strict=True):
        keys[position] = key
        if isinstance(image, str):
            errors[position] = image
        elif tuple(image.shape[1:]) != size:
            found = f"{image.shape[2]}x{image.shape[1]} pixels where the first image has {size[1]}x{size[0]}"
            errors[position] = f"{found}: set model.resize=[h,w] or model.crop"
        else:
            images[position] = image
    stacked = torch.stack(list(images.values())) if images else None
    return Batch(shard, last, keys, list(images), stacked.pin_memory() if pin and stacked is not None else stacked, errors)
