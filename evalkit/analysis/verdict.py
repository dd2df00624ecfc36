"""The verdict on runs: which method is better than which, where, and whether that survives another protocol or another network."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from evalkit.analysis.agreement import agreement
from evalkit.analysis.judged import Judged, judge_run
from evalkit.analysis.judgements import FAITHFULNESS, contenders
from evalkit.analysis.load import CONTROLS, Run
from evalkit.analysis.significance import Correction, benjamini_hochberg, holm
from evalkit.analysis.stats import Array

ALPHA = 0.05
CORRECTIONS: dict[Correction, Callable[[Array], Array]] = {"holm": holm, "bh": benjamini_hochberg, "none": lambda p: p}
ALWAYS, LEADS, TURNS, OPEN, EQUAL = "always", "leads", "turns", "open", "equal"
"""What a pair of methods is: the same one better in every judgement; in some and worse in none; better in some and worse in others; no
judgement tells them apart; all their differences are 0, as of maps that are the same but for a factor."""


@dataclass(frozen=True)
class Verdict:
    """The judgements of one or more runs, with p values corrected for all of them together."""

    judged: list[Judged]
    tests: pd.DataFrame
    """A line for each run (its number), pair and judgement, see `Judged.tests`, with `corrected` p, and `found`: 1 where the first method
    is significantly better, -1 where the second is, 0 where the two cannot be told apart; and `aside`: the controls that are
    significantly better than every method under this judgement, which is then set aside; else empty. What such a judgement rewards is not
    what the network uses, so that the order of the methods under it says nothing."""
    agreements: list[pd.DataFrame]
    """`agreement` of each run."""
    correction: Correction
    families: dict[str, int]
    """Tests that were corrected together, by the question of their judgements."""

    def of(self, number: int, *, aside: bool = False) -> pd.DataFrame:
        """Return the tests of faithfulness of one run, with `aside` also those under judgements that are set aside."""
        if self.tests.empty:
            return self.tests
        tests = self.tests[(self.tests.number == number) & (self.tests.question == FAITHFULNESS)]
        return tests if aside else tests[tests.aside == ""]


def verdict(runs: Sequence[Run], correction: Correction = "holm") -> Verdict:
    """Judge runs. The p of all runs, pairs and judgements that ask the same question are corrected as one family.

    Raises UserError if a run has no scored image.
    """
    judged = [judge_run(run) for run in runs]
    tests = pd.concat(
        [one.tests.assign(number=i, run=str(one.run.path), model=one.run.name) for i, one in enumerate(judged)], ignore_index=True
    )
    families = {}
    if not tests.empty:
        tests["corrected"] = tests.groupby("question").p.transform(lambda p: CORRECTIONS[correction](p.to_numpy(float)))
        tests["found"] = np.where(tests.corrected < ALPHA, tests.sign, 0).astype(int)
        tests["aside"] = _aside(tests)
        families = {str(question): int(p.notna().sum()) for question, p in tests.groupby("question").p}
        won = tests[tests.aside != ""]
        judged = [replace(one, aside=won[won.number == i].set_index("place").aside.to_dict()) for i, one in enumerate(judged)]
    return Verdict(judged, tests, [agreement(one) for one in judged], correction, families)


def _aside(tests: pd.DataFrame) -> pd.Series:
    """Return for each test the controls, with commas, that are significantly better than every method under its judgement, else empty.

    Only of faithfulness, and of runs with two methods or more.
    """
    judgement = [tests.number, tests.place]
    names = tests.groupby("number").agg({"first": set, "second": set})
    methods = tests.number.map({run: len(contenders(sorted(row["first"] | row["second"]))) for run, row in names.iterrows()})
    found: list[pd.Series] = []
    for control in CONTROLS:
        lost = (tests["first"] == control) & (tests.found > 0) | (tests.second == control) & (tests.found < 0)
        against = ~tests["first"].where(tests.second == control, tests.second).isin(CONTROLS)
        beaten = (lost & against).groupby(judgement).transform("sum")
        found.append(((beaten == methods) & (methods > 1) & (tests.question == FAITHFULNESS)).map({True: control, False: ""}))
    return pd.concat(found, axis=1).apply(lambda names: ", ".join(filter(None, names)), axis=1)


@dataclass(frozen=True)
class Standing:
    """How two methods of a run stand to each other, the first being the one that is better in more judgements."""

    first: str
    second: str
    better: int
    worse: int
    total: int
    """Judgements."""
    tests: pd.DataFrame
    """A line for each judgement, with `found` as seen from the first."""

    @property
    def kind(self) -> str:
        """`ALWAYS`, `LEADS`, `TURNS`, `OPEN` or `EQUAL`."""
        if (self.tests.difference == 0).all():
            return EQUAL
        if self.worse:
            return TURNS
        return OPEN if not self.better else ALWAYS if self.better == self.total else LEADS


def standings(verdict: Verdict, number: int, *, aside: bool = False) -> list[Standing]:
    """Return how all pairs of methods of one run stand, in the order of its methods, with `aside` by all judgements of faithfulness."""
    tests = verdict.of(number, aside=aside)
    if tests.empty:
        return []
    return [_standing(pair, part) for pair, part in tests.groupby(["first", "second"], sort=False)]


def _standing(pair: tuple[str, str], tests: pd.DataFrame) -> Standing:
    one = Standing(*pair, int((tests.found > 0).sum()), int((tests.found < 0).sum()), len(tests), tests)
    return one if one.better >= one.worse else turned(one)


def turned(one: Standing) -> Standing:
    """Return the same standing as seen from the second method."""
    tests = one.tests
    tests = tests.assign(found=-tests.found, difference=-tests.difference, low=-tests.high, high=-tests.low, sign=-tests.sign)
    return Standing(one.second, one.first, one.worse, one.better, one.total, tests)


@dataclass(frozen=True)
class Claim:
    """One pair of methods over several runs."""

    first: str
    second: str
    standings: dict[int, Standing]
    """By the number of the run, those that have both methods, each as seen from `first`."""

    @property
    def kind(self) -> str:
        """`ALWAYS` if the first is better in some judgement and worse in none on every run, `LEADS` if so on some while
        the others cannot tell, `TURNS` if a run turns or two runs contradict each other, `OPEN` if no run can tell, `EQUAL`
        if all differences of all runs are 0."""
        if all(one.kind == EQUAL for one in self.standings.values()):
            return EQUAL
        better = [one.better > 0 for one in self.standings.values()]
        if any(one.worse for one in self.standings.values()):
            return TURNS
        return ALWAYS if all(better) else LEADS if any(better) else OPEN


def claims(verdict: Verdict) -> list[Claim]:
    """Return how each pair of methods that two runs or more have stands on all of them, as seen from the one that is better more often."""
    found: dict[frozenset[str], dict[int, Standing]] = {}
    for number in range(len(verdict.judged)):
        for one in standings(verdict, number):
            found.setdefault(frozenset((one.first, one.second)), {})[number] = one
    return list(_claims(found))


def _claims(found: dict[frozenset[str], dict[int, Standing]]) -> Iterator[Claim]:
    for by_run in found.values():
        if len(by_run) < 2:
            continue
        any_one = next(iter(by_run.values()))
        names = [any_one.first, any_one.second]
        excess = sum((one.better - one.worse) * (1 if one.first == names[0] else -1) for one in by_run.values())
        first, second = names if excess >= 0 else names[::-1]
        yield Claim(first, second, {number: one if one.first == first else turned(one) for number, one in by_run.items()})
