"""One run under all its judgements: every method's mean with its resamples, and every pair's difference with its interval and test."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalkit.analysis import stats
from evalkit.analysis.judgements import FAITHFULNESS, KEY, Judgement, competitors, judgements_of
from evalkit.analysis.load import Run
from evalkit.analysis.paired import tested
from evalkit.analysis.stats import Array
from evalkit.errors import UserError
from evalkit.threads import mapped


@dataclass(frozen=True)
class Judged:
    """The methods of one run, without control versions, under J judgements."""

    run: Run
    methods: list[str]
    judgements: pd.DataFrame
    """J lines: the columns `judgements.KEY`, and `question`."""
    means: Array
    """(J,M), as the tables have them but for `win`, see `Judgement.scored`."""
    better: Array
    """(J,M): the means with their signs such that higher is better."""
    resampled: Array
    """(J,M,B): `better` on B resamples of the images, which are the same for all judgements; B is 0 for a single image."""
    tests: pd.DataFrame
    """A line for each pair and judgement: its `place` in `judgements`, methods `first` and `second`, `difference` with `low` and `high`,
    `p` not corrected, and `sign`: 1 where the first is the better one, -1 where the second is."""
    aside: Mapping[int, str] = field(default_factory=dict)
    """The judgements that `verdict` sets aside, by their place, each with the names of the controls that win it."""

    @property
    def counted(self) -> pd.DataFrame:
        """The judgements of faithfulness that are not set aside."""
        return self.judgements[(self.judgements.question == FAITHFULNESS) & ~self.judgements.index.isin(list(self.aside))]

    @property
    def ranks(self) -> Array:
        """The rank (J,M) of each method under each judgement, 1 the best, equal methods sharing the better rank; nan where undefined."""
        return np.asarray(pd.DataFrame(self.better).rank(axis=1, ascending=False, method="min"))


def judge_run(run: Run) -> Judged:
    """Apply all judgements to a run, of which there may be none. Raises UserError if no image could be scored."""
    methods = competitors(run)
    if not run.counts()["scored"]:
        raise UserError(f"{run.path}: no image could be scored by every method; `evalkit tables {run.path}` says why")
    pairs = np.array(list(itertools.combinations(range(len(methods)), 2)), dtype=int).reshape(-1, 2)
    keys, means, better, resampled, tests = [], [], [], [], []
    for one, mean, found in mapped(lambda one: _judge(one, methods, pairs), judgements_of(run)):
        keys.append((*one.key, one.question))
        means.append(mean.value)
        better.append(one.sign * mean.value)
        resampled.append(one.sign * mean.resampled)
        tests.append(found.assign(place=len(keys) - 1))
    table = pd.DataFrame(keys, columns=[*KEY, "question"])
    lines = pd.concat(tests, ignore_index=True) if tests and len(pairs) else pd.DataFrame()
    arrays = np.array(means).reshape(-1, len(methods)), np.array(better).reshape(-1, len(methods))
    return Judged(run, methods, table, *arrays, np.stack(resampled) if resampled else np.empty((0, len(methods), 0)), lines)


def _judge(one: Judgement, methods: list[str], pairs: NDArray[np.int64]) -> tuple[Judgement, stats.Bootstrapped, pd.DataFrame]:
    """Return a judgement with the methods' means and the tests of all pairs."""
    means, names = stats.bootstrap({"": one.scored}, one.images)[""], np.array(methods, dtype=object)
    found = tested(one.metric, one.values, None if one.metric == "win" else means, pairs, one.images, exact=False)
    table = pd.DataFrame(
        {
            "first": names[pairs[:, 0]],
            "second": names[pairs[:, 1]],
            "question": one.question,
            **dict(zip(KEY, one.key, strict=True)),
            "n": found.n,
            "difference": found.difference,
            "low": found.low,
            "high": found.high,
            "sign": one.sign * np.sign(found.difference),
            "p": found.p if one.values.shape[1] > 1 else np.nan,
        }
    )
    return one, means, table
