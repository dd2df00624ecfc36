"""Measure the time of a run by stage, without making the host wait for the device."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")

STAGES = ("decode", "network", "maps", "measures", "masks", "scoring", "writing")
"""decode: waiting for the loader; network: the first pass; scoring: the passes over perturbed images."""


class Stopwatch:
    """Seconds by stage, such as `masks` or `maps.grad_cam`. On a GPU they are times of its stream, read from events."""

    def __init__(self, device: torch.device | None = None) -> None:
        self._on_gpu = device is not None and device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self.total: dict[str, float] = {}
        """All seconds so far, by the part of a name before its dot."""
        self.since = time.perf_counter()
        """Moment of the last `take`, or of the start, in seconds of `time.perf_counter`."""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure the block, also where it raises."""
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

    def waiting(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Yield the items and measure the time until each is available."""
        iterator = iter(items)
        while True:
            started = time.perf_counter()
            item = next(iterator, None)
            self._add(name, time.perf_counter() - started)
            if item is None:
                return
            yield item

    def take(self) -> dict[str, float]:
        """Return the seconds since the last call."""
        for name, begin, end in self._events:
            end.synchronize()
            self._add(name, begin.elapsed_time(end) / 1000)
        self._events.clear()
        taken, self._seconds, self.since = self._seconds, {}, time.perf_counter()
        for name, seconds in taken.items():
            stage = name.partition(".")[0]
            self.total[stage] = self.total.get(stage, 0.0) + seconds
        return taken

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add the seconds that another stopwatch took."""
        for name, spent in seconds.items():
            self._add(name, spent)

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds
