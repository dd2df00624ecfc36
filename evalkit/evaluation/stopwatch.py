"""Where a run's time goes, measured without making the device wait."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")

STAGES = ("decode", "network", "maps", "measures", "masks", "scoring", "writing")
"""decode: waiting for the loader; network: the first pass; scoring: the passes over perturbed images."""


class Stopwatch:
    """Seconds by stage, such as `masks` or `maps.grad_cam`. On a GPU they are those of its stream, read from events."""

    def __init__(self, device: torch.device | None = None) -> None:
        self._on_gpu = device is not None and device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self.total: dict[str, float] = {}
        """Of everything so far, by the part of a name before its dot."""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Counts what happens in the block; a block that raises counts too."""
        if self._on_gpu:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            try:
                yield
            finally:
                end.record()
                self._events.append((name, begin, end))
            return
        started = time.perf_counter()
        try:
            yield
        finally:
            self._add(name, time.perf_counter() - started)

    def waiting(self, name: str, things: Iterable[T]) -> Iterator[T]:
        """The things, counting the time until each is there."""
        iterator = iter(things)
        while True:
            started = time.perf_counter()
            thing = next(iterator, None)
            self._add(name, time.perf_counter() - started)
            if thing is None:
                return
            yield thing

    def take(self) -> dict[str, float]:
        """Seconds since the last call."""
        for name, begin, end in self._events:
            end.synchronize()
            self._add(name, begin.elapsed_time(end) / 1000)
        self._events.clear()
        taken, self._seconds = self._seconds, {}
        for name, seconds in taken.items():
            stage = name.partition(".")[0]
            self.total[stage] = self.total.get(stage, 0.0) + seconds
        return taken

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds
