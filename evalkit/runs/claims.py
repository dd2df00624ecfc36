"""Claims: which worker computes which shard. They are hints, not locks: no worker waits for them, and a wrong one costs only time."""

import os
import platform
import random
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from evalkit.files import Place, create


class Claims:
    """The claims of one worker, each a file in the run folder that only one worker can create.

    Workers need no connection to each other: a process that runs the same command, on any machine that reaches the folder,
    takes unclaimed shards first. Shards that others have claimed come last, since those workers may have died; they are
    skipped once finished. No clock is read. Leaving the `with` block removes the claims on unfinished shards.
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
        """Claim missing shards, and yield them in the order in which this worker should compute them.

        `start` in [0,1) is the relative position in their list at which it begins, so that workers of known rank begin apart.
        A shard that is done before its turn is skipped.
        """
        first = int(start * len(missing))
        claimed_by_others = []
        for shard in [*missing[first:], *missing[:first]]:
            if is_done(shard):
                continue
            if self._claim(shard):
                yield shard
            else:
                claimed_by_others.append(shard)
        random.shuffle(claimed_by_others)  # so that idle workers choose different shards
        for shard in claimed_by_others:
            if not is_done(shard):
                yield shard

    def in_order(self, missing: Sequence[int], is_done: Callable[[int], bool], ahead: int) -> Iterator[int]:
        """Claim and yield missing shards as `take` does, but none further than `ahead` shards behind the first one that is missing.

        Where all of these are claimed, the first of them is computed again: its worker may have died, and others wait for it.
        """
        left, mine = list(missing), set[int]()
        while True:
            while left and (left[0] in mine or is_done(left[0])):
                left.pop(0)
            if not left:
                return
            near = [shard for shard in left[:ahead] if shard not in mine]
            chosen = next((shard for shard in near if not is_done(shard) and self._claim(shard)), near[0])
            mine.add(chosen)
            yield chosen

    def release(self, shard: int) -> None:
        """Remove the claim on a shard that is finished or given up."""
        self._file(shard).unlink(missing_ok=True)
        self._mine.discard(shard)  # after the file, so that an interrupt between the two lines loses no claim

    def _claim(self, shard: int) -> bool:
        self._mine.add(shard)  # before the file, for the same reason
        created = create(self._file(shard), f"process {os.getpid()} on {platform.node()}\n".encode())
        if not created:
            self._mine.discard(shard)
        return created

    def _file(self, shard: int) -> Place:
        return self.folder / f"shard-{shard:05d}"
