"""Who is at work on which shard. Hints, never locks: nothing waits for them, and one that is wrong costs time, not rows."""

import os
import platform
import random
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from evalkit.files import Place, create


class Claims:
    """The claims of one worker, each an empty-handed file in the run folder that only one worker can create.

    Workers need not know of each other: whoever runs the same command on any machine that reaches the folder takes what
    nobody has claimed. What others have claimed comes last, for they may be dead; it is dropped as soon as they finish it.
    No clock is read. Leaving the block withdraws the claims whose shards are not finished.
    """

    def __init__(self, folder: Place) -> None:
        self.folder = folder
        self._mine: set[int] = set()

    def __enter__(self) -> "Claims":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for shard in list(self._mine):
            self.release(shard)

    def take(self, missing: Sequence[int], is_done: Callable[[int], bool], *, start: float = 0.0) -> Iterator[int]:
        """Missing shards in the order in which this worker should compute them.

        `start` in [0,1) is where in their list it begins, so that workers of known rank do not meet. A shard that is done
        by the time its turn comes is left out.
        """
        first = int(start * len(missing))
        claimed = []
        for shard in [*missing[first:], *missing[:first]]:
            if is_done(shard):
                continue
            if self._claim(shard):
                yield shard
            else:
                claimed.append(shard)
        random.shuffle(claimed)  # idle workers spread over what is left
        for shard in claimed:
            if not is_done(shard):
                yield shard

    def release(self, shard: int) -> None:
        """The shard is finished, or given up."""
        self._file(shard).unlink(missing_ok=True)
        self._mine.discard(shard)  # afterwards: whoever is interrupted here must not forget the file

    def _claim(self, shard: int) -> bool:
        self._mine.add(shard)  # beforehand, for the same reason
        made = create(self._file(shard), f"process {os.getpid()} on {platform.node()}\n".encode())
        if not made:
            self._mine.discard(shard)
        return made

    def _file(self, shard: int) -> Place:
        return self.folder / f"shard-{shard:05d}"
