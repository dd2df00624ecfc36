"""The verdict as tables of text: ranks, counts of better and worse, agreement, and pairs over several networks."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd

from evalkit.analysis.agreement import tau_matrix
from evalkit.analysis.judged import Judged
from evalkit.analysis.judgements import FAITHFULNESS, contenders
from evalkit.analysis.load import CONTROLS, Run
from evalkit.analysis.metrics import direction
from evalkit.analysis.summary import main_score
from evalkit.analysis.verdict import ALWAYS, EQUAL, LEADS, OPEN, TURNS, Claim, Standing, Verdict, claims, standings
from evalkit.layer_names import layers_in_words
from evalkit.output.method_names import display
from evalkit.output.tables import UNDEFINED, describe_point, title
from evalkit.output.verdict_words import and_list, metric_words, point_of

ASIDE = " (set aside)"
COLUMNS = ["run", "model", "first", "second", "question", "metric", "select", "top_percent", "fill", "score"]
CLAIMS = {
    ALWAYS: "better on all",
    LEADS: "better on some, not told apart on the others",
    TURNS: "better in one judgement, worse in another",
    OPEN: "not told apart on any",
    EQUAL: "equal",
}


def csv_table(verdict: Verdict) -> pd.DataFrame:
    """Return every pair under every judgement: difference, interval, p, corrected p, and the method that is significantly better."""
    if verdict.tests.empty:
        return pd.DataFrame(columns=[*COLUMNS, "n", "difference", "low", "high", "p", "p_corrected", "better", "aside"])
    tests = verdict.tests.rename(columns={"corrected": "p_corrected"})
    tests["better"] = tests["first"].where(tests.found > 0, tests["second"].where(tests.found < 0, ""))
    return tests[[*COLUMNS, "n", "difference", "low", "high", "p", "p_corrected", "better", "aside"]]


def judgement_words(key: pd.Series) -> str:
    """Return a judgement's point, fill, or nothing, as the heading of a column."""
    point = point_of(key["select"], key.top_percent, key["fill"])
    return describe_point(point) if point else f"{key['fill']} fill" if pd.notna(key["fill"]) else "the map"


def rank_tables(judged: Judged, question: str = FAITHFULNESS) -> list[tuple[str, list[list[str]]]]:
    """Return for each metric and score a heading and a table of each method's mean and rank under each judgement."""
    table = judged.judgements[judged.judgements.question == question]
    area = table["select"].where(table.metric == "area")
    found = []
    for _, part in table.groupby(["metric", area.fillna(""), table.score.fillna("")], sort=False):
        first = part.iloc[0]
        name = metric_words(first.metric, first["select"], first.score)
        better = {direction(metric, select) for metric, select in zip(part.metric, part["select"], strict=True)}
        heads = [
            judgement_words(key)
            + (f" ({direction(key.metric, key['select'])} is better)" if len(better) > 1 else "")
            + ASIDE * (place in judged.aside)
            for place, key in part.iterrows()
        ]
        lines = [["method", *heads]]
        for i, method in enumerate(judged.methods):
            lines.append([display(method), *(_cell(judged.means[at, i], judged.ranks[at, i]) for at in part.index)])
        found.append((name + (f" ({better.pop()} is better)" if len(better) == 1 else ""), lines))
    return found


def _cell(mean: float, rank: float) -> str:
    return f"{mean:z.2f} ({rank:.0f})" if math.isfinite(mean) else UNDEFINED


def standing_table(verdict: Verdict, number: int) -> list[list[str]]:
    """Return of each method, the best first, its mean rank among methods and controls, and how often it is significantly better and worse
    than another method, and than a control.

    Of the judgements that are not set aside.
    """
    judged = verdict.judged[number]
    methods = contenders(judged.methods)
    ranks = pd.DataFrame(judged.ranks[judged.counted.index], columns=judged.methods).mean()
    counts: Counter[tuple[str, bool, int]] = Counter()
    for one in standings(verdict, number):
        first, second = (one.first, one.second in methods), (one.second, one.first in methods)
        counts.update({(*first, 1): one.better, (*first, -1): one.worse, (*second, 1): one.worse, (*second, -1): one.better})
    kinds = [(True, "method"), (False, "control")][: 1 + (len(methods) < len(judged.methods))]
    lines = [["", "mean rank", *(f"{verb} than a {name}" for _, name in kinds for verb in ("better", "worse"))]]
    for method in ranks.sort_values(kind="stable").index:
        cells = []
        for kind, _ in kinds:
            total = len(judged.counted) * sum((other in methods) == kind for other in judged.methods if other != method)
            cells += [f"{counts[method, kind, sign]} of {total}" if total else "" for sign in (1, -1)]
        lines.append([display(method), f"{ranks[method]:.1f}" if math.isfinite(ranks[method]) else UNDEFINED, *cells])
    return lines


def aside_table(judged: Judged) -> list[list[str]]:
    """Return the judgements that are set aside, and the controls that win each; empty without any."""
    lines = [["protocol point", "metric", "better than every method"]]
    for place, names in judged.aside.items():
        key = judged.judgements.loc[place]
        controls = and_list(list(map(display, names.split(", "))))
        lines.append([judgement_words(key), metric_words(key.metric, key["select"], key.score), controls])
    return lines if judged.aside else []


def pair_table(verdict: Verdict, number: int) -> list[list[str]]:
    """Return in how many judgements the row's method is significantly better, and worse, than the column's; empty for one method."""
    stands = {}
    for one in standings(verdict, number):
        stands[one.first, one.second], stands[one.second, one.first] = f"{one.better} : {one.worse}", f"{one.worse} : {one.better}"
    methods = verdict.judged[number].methods
    lines = [[display(row), *(stands.get((row, column), "") for column in methods)] for row in methods]
    return [["better : worse", *map(display, methods)], *lines] if stands else []


def tau_table(judged: Judged) -> tuple[str, list[list[str]]]:
    """Return a heading and Kendall's tau between the protocol points that are not set aside, by the average drop in the first score; no
    lines for one point."""
    score = main_score(judged.run)
    table = judged.judgements
    at = [place for place in table.index[(table.metric == "average_drop") & (table.score == score)] if place not in judged.aside]
    if len(at) < 2 or len(judged.methods) < 2:
        return "", []
    tau = tau_matrix(judged, at)
    names = [judgement_words(table.loc[i]) for i in at]
    lines = [["", *names]]
    lines += [[name, *(f"{value:z.2f}" if math.isfinite(value) else "" for value in row)] for name, row in zip(names, tau, strict=True)]
    return f"Kendall's tau between the rankings by {metric_words('average_drop', None, score)}, controls aside", lines


def run_names(runs: Sequence[Run]) -> list[str]:
    """Return a short name of each run that no other of them has: the network, with its layer, else the title, else the folder."""
    kinds = [
        [run.name for run in runs],
        [f"{run.name} at {layers_in_words(run.provenance['identity']['model']['layer'])}" for run in runs],
        [title(run) for run in runs],
        [str(run.path) for run in runs],
    ]
    return next(names for names in kinds if len(set(names)) == len(names) or names is kinds[-1])


def over(runs: Sequence[Run]) -> str:
    """Return how many networks, and how many runs where a network has several: `3 networks`, `4 runs of 2 networks`."""
    networks = len({(run.name, str(run.provenance["identity"]["model"].get("weights_hash"))) for run in runs})
    return f"{networks} networks" if networks == len(runs) else f"{len(runs)} runs of {networks} network{'s' * (networks != 1)}"


def claim_table(verdict: Verdict) -> list[list[str]]:
    """Return how each pair of methods stands on each network; empty for one run or no pair in common."""
    found = claims(verdict)
    if not found:
        return []
    names = run_names([one.run for one in verdict.judged])
    lines = [["first against second", *names, "over these"]]
    for one in sorted(found, key=lambda claim: list(CLAIMS).index(claim.kind)):
        cells = [_counts(one, number) for number in range(len(names))]
        lines.append([f"{display(one.first)} against {display(one.second)}", *cells, CLAIMS[one.kind]])
    return lines


def _counts(claim: Claim, number: int) -> str:
    one = claim.standings.get(number)
    return f"{one.better} better, {one.worse} worse of {one.total}" if one else ""


def claim_sentences(verdict: Verdict) -> list[str]:
    """Return one sentence on each pair of methods that is judged on several networks, the surest first; on controls if there is none."""
    names = run_names([one.run for one in verdict.judged])
    found = sorted(claims(verdict), key=lambda claim: list(CLAIMS).index(claim.kind))
    among = [one for one in found if not {one.first, one.second} & {*CONTROLS}]
    return [_claim_sentence(one, names) for one in among or found]


def _claim_sentence(claim: Claim, names: Sequence[str]) -> str:
    of = {names[number]: one for number, one in claim.standings.items()}
    first, second = display(claim.first), display(claim.second)
    better = {name: one for name, one in of.items() if one.better and not one.worse}
    worse = {name: one for name, one in of.items() if one.worse and not one.better}
    both = {name: one for name, one in of.items() if one.better and one.worse}
    equal = [name for name, one in of.items() if one.kind == EQUAL]
    neither = [name for name in of if name not in {*better, *worse, *both, *equal}]
    parts = [f"is better than {second} in {_times(better, 'better')}, and worse in none"] if better else []
    parts += [f"is worse than {second} in {_times(worse, 'worse')}, and better in none"] if worse else []
    parts += [f"is better than {second} in {_times({name: one}, 'better')}, and worse in {one.worse}" for name, one in both.items()]
    parts += [f"cannot be told from {second} on {and_list(neither)}"] if neither else []
    parts += [f"is equal to {second} on {and_list(equal)}"] if equal else []
    return f"{first} {'; it '.join(parts)}."


def _times(of: Mapping[str, Standing], verb: str) -> str:
    """Return in how many judgements of each run: `4 of 6 judgements on x and 2 of 6 on y`."""
    words = [f"{one.better if verb == 'better' else one.worse} of {one.total} on {name}" for name, one in of.items()]
    return and_list(words).replace(" on ", " judgements on ", 1)
