"""The rows of claims.py: measured quantities with 95 % intervals over images, paired differences, and what the claim expects of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evalkit.analysis import significance, stats

Row = dict[str, Any]
COLUMNS = (
    "claim", "source", "network", "data", "measure", "images", "n", "value", "low", "high", "p", "expects", "verdict", "seeds", "how",
)  # fmt: skip

HOLDS, DOES_NOT_HOLD, CANNOT_BE_TOLD = "holds", "does not hold", "cannot be told"


@dataclass(frozen=True)
class Claim:
    """A sentence of a document, and what it is measured on.

    `source` is its authors, year and section, `seeds` those of random draws, `how` says in a sentence or two how the rows were measured.
    A row that tests the claim says what the claim `expects` of its value (see `verdict`); other rows describe.
    """

    claim: str
    source: str
    network: str
    data: str
    seeds: str = ""
    how: str = ""

    def level(self, measure: str, values: ArrayLike, images: NDArray[Any] | None = None, expects: str = "") -> Row:
        """Return the mean of values (n,) with its interval; nan is left out. `images` (n,) names the image of each value."""
        return self._of_values(measure, np.asarray(values, dtype=float), images, expects, against_zero=False)

    def difference(self, measure: str, first: ArrayLike, second: ArrayLike, images: NDArray[Any] | None = None, expects: str = "") -> Row:
        """Return the mean of first - second (n,), paired, with its interval and the p of no difference."""
        values = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
        return self._of_values(measure, values, images, expects, against_zero=True)

    def estimate(
        self,
        measure: str,
        value: float,
        low: float,
        high: float,
        *,
        images: int,
        n: int | None = None,
        p: float = float("nan"),
        expects: str = "",
    ) -> Row:
        """Return the row of a quantity whose interval was computed elsewhere; n is the number of images by default."""
        counted = {"images": images, "n": images if n is None else n}
        numbers = {"value": float(value), "low": float(low), "high": float(high), "p": float(p)}
        about = {"claim": self.claim, "source": self.source, "network": self.network, "data": self.data, "measure": measure}
        judged = {"expects": expects, "verdict": verdict(expects, numbers["low"], numbers["high"])}
        return {**about, **counted, **numbers, **judged, "seeds": self.seeds, "how": self.how}

    def _of_values(self, measure: str, values: NDArray[np.float64], images: NDArray[Any] | None, expects: str, against_zero: bool) -> Row:
        positions = np.arange(len(values)) if images is None else images
        defined = np.isfinite(values)
        interval = stats.bootstrap({measure: np.where(defined, values, np.nan)[None]}, positions)[measure]
        p = float(significance.sign_flip(np.where(defined, values, np.nan)[None], positions)[0]) if against_zero else float("nan")
        value, low, high = interval.value[0], interval.low[0], interval.high[0]
        counted = {"images": len(np.unique(positions[defined])), "n": int(defined.sum())}
        return self.estimate(measure, value, low, high, images=counted["images"], n=counted["n"], p=p, expects=expects)


def verdict(expects: str, low: float, high: float) -> str:
    """Return what the interval says about an expectation: "> a", "< a", or "within a" (of zero); "" of no expectation.

    It holds if the whole interval is where it is expected, does not hold if the whole interval is on the other side, and cannot be
    told otherwise, and where there is no interval.
    """
    if not expects:
        return ""
    kind, number = expects.split(" ")
    at = float(number)
    ways = {">": (low > at, high < at), "<": (high < at, low > at), "within": (-at < low and high < at, low > at or high < -at)}
    yes, no = ways[kind]
    return HOLDS if yes else DOES_NOT_HOLD if no else CANNOT_BE_TOLD


def together(verdicts: list[str]) -> str:
    """Return the verdict of several rows: it holds if all do, does not hold if one does not; "" if no row has one."""
    given = [one for one in verdicts if one]
    if not given:
        return ""
    if DOES_NOT_HOLD in given:
        return DOES_NOT_HOLD
    return HOLDS if set(given) == {HOLDS} else CANNOT_BE_TOLD
