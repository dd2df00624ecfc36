"""Split batches, then the ablated variants of one image, until they fit the device's memory."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from evalkit.ablation import BYTE_BUDGET
from evalkit.errors import UserError

T = TypeVar("T")
log = logging.getLogger(__name__)

SMALLEST_BUDGET = 2**20


@dataclass
class BatchSplitter:
    """Split batches that do not fit the memory. It retries after running out of memory, since no number depends on the batch size."""

    images: int | None = None
    """Number of images tried at once; None for whole batches."""
    byte_budget: int = BYTE_BUDGET
    """Bytes that the ablated variants of one chunk may take (`Probe`)."""

    def parts(self, total: int, work: Callable[[slice], T]) -> Iterator[T]:
        """Apply `work` to consecutive slices of `total` images; a slice that does not fit is halved, a single image gets smaller chunks.

        Raises UserError where a single image in the smallest chunks does not fit.
        """
        start = 0
        while start < total:
            images = slice(start, min(total, start + (self.images or total)))
            try:
                part = work(images)
            except torch.OutOfMemoryError as reason:
                size = images.stop - images.start
                if size > 1:
                    self.images = size // 2
                    log.warning("out of memory with %d images at once: continuing with %d (see batch_size)", size, self.images)
                elif self.byte_budget > SMALLEST_BUDGET:
                    self.byte_budget //= 2
                    log.warning("out of memory with one image: its ablated variants now take %d MiB at once", self.byte_budget >> 20)
                else:
                    raise UserError(f"a single image does not fit the device's memory ({str(reason).split('. ')[0]})") from reason
            else:
                yield part
                start = images.stop
                continue
            torch.cuda.empty_cache()  # outside the handler, whose traceback still holds the tensors
