"""How much a device's memory holds at once: of a batch, then of one image's ablated variants."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from evalkit.ablation import tiers
from evalkit.errors import UserError

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass
class Fit:
    """Learns by running out of memory; since no number depends on the batch size, that costs a retry and nothing else."""

    images: int | None = None
    """The largest part that is still tried; None for whole batches."""

    def parts(self, total: int, work: Callable[[slice], T]) -> Iterator[T]:
        """`work` on consecutive slices of `total` images, halved wherever one does not fit; a single image, in smaller chunks.

        Raises UserError where not even a single image in the smallest chunks fits.
        """
        start = 0
        while start < total:
            here = slice(start, min(total, start + (self.images or total)))
            try:
                part = work(here)
            except torch.OutOfMemoryError as reason:
                size = here.stop - here.start
                if size > 1:
                    self.images = size // 2
                    log.warning("out of memory with %d images at once: going on with %d (see batch_size)", size, self.images)
                elif tiers.halve_budget():
                    log.warning("out of memory with one image: its ablated variants now take %d MiB at once", tiers.BYTE_BUDGET >> 20)
                else:
                    raise UserError(f"a single image does not fit the device's memory ({str(reason).split('. ')[0]})") from reason
            else:
                yield part
                start = here.stop
                continue
            torch.cuda.empty_cache()  # outside the handler, whose traceback still holds the tensors
