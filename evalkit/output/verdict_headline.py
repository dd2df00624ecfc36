"""The first sentences of the verdict: what is set aside, which methods stand out, and what the controls say."""

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from evalkit.analysis.judgements import FAITHFULNESS, contenders
from evalkit.analysis.load import at_point
from evalkit.analysis.summary import main_score
from evalkit.analysis.verdict import ALWAYS, EQUAL, LEADS, OPEN, TURNS, Standing, Verdict, standings, turned
from evalkit.output.method_names import display
from evalkit.output.verdict_rule import floor_sentence
from evalkit.output.verdict_words import and_list, main_tests, metric_words, part_of, places, points_in

MOST_NAMED = 4
"""Largest number of pairs that the sentence on judgements that are set aside names."""


def headline(verdict: Verdict, number: int) -> list[str]:
    """Return the first sentences on a run: whether one method is best, how many pairs hold or turn, and what the controls say."""
    judged = verdict.judged[number]
    methods = contenders(judged.methods)
    if len(judged.methods) < 2:
        return [f"{display(judged.methods[0])} is the only method, so nothing can be said about which is better: add one, or the controls."]
    gain, aside, impossible = gain_sentence(verdict, number), aside_sentences(verdict, number), floor_sentence(verdict, number)
    if judged.counted.empty:
        return [*aside, "No judgement counts, so nothing can be said about which method is better."]
    if impossible:
        return [*impossible, *gain]
    stands = standings(verdict, number)
    among = [one for one in stands if one.first in methods and one.second in methods]
    flat = _flat(verdict, number, methods)
    against = against_controls(stands, methods)
    controls = [*control_sentences(against), *_lost(against, main_score(judged.run))]
    return [*aside, *_best(among, methods), *_pairs(among), *flat, *controls, *gain]


def aside_sentences(verdict: Verdict, number: int) -> list[str]:
    """Return how many judgements are set aside, by the controls that win them, and which pairs would stand otherwise with them."""
    judged = verdict.judged[number]
    if not judged.aside:
        return []
    total = int((judged.judgements.question == FAITHFULNESS).sum())
    won = Counter(control for names in judged.aside.values() for control in names.split(", "))
    by = and_list([f"{display(control)} in {times}" for control, times in won.items()])
    are = "judgement is" if len(judged.aside) == 1 else "judgements are"
    said = f"{len(judged.aside)} of {total} {are} set aside and count in nothing below, since a map that does not look at the network is "
    return [f"{said}significantly better there than every method: {by}.", *_otherwise(verdict, number)]


def _otherwise(verdict: Verdict, number: int) -> list[str]:
    """Return which pairs of methods would stand otherwise if no judgement were set aside."""
    methods = contenders(verdict.judged[number].methods)
    everything = {frozenset((one.first, one.second)): one for one in standings(verdict, number, aside=True)}
    changed = []
    for before in standings(verdict, number):
        one = everything[frozenset((before.first, before.second))]
        if {one.first, one.second} <= set(methods) and one.kind != before.kind:
            now = one if one.first == before.first else turned(one)
            stands = f"{now.better} : {now.worse}, not {before.better} : {before.worse}"
            more = now.better + now.worse - before.better - before.worse
            changed.append((-more, f"{display(now.first)} against {display(now.second)} {stands}"))
    if not changed:
        return ["If they counted, no pair of methods would stand otherwise."]
    shown = [words for _, words in sorted(changed)[:MOST_NAMED]]
    others = f"; and {len(changed) - len(shown)} more" if len(changed) > len(shown) else ""
    pairs = "1 pair of methods" if len(changed) == 1 else f"{len(changed)} pairs of methods"
    return [f"If they counted, {pairs} would stand otherwise (better : worse): {'; '.join(shown)}{others}."]


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
    return [f"Under {part_of(len(flat), len(points))} protocol points, the {by} tells no two methods apart{at}."]


def against_controls(stands: Sequence[Standing], methods: Sequence[str]) -> list[Standing]:
    """Return how methods and controls stand to each other, as seen from the methods."""
    return [one if one.first in methods else turned(one) for one in stands if (one.first in methods) != (one.second in methods)]


def _lost(against: Sequence[Standing], score: str) -> list[str]:
    """Return where a control is significantly better than a method by the average drop: what is found there needs another look."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in against:
        tests = main_tests(one.tests, score)
        lost = points_in(tests[tests.found < 0])
        if lost:
            found.setdefault((one.second, places(lost, points_in(tests))), []).append(display(one.first))
    words = [f"{display(control)} is better than {and_list(beaten)} under {at}" for (control, at), beaten in found.items()]
    return [f"By the {metric_words('average_drop', None, score)}, {'; '.join(words)}."] if words else []


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
    number = {kind: sum(one.kind == kind for one in among) for kind in (ALWAYS, LEADS, TURNS, OPEN, EQUAL)}
    equal = f"; {number[EQUAL]} with equal values throughout" if number[EQUAL] else ""
    return [
        f"Of {len(among)} pairs of methods, controls aside: {number[ALWAYS]} in the same order in every judgement; {number[LEADS]} in "
        f"one order in some judgements, not told apart in the others; {number[TURNS]} better in one judgement and worse in another; "
        f"{number[OPEN]} told apart by no judgement{equal}."
    ]


def control_sentences(against: Sequence[Standing]) -> list[str]:
    """Return sentences on methods that fail to beat a control."""
    said = [
        f"{display(one.first)} does not beat {display(one.second)}: better in {one.better} of {one.total} judgements, worse in {one.worse}."
        for one in against
        if one.better <= one.worse
    ]
    return said or (["Every method is more often better than worse than each control."] if against else [])
