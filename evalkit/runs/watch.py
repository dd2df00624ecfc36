"""The look at a run with `until`: whether the images finished so far settle the difference that it asks for."""

import numpy as np

from evalkit.runs.folder import RunFolder
from evalkit.sequence import LEVEL, confidence_sequence, settled
from evalkit.until import BOUND, Question, values


class Watch:
    """Looks at the finished shards of a run from the first on, without gaps, so that who computed them and when does not matter."""

    def __init__(self, folder: RunFolder, question: Question, seed: int) -> None:
        self.folder, self.question, self.seed = folder, question, seed
        self._values = np.zeros(0)
        self._next = 0
        self._over = False

    def over(self) -> bool:
        """Return whether the difference is settled, or all images are used; then the run's record says so.

        Each shard is read once. The first shard that settles the difference ends the run: later ones that are finished do not count.
        """
        shards = self.folder.shards
        while not self._over and self._next < len(shards):
            rows = self.folder.rows_of(self._next)
            if rows is None:
                return False
            self._next += 1
            self._values = np.concatenate([self._values, values(rows, self.question, self.seed)])
            if settled(self._values, BOUND):
                self._end(is_settled=True)
        if not self._over:
            self._end(is_settled=False)
        return True

    def _end(self, *, is_settled: bool) -> None:
        self._over = True
        interval = confidence_sequence(self._values, BOUND)
        self.folder.record_end(
            {
                "settled": is_settled,
                "shards": self._next,
                "n": interval.n,
                "difference": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "level": LEVEL,
                "first": self.question.first,
                "second": self.question.second,
                "metric": self.question.metric,
                "point": [self.question.point.select, self.question.point.top_percent, self.question.point.fill],
            }
        )
