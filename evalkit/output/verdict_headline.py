"""The first sentences of the verdict: what is set aside, which methods stand out, and what the controls say."""

from collections.abc import Sequence

import pandas as pd

from evalkit.analysis.judgements import FAITHFULNESS, contenders
from evalkit.analysis.load import at_point
from evalkit.analysis.summary import main_score
from evalkit.analysis.verdict import ALWAYS, LEADS, OPEN, TURNS, Standing, Verdict, standings, turned
from evalkit.output.method_names import display
from evalkit.output.verdict_words import and_list, by_metric, main_tests, metric_words, part_of, places, points_in


def headline(verdict: Verdict, number: int) -> list[str]:
    """Return the first sentences on a run: whether one method is best, how many pairs hold or turn, and what the controls say."""
    judged = verdict.judged[number]
    methods = contenders(judged.methods)
    if len(judged.methods) < 2:
        return [f"{display(judged.methods[0])} is the only method, so nothing can be said about which is better: add one, or the controls."]
    stands = standings(verdict, number)
    among = [one for one in stands if one.first in methods and one.second in methods]
    aside = aside_sentences(verdict, number)
    flat = _flat(verdict, number, methods)
    return [*aside, *_best(among, methods), *_pairs(among), *flat, *control_sentences(stands, methods), *gain_sentence(verdict, number)]


def aside_sentences(verdict: Verdict, number: int) -> list[str]:
    """Return which judgements are set aside, by the controls that are better there than every method."""
    tests = verdict.set_aside(number)
    if tests.empty:
        return []
    total = int((verdict.judged[number].judgements.question == FAITHFULNESS).sum())
    every = points_in(verdict.tests[verdict.tests.number == number])
    words = []
    for control in dict.fromkeys(name for names in tests.aside.unique() for name in names.split(", ")):
        part = tests[tests.aside.str.split(", ").map(lambda names, control=control: control in names)]
        by = and_list(list(dict.fromkeys(metric_words(*key[:2], None) for key, _ in by_metric(part))))
        points = points_in(part)
        words.append(f"{display(control)} under {places(points, every)} (by {by})" if points else f"{display(control)} by {by}")
    return [
        f"{tests.place.nunique()} of {total} judgements are set aside and count nowhere below, since a map that does not look at the "
        f"network is better there than every method: {'; '.join(words)}."
    ]


def _flat(verdict: Verdict, number: int, methods: Sequence[str]) -> list[str]:
    """Return under how many protocol points the average drop tells no two methods apart."""
    score = main_score(verdict.judged[number].run)
    tests = main_tests(verdict.of(number), score)
    tests = tests[tests["first"].isin(methods) & tests.second.isin(methods)]
    points = points_in(tests)
    flat = [point for point in points if not (at_point(tests, point).found != 0).any()]
    if not flat or len(methods) < 3 or len(points) < 2:
        return []
    by, at = metric_words("average_drop", None, score), f" ({places(flat, points)})" if len(flat) < len(points) else ""
    return [f"By the {by}, no two methods can be told apart under {part_of(len(flat), len(points))} protocol points{at}."]


def gain_sentence(verdict: Verdict, number: int) -> list[str]:
    """Return under how many fills every method is above every control by symmetric relevance gain; empty without it."""
    judged = verdict.judged[number]
    methods = contenders(judged.methods)
    controls = [method for method in judged.methods if method not in methods]
    at = judged.judgements.index[judged.judgements.metric == "srg"]
    if not len(at) or not controls or not methods:
        return []
    ranks = pd.DataFrame(judged.ranks[at], columns=judged.methods)
    apart = int((ranks[methods].max(axis=1) < ranks[controls].min(axis=1)).sum())
    of = f"{apart} of {len(at)} judgements (a fill and a score each)"
    return [f"By symmetric relevance gain, every method has a higher mean than every control in {of}."]


def _best(among: list[Standing], methods: list[str]) -> list[str]:
    if len(methods) < 2:
        return []
    beaten = {one.second for one in among if one.better} | {one.first for one in among if one.worse}
    unbeaten = [method for method in methods if method not in beaten]
    if len(unbeaten) == len(methods):
        return ["No two methods can be told apart in any judgement." if len(methods) > 2 else "The two methods cannot be told apart."]
    if not unbeaten:
        each = "both methods are" if len(methods) == 2 else "every method is"
        return [f"No method is best: {each} significantly worse than another in some judgement."]
    if len(unbeaten) == 1:
        (best,) = unbeaten
        over = [one.second for one in among if one.first == best and one.better]
        alike = [method for method in methods if method != best and method not in over]
        text = f"{display(best)} is better than {and_list(list(map(display, over)))} in some judgement and worse in none"
        return [text + (f"; it cannot be told from {and_list(list(map(display, alike)))}." if alike else ".")]
    return [f"{and_list(list(map(display, unbeaten)))} are worse than no other method in any judgement; every other method is in some."]


def _pairs(among: list[Standing]) -> list[str]:
    if len(among) < 2:
        return []
    number = {kind: sum(one.kind == kind for one in among) for kind in (ALWAYS, LEADS, TURNS, OPEN)}
    return [
        f"Of {len(among)} pairs of methods, controls aside: {number[ALWAYS]} in the same order in every judgement; {number[LEADS]} in "
        f"one order in some judgements, not told apart in the others; {number[TURNS]} that turn, better in one judgement and worse in "
        f"another; {number[OPEN]} that no judgement tells apart."
    ]


def control_sentences(stands: list[Standing], methods: list[str]) -> list[str]:
    """Return sentences on methods that fail to beat a control."""
    against = [one if one.first in methods else turned(one) for one in stands if (one.first in methods) != (one.second in methods)]
    said = [
        f"{display(one.first)} does not beat {display(one.second)}: better in {one.better} of {one.total} judgements, worse in {one.worse}."
        for one in against
        if one.better <= one.worse
    ]
    return said or (["Every method is more often better than worse than each control."] if against else [])
