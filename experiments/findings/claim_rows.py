"""The rows of claims.py: measured quantities with 95 % intervals over images, and paired differences."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evalkit.analysis import stats

Row = dict[str, Any]
COLUMNS = ("claim", "source", "network", "data", "measure", "images", "n", "value", "low", "high", "p", "seeds")


@dataclass(frozen=True)
class Claim:
    """A sentence of a document, and what it is measured on; `source` is its authors, year and section."""

    claim: str
    source: str
    network: str
    data: str
    seeds: str = ""

    def level(self, measure: str, values: ArrayLike, images: NDArray[Any] | None = None) -> Row:
        """Return the mean of values (n,) with its interval; nan is left out. `images` (n,) names the image of each value."""
        return self._row(measure, np.asarray(values, dtype=float), images, against_zero=False)

    def difference(self, measure: str, first: ArrayLike, second: ArrayLike, images: NDArray[Any] | None = None) -> Row:
        """Return the mean of first - second (n,), paired, with its interval and the p of no difference."""
        return self._row(measure, np.asarray(first, dtype=float) - np.asarray(second, dtype=float), images, against_zero=True)

    def _row(self, measure: str, values: NDArray[np.float64], images: NDArray[Any] | None, against_zero: bool) -> Row:
        positions = np.arange(len(values)) if images is None else images
        defined = np.isfinite(values)
        interval = stats.bootstrap({measure: np.where(defined, values, np.nan)[None]}, positions)[measure]
        p = float(stats.p_of_difference(interval.resampled)[0]) if against_zero else float("nan")
        counted = {"images": len(np.unique(positions[defined])), "n": int(defined.sum())}
        numbers = {"value": interval.value[0], "low": interval.low[0], "high": interval.high[0], "p": p}
        where = {"claim": self.claim, "source": self.source, "network": self.network, "data": self.data}
        return {**where, "measure": measure, **counted, **numbers, "seeds": self.seeds}
