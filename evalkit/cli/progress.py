"""How far a run is: a bar for who watches, now and then a line for who reads a log."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

FIRST, MOST = 10.0, 300.0
"""Seconds to the first line, and between lines at most: each pause is twice as long as the last."""


class Meter(Protocol):
    """What shows how far a run is."""

    def announce(self, total: int, before: int) -> None:
        """All images of the run, and those that were done before."""

    def advance(self, images: int) -> None:
        """So many more are done."""


@contextmanager
def meter(name: str, console: Console) -> Iterator[Meter]:
    """A bar on a terminal, else lines."""
    if not console.is_terminal:
        yield Lines(name, console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _ImagesPerSecond(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        yield Bar(bar, name)


class Bar:
    """Images, images per second, time left."""

    def __init__(self, bar: Progress, name: str) -> None:
        self.bar, self.task = bar, bar.add_task(name, total=None)

    def announce(self, total: int, before: int) -> None:
        """See `Meter`."""
        self.bar.update(self.task, total=total, completed=before)

    def advance(self, images: int) -> None:
        """See `Meter`."""
        self.bar.advance(self.task, images)


class Lines:
    """The same in sentences, ever more rarely."""

    def __init__(self, name: str, console: Console) -> None:
        self.name, self.console = name, console
        self.total = self.before = self.done = 0
        self.started = self.told = time.monotonic()
        self.pause = FIRST

    def announce(self, total: int, before: int) -> None:
        """See `Meter`."""
        self.total, self.before = total, before
        self.started = self.told = time.monotonic()
        self._say(f"{total} images" + (f", {before} of them done before" if before else ""))

    def advance(self, images: int) -> None:
        """See `Meter`."""
        self.done += images
        now = time.monotonic()
        if now - self.told < self.pause:
            return
        self.told, self.pause = now, min(2 * self.pause, MOST)
        speed = self.done / (now - self.started)
        left = (self.total - self.before - self.done) / speed
        self._say(f"{self.before + self.done} of {self.total} images, {speed:.1f} images/s, {_time(max(left, 0))} left")

    def _say(self, what: str) -> None:
        self.console.print(escape(f"{self.name}: {what}"))


def _time(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


class _ImagesPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} images/s" if task.speed else "")
