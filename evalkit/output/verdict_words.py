"""The verdict in sentences that can be quoted, each generated from the tests."""

import math
from collections.abc import Iterable, Sequence

import pandas as pd

from evalkit.analysis.agreement import EXCESS
from evalkit.analysis.metrics import direction
from evalkit.analysis.verdict import EQUAL, Standing, turned
from evalkit.output.method_names import display
from evalkit.output.tables import UNDEFINED, describe_point, interval
from evalkit.point import Point

METRICS = {
    "average_drop": "average drop",
    "increase": "increase",
    "win": "win",
    "srg": "symmetric relevance gain",
    "single_deletion": "single deletion",
}
AREAS = {"keep_top": "insertion area", "remove_top": "deletion area"}
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
    for (metric, select, score), part in by_metric(tests):
        points = points_in(part)
        at = places(points, every) if points else f"{', '.join(part['fill'].dropna())} fill" if part["fill"].notna().any() else ""
        words.append(metric_words(metric, select, score) + (f" under {at}" if at else ""))
    return "; ".join(words[:MOST_PLACES]) + (f"; and by {len(words) - MOST_PLACES} more" if len(words) > MOST_PLACES else "")


def by_metric(tests: pd.DataFrame) -> Iterable[tuple[tuple[str, str | None, str | None], pd.DataFrame]]:
    """Yield the tests of each metric and score; the selection is given for areas only, which have two names."""
    kinds = tests.assign(area=tests["select"].where(tests.metric == "area"))
    for (metric, select, score), part in kinds.groupby(["metric", "area", "score"], dropna=False, sort=False):
        yield (metric, None if pd.isna(select) else select, None if pd.isna(score) else score), part


def pair_sentence(one: Standing, score: str) -> str:
    """Return how two methods stand to each other, by the average drop under each protocol point, then in all judgements."""
    main = main_tests(one.tests, score)
    if one.kind == EQUAL:
        of = f"all {one.total} judgements" if one.total > 1 else "the one judgement"
        return f"{display(one.first)} and {display(one.second)} are equal in {of}: every difference is 0 (n = {int(one.tests.n.max()):,})."
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
            f"{verb} than {names[1]} by {_span(part)} points under {part_of(len(at), len(points))} protocol points"
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


def part_of(part: int, whole: int) -> str:
    """Return `all 9` or `7 of 9`."""
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


def agreement_lines(table: pd.DataFrame) -> list[list[str]]:
    """Return a header and a line for each kind of pairs of judgements, with tau without and with controls; empty if there is none."""
    if table.empty:
        return []
    lines = [["rankings by two judgements that differ in", "pairs", "tau", "with controls"]]
    shown = table[table.metric != EXCESS]
    both = bool(shown.with_controls.any())
    for (between, metric), part in shown.groupby(["between", "metric"], sort=False):
        tau = {row.with_controls: interval(row.tau, row.low, row.high) for row in part.itertuples()}
        label = BETWEEN_WORDS[str(between)] + (f", {metric_words(str(metric), None, None)} alone, no soft masks" if metric else "")
        lines.append([label, f"{part.pairs.max():,}", *(tau.get(controls, UNDEFINED) for controls in (False, True)[: 1 + both])])
    return [lines[0][: 3 + both], *lines[1:]]


def srg_sentence(table: pd.DataFrame) -> list[str]:
    """Return whether fills agree more by symmetric relevance gain, which is made for that, than by average drop; empty without it."""
    if table.empty:
        return []
    fills = table[(table.between == "fill") & ~table.with_controls].set_index("metric")
    if EXCESS not in fills.index:
        return []
    tau = {m: interval(*fills.loc[m, ["tau", "low", "high"]]) for m in ("srg", "average_drop", EXCESS)}
    excess = fills.loc[EXCESS]
    told = round(excess.low, 2) > 0 or round(excess.high, 2) < 0
    said = f"Fills agree {'more' if excess.tau > 0 else 'less'}" if told else "It cannot be told whether fills agree more"
    return [
        f"{said} by symmetric relevance gain than by average drop: between fills, tau is {tau['srg']} by the gain and "
        f"{tau['average_drop']} by the drop, a difference of {tau[EXCESS]}."
    ]


BETWEEN_WORDS = {
    "all": "anything",
    "fill": "the fill",
    "select": "the selection (kept, removed, soft), at any share of pixels",
    "top_percent": "the share of pixels",
    "metric": "the metric",
    "score": "the score",
}
