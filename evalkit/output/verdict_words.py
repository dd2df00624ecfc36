"""The verdict in sentences that can be quoted, each generated from the tests."""

import math
from collections.abc import Iterable, Sequence

import pandas as pd
from scipy import stats

from evalkit.analysis.judgements import FAITHFULNESS, competitors, contenders
from evalkit.analysis.load import CONTROLS
from evalkit.analysis.metrics import direction
from evalkit.analysis.summary import main_score
from evalkit.analysis.verdict import ALPHA, ALWAYS, LEADS, OPEN, TURNS, Standing, Verdict, standings, turned
from evalkit.output.method_names import display
from evalkit.output.tables import describe_point, interval
from evalkit.point import Point

METRICS = {
    "average_drop": "average drop",
    "increase": "increase",
    "win": "win",
    "srg": "symmetric relevance gain",
    "single_deletion": "single deletion",
}
AREAS = {"keep_top": "insertion area", "remove_top": "deletion area"}
CORRECTED = {
    "holm": "after Holm's correction for all {} tests",
    "bh": "after Benjamini and Hochberg's correction for all {} tests",
    "none": "without a correction for the number of tests, {}",
}
WORDS = {
    "activation": "Confidence is the softmax of the explained class, activation its logit.",
    "average_drop": "Average drop: what the score loses, in percent of the score on the whole image; a gain counts as 0.",
    "srg": "Symmetric relevance gain: the area under the score while the least relevant pixels are removed first, minus that while the "
    "most relevant are removed first, at one fill (Bluecher et al. 2024).",
    "single_deletion": "Single deletion: the rank correlation, image by image, of the map's sums in the patches of a grid with what the "
    "score loses when that patch alone is removed (Hesse et al. 2024).",
    "road": "Road fill: the removed pixels are interpolated from those that stay, with a little noise (ROAD, Rong et al. 2022).",
}
"""What words of the page mean, by the score, metric or fill that needs them."""
POWER = 0.8
MOST_PLACES = 4
"""Largest number of single protocol points that a sentence names."""


def metric_words(metric: str, select: str | None, score: str | None) -> str:
    """Return a metric with its score: `average drop in confidence`."""
    name = AREAS.get(str(select), metric) if metric == "area" else METRICS.get(metric, metric.replace("_", " "))
    return name if score is None or score == "score" or pd.isna(score) else f"{name} in {score}"


def point_of(select: object, top_percent: float, fill: object) -> Point | None:
    """Return the protocol point of a judgement; None for one that has no single point."""
    if select == "soft" or not math.isnan(top_percent):
        return Point(select, None if math.isnan(top_percent) else top_percent, fill)  # type: ignore[arg-type]
    return None


def and_list(words: Sequence[str]) -> str:
    """Return `a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else list(words))


def places(chosen: Sequence[Point], every: Sequence[Point]) -> str:
    """Return protocol points as text, those that are all of one fill or selection by its name: `mean fill; top 20 % kept, blur fill`."""
    chosen = list(dict.fromkeys(chosen))
    missing = [point for point in every if point not in chosen]
    if not missing and len(every) > 1:
        return "every protocol point"
    if 0 < len(missing) <= MOST_PLACES // 2 and len(chosen) > MOST_PLACES:
        return f"all but {'; '.join(map(describe_point, missing))}"
    words, left = [], chosen
    groups = {name: of for name, of in _groups(every).items() if set(of) <= set(chosen)}
    while groups:
        name = max(groups, key=lambda name: len(set(groups[name]) & set(left)))
        of = groups.pop(name)
        if len(set(of) & set(left)) < 2:
            break
        words.append(name)
        left = [point for point in left if point not in of]
    words += list(map(describe_point, left[:MOST_PLACES]))
    if len(left) > MOST_PLACES:
        words.append(f"{len(left) - MOST_PLACES} more")
    return "; ".join(words)


def _groups(every: Sequence[Point]) -> dict[str, list[Point]]:
    """Return the protocol points of each fill and of each selection, where they are several but not all."""
    groups = {f"{fill} fill": [p for p in every if p.fill == fill] for fill in dict.fromkeys(p.fill for p in every)}
    for kind in dict.fromkeys((p.select, p.top_percent) for p in every):
        of = [p for p in every if (p.select, p.top_percent) == kind]
        groups[describe_point(of[0]).rpartition(",")[0] + " with every fill"] = of
    return {name: of for name, of in groups.items() if 1 < len(of) < len(every)}


def points_in(tests: pd.DataFrame) -> list[Point]:
    """Return the protocol points of tests, in their order."""
    found = [point_of(*key) for key in tests[["select", "top_percent", "fill"]].itertuples(index=False, name=None)]
    return list(dict.fromkeys(point for point in found if point is not None))


def main_tests(tests: pd.DataFrame, score: str) -> pd.DataFrame:
    """Return the tests of the average drop in one score."""
    return tests[(tests.metric == "average_drop") & (tests.score == score)]


def where(tests: pd.DataFrame, every: Sequence[Point]) -> str:
    """Return judgements as text, by metric and score: `increase in activation under mean fill`."""
    words = []
    for (metric, select, score), part in _by_metric(tests):
        points = points_in(part)
        at = places(points, every) if points else f"{', '.join(part['fill'].dropna())} fill" if part["fill"].notna().any() else ""
        words.append(metric_words(metric, select, score) + (f" under {at}" if at else ""))
    return "; ".join(words[:MOST_PLACES]) + (f"; and by {len(words) - MOST_PLACES} more" if len(words) > MOST_PLACES else "")


def _by_metric(tests: pd.DataFrame) -> Iterable[tuple[tuple[str, str | None, str | None], pd.DataFrame]]:
    kinds = tests.assign(area=tests["select"].where(tests.metric == "area"))
    for (metric, select, score), part in kinds.groupby(["metric", "area", "score"], dropna=False, sort=False):
        yield (metric, None if pd.isna(select) else select, None if pd.isna(score) else score), part


def pair_sentence(one: Standing, score: str) -> str:
    """Return how two methods stand to each other, by the average drop under each protocol point, then in all judgements."""
    main = main_tests(one.tests, score)
    if not one.better + one.worse and (main.found < 0).any():
        one = turned(one)
        main = main_tests(one.tests, score)
    names = display(one.first), display(one.second)
    points = points_in(main)
    if not points:
        return f"{names[0]} and {names[1]}: {_counts(one)}."
    by = f"{metric_words('average_drop', None, score)}, n = {int(main.n.max()):,}"
    better, worse = (points_in(main[found]) for found in (main.found > 0, main.found < 0))
    if len(points) == 1:
        text = f"{_alone(main.iloc[0], names, describe_point(points[0]))} ({by})"
    elif not better and not worse:
        text = f"{names[0]} and {names[1]} cannot be told apart under any of {len(points)} protocol points ({by}"
        text += f"; largest difference {main.difference.abs().max():.2f} points)"
    else:
        sides = [("better", better, main[main.found > 0]), ("worse", worse, main[main.found < 0])]
        told = [
            f"{verb} than {names[1]} by {_span(part)} points under {_of(len(at), len(points))} protocol points"
            + (f" ({places(at, points)})" if len(at) < len(points) else "")
            for verb, at, part in sides
            if at
        ]
        text = f"{names[0]} is {', and '.join(told)}"
        text += "; under the others the two cannot be told apart" if len(better) + len(worse) < len(points) else ""
        text += f" ({by})"
    return f"{text}. {_sentence(_counts(one))}." if one.total > len(points) else f"{text}."


def _span(tests: pd.DataFrame) -> str:
    """Return the smallest and largest size of the differences."""
    low, high = (f"{size:.2f}" for size in (tests.difference.abs().min(), tests.difference.abs().max()))
    return low if low == high else f"{low} to {high}"


def _of(part: int, whole: int) -> str:
    return f"all {whole}" if part == whole else f"{part} of {whole}"


def _alone(test: pd.Series, names: tuple[str, str], point: str) -> str:
    bounds = f" [{test.low:+.2f}, {test.high:+.2f}]" if math.isfinite(test.low) else ""
    verb = {1: "is better than", -1: "is worse than", 0: "cannot be told from"}[int(test.found)]
    better = direction("average_drop", test["select"])
    return f"{names[0]} {verb} {names[1]} at the one protocol point, {point}: {test.difference:+.2f} points{bounds}, {better} is better"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _counts(one: Standing) -> str:
    """Return in how many judgements the first is better, worse, and neither."""
    neither = one.total - one.better - one.worse
    if one.better == one.total:
        return f"better in all {one.total} judgements"
    if neither == one.total:
        return f"told apart in none of {one.total} judgements"
    reversed_in = f" ({where(one.tests[one.tests.found < 0], points_in(one.tests))})" if 0 < one.worse <= MOST_PLACES else ""
    told = f"{display(one.first)} is better in {one.better}, worse in {one.worse}{reversed_in}"
    return f"of all {one.total} judgements, {told}; not told apart in {neither}"


def turn_sentence(one: Standing) -> str:
    """Return where a pair turns: by what the first is better, and by what the second."""
    every = points_in(one.tests)
    sides = [where(one.tests[found], every) for found in (one.tests.found > 0, one.tests.found < 0)]
    return (
        f"{display(one.first)} against {display(one.second)}: better in {one.better} of {one.total} judgements, by {sides[0]}; "
        f"worse in {one.worse}, by {sides[1]}."
    )


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
        by = and_list(list(dict.fromkeys(metric_words(*key[:2], None) for key, _ in _by_metric(part))))
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
    flat = [point for point in points if not (_at(tests, point).found != 0).any()]
    if not flat or len(methods) < 3 or len(points) < 2:
        return []
    by, at = metric_words("average_drop", None, score), f" ({places(flat, points)})" if len(flat) < len(points) else ""
    return [f"By the {by}, no two methods can be told apart under {_of(len(flat), len(points))} protocol points{at}."]


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


def _at(tests: pd.DataFrame, point: Point) -> pd.DataFrame:
    top = tests.top_percent.isna() if point.top_percent is None else tests.top_percent == point.top_percent
    return tests[(tests["select"] == point.select) & (tests["fill"] == point.fill) & top]


def rule(verdict: Verdict, number: int) -> list[str]:
    """Return what a judgement is, how many there are, and what "better" means."""
    judged = verdict.judged[number]
    table = judged.judgements[judged.judgements.question == FAITHFULNESS]
    points = points_in(table)
    single = table[table.metric.isin(["average_drop", "increase", "win"])]
    scores, metrics = list(dict.fromkeys(single.score)), list(dict.fromkeys(single.metric))
    of_scores = f", one score ({' or '.join(scores)})" if len(scores) > 1 else ""
    others = [metric_words(*key) for key, _ in _by_metric(table[~table.metric.isin(metrics)])]
    text = (
        f"A judgement is one protocol point (which pixels stay, and what fills the others){of_scores} and one metric "
        f"({' or '.join(metric_words(m, None, None) for m in metrics)}): "
        f"{len(table)} here, at {len(points)} point{'s' * (len(points) != 1)}"
    )
    text += f", counting {and_list(list(dict.fromkeys(others)))}." if others else "."
    tests = verdict.families.get(FAITHFULNESS, 0)
    pairs = len(judged.methods) * (len(judged.methods) - 1) // 2
    undefined = pairs * len(table) - tests if len(verdict.judged) == 1 else 0
    what = f"{pairs} pair{'s' * (pairs != 1)} x {len(table)} judgements" + (f", less {undefined} that are undefined" if undefined else "")
    what = f"of all {len(verdict.judged)} networks" if len(verdict.judged) > 1 else what
    corrected = CORRECTED[verdict.correction].format(f"{tests:,}") + f" ({what})"
    lines = [text]
    if pairs and not tests:
        lines.append("Nothing can be tested: that takes two images or more.")
    elif pairs:
        lines.append(f"Better and worse are paired differences over the images, significant at 5 % by sign-flip tests {corrected}.")
        lines += _detectable(verdict, number)
    if len(points) == 1:
        lines.append("There is one protocol point only, so nothing can be said about other fills and selections.")
    left = len(judged.run.methods) - len(competitors(judged.run))
    if left:
        versions = "1 control version of a method (with a + in its name) is" if left == 1 else f"{left} control versions (with a +) are"
        lines.append(f"{versions} left out: they are no competitors.")
    if any(method in CONTROLS for method in judged.methods):
        lines.append("Controls are maps that do not look at the network.")
    return lines


def glossary(verdict: Verdict, number: int) -> list[str]:
    """Return what the words of a run's page mean."""
    table = verdict.judged[number].judgements
    table = table[table.question == FAITHFULNESS]
    used = {*table.metric, *table["fill"].dropna(), *table.score.dropna()}
    return [words for word, words in WORDS.items() if word in used]


def _detectable(verdict: Verdict, number: int) -> list[str]:
    """Return how large a difference must be to be found, from the intervals: the median over pairs of methods and protocol points."""
    judged = verdict.judged[number]
    methods = contenders(judged.methods)
    tests = main_tests(verdict.of(number), main_score(judged.run))
    tests = tests[tests["first"].isin(methods) & tests.second.isin(methods)]
    errors = ((tests.high - tests.low) / (2 * stats.norm.ppf(1 - ALPHA / 2))).dropna()
    if errors.empty or verdict.correction == "bh":
        return []
    together = verdict.families[FAITHFULNESS] if verdict.correction == "holm" else 1
    size = float(errors.median()) * (stats.norm.ppf(1 - ALPHA / 2 / together) + stats.norm.ppf(POWER))
    return [
        f"Not told apart does not mean equal: with {int(tests.n.max()):,} images, a difference of average drop is found with "
        f"{100 * POWER:.0f} % probability if it is about {size:.0f} points (median over pairs of methods and points)."
    ]


def agreement_lines(table: pd.DataFrame) -> list[list[str]]:
    """Return a header and a line for each kind of pairs of judgements, with tau without and with controls; empty if there is none."""
    if table.empty:
        return []
    lines = [["rankings by two judgements that differ in", "pairs", "tau", "with controls"]]
    for (between, metric), part in table.groupby(["between", "metric"], sort=False):
        tau = {row.with_controls: interval(row.tau, row.low, row.high) for row in part.itertuples()}
        label = BETWEEN_WORDS[str(between)] + (f", {metric_words(str(metric), None, None)} alone" if metric else "")
        lines.append([label, f"{part.pairs.max():,}", tau.get(False, "undefined"), tau.get(True, "undefined")])
    return lines


def srg_sentence(table: pd.DataFrame) -> list[str]:
    """Return whether fills agree more by symmetric relevance gain, which is made for that, than by average drop; empty without it."""
    if table.empty:
        return []
    fills = table[(table.between == "fill") & ~table.with_controls].set_index("metric")
    if not {"srg", "average_drop"} <= set(fills.index):
        return []
    tau = {m: interval(*fills.loc[m, ["tau", "low", "high"]]) for m in ("srg", "average_drop")}
    return [f"Between fills, tau is {tau['srg']} by symmetric relevance gain and {tau['average_drop']} by average drop."]


BETWEEN_WORDS = {
    "all": "anything",
    "fill": "the fill",
    "select": "the selection (kept, removed, soft), at any share of pixels",
    "top_percent": "the share of pixels",
    "metric": "the metric",
    "score": "the score",
}
