"""The galleries of a report, made in another process while its numbers are computed: they need torch, which takes seconds to import."""

import logging
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from types import TracebackType
from typing import Any

from evalkit.threads import cores

Made = list[tuple[dict[str, Any], list[str]]]
"""The data of each run's gallery, and sentences on what it does not show."""


class Galleries:
    """Galleries of the runs that paths name, in the order of `load_runs`; made here where torch is imported or one core is there."""

    def __init__(self, paths: Sequence[str], *, each: int, root: str | None, allow_incomplete: bool) -> None:
        self._arguments = (list(paths), each, root, allow_incomplete)
        self._pool = ProcessPoolExecutor(1, get_context("spawn")) if worth_a_process() else None
        self._made: Future[Made] | None = self._pool.submit(_made, *self._arguments) if self._pool is not None else None

    def __enter__(self) -> "Galleries":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=error is None, cancel_futures=True)

    def result(self) -> Made:
        """Return the galleries once they are there. Raises what making them raised."""
        return make(*self._arguments) if self._made is None else self._made.result()


def worth_a_process() -> bool:
    """Return whether another process makes galleries sooner than this one."""
    return cores() > 1 and "torch" not in sys.modules


def _made(paths: Sequence[str], each: int, root: str | None, allow_incomplete: bool) -> Made:
    logging.disable(logging.WARNING)  # the process that computes the numbers warns of the same shards
    return make(paths, each, root, allow_incomplete)


def make(paths: Sequence[str], each: int, root: str | None, allow_incomplete: bool) -> Made:
    """Load the runs that paths name, and make their galleries."""
    from evalkit.analysis.load import load_runs

    runs = load_runs(paths, allow_incomplete=allow_incomplete)
    from evalkit.photos.gallery import galleries

    return [(gallery.json(), gallery.notes) for gallery in galleries(runs, each, root)]
