"""Progress of a run: a bar on a terminal, and occasional lines in a log."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

FIRST, MOST = 10.0, 300.0
"""Seconds before the first line, and largest pause between lines; each pause is twice as long as the previous one."""


class Meter(Protocol):
    """A display of progress."""

    def announce(self, total: int, before: int) -> None:
        """Set the number of images of the run, and of those that were done before."""

    def advance(self, images: int) -> None:
        """Add a number of finished images."""


@contextmanager
def meter(name: str, console: Console) -> Iterator[Meter]:
    """Provide a bar on a terminal, else lines."""
    if not console.is_terminal:
        yield Lines(name, console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _ImagesPerSecond(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        yield Bar(bar, name)


class Bar:
    """A progress bar with the number of images, images per second and the time left."""

    def __init__(self, bar: Progress, name: str) -> None:
        self.bar, self.task = bar, bar.add_task(name, total=None)

    def announce(self, total: int, before: int) -> None:
        """See `Meter`."""
        self.bar.update(self.task, total=total, completed=before)
        if before:
            self.bar.console.print(escape(continues(total, before)))

    def advance(self, images: int) -> None:
        """See `Meter`."""
        self.bar.advance(self.task, images)


class Lines:
    """Printed lines with the same values, at growing intervals."""

    def __init__(self, name: str, console: Console) -> None:
        self.name, self.console = name, console
        self.total = self.before = self.done = 0
        self.started = self.printed = time.monotonic()
        self.pause = FIRST

    def announce(self, total: int, before: int) -> None:
        """See `Meter`."""
        self.total, self.before = total, before
        self.started = self.printed = time.monotonic()
        self._print(continues(total, before) if before else f"{total:,} images")

    def advance(self, images: int) -> None:
        """See `Meter`."""
        self.done += images
        now = time.monotonic()
        if now - self.printed < self.pause:
            return
        self.printed, self.pause = now, min(2 * self.pause, MOST)
        speed = self.done / (now - self.started)
        left = (self.total - self.before - self.done) / speed
        self._print(f"{self.before + self.done:,} of {self.total:,} images, {speed:.1f} images/s, {_time(max(left, 0))} left")

    def _print(self, text: str) -> None:
        self.console.print(escape(f"{self.name}: {text}"))


def continues(total: int, before: int) -> str:
    """Return how many images were done when a run was started again, as text."""
    return f"continues: {before:,} of {total:,} images were done before"


def _time(seconds: float) -> str:
    """Return a duration as text: `40 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


class _ImagesPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} images/s" if task.speed else "")
