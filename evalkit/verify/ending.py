"""What the rows of a run with `until` say of its end, against its record."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from evalkit.sequence import confidence_sequence, settled
from evalkit.until import BOUND, Question, values
from evalkit.verify.record import RecordDifference

CLOSE = 1e-9
"""How far a difference and its bounds, in points, may lie from the record's."""


class Ending:
    """The values of the finished shards, from the first on."""

    def __init__(self, question: Question, seed: int) -> None:
        self.question, self.seed = question, seed
        self._before = self._values = np.zeros(0)

    def add(self, rows: pa.Table) -> None:
        """Add the next shard."""
        self._before = self._values
        self._values = np.concatenate([self._before, values(rows.to_pandas(), self.question, self.seed)])

    def differences(self, end: object) -> list[RecordDifference]:
        """Return what the record says of the end that the rows do not."""
        if not isinstance(end, Mapping):
            return [RecordDifference("record", "it does not say how the run ended, which until decides")]
        interval = confidence_sequence(self._values, BOUND)
        point = [self.question.point.select, self.question.point.top_percent, self.question.point.fill]
        ours: dict[str, Any] = {
            "settled": settled(self._values, BOUND), "n": interval.n,
            "difference": interval.mean, "low": interval.low, "high": interval.high,
            "first": self.question.first, "second": self.question.second, "metric": self.question.metric, "point": point,
        }  # fmt: skip
        found = [
            RecordDifference("record", f"end.{key} is {end.get(key)}, and its rows say {value}")
            for key, value in ours.items()
            if not _same(end.get(key), value)
        ]
        if settled(self._before, BOUND):
            found.append(RecordDifference("record", "its rows settle the difference in an earlier shard than its last"))
        return found


def _same(recorded: object, ours: object) -> bool:
    if isinstance(ours, float) and isinstance(recorded, int | float):
        return math.isclose(recorded, ours, abs_tol=CLOSE, rel_tol=CLOSE)
    return recorded == ours
