"""The verdict as tables of text: ranks, counts of better and worse, agreement, and pairs over several networks."""

import math
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from evalkit.analysis.agreement import tau_matrix
from evalkit.analysis.judged import Judged
from evalkit.analysis.judgements import FAITHFULNESS
from evalkit.analysis.load import CONTROLS, Run
from evalkit.analysis.metrics import direction
from evalkit.analysis.summary import main_score
from evalkit.analysis.verdict import ALWAYS, LEADS, OPEN, TURNS, Claim, Verdict, claims, standings
from evalkit.layer_names import layers_in_words
from evalkit.output.method_names import display
from evalkit.output.tables import UNDEFINED, describe_point, title
from evalkit.output.verdict_words import and_list, metric_words, point_of

COLUMNS = ["run", "model", "first", "second", "question", "metric", "select", "top_percent", "fill", "score"]
CLAIMS = {
    ALWAYS: "the same on all networks",
    LEADS: "on some networks, not told apart on the others",
    TURNS: "turns",
    OPEN: "not told apart on any network",
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
            judgement_words(key) + (f" ({direction(key.metric, key['select'])} is better)" if len(better) > 1 else "")
            for _, key in part.iterrows()
        ]
        lines = [["method", *heads]]
        for i, method in enumerate(judged.methods):
            lines.append([display(method), *(_cell(judged.means[at, i], judged.ranks[at, i]) for at in part.index)])
        found.append((name + (f" ({better.pop()} is better)" if len(better) == 1 else ""), lines))
    return found


def _cell(mean: float, rank: float) -> str:
    return f"{mean:z.2f} ({rank:.0f})" if math.isfinite(mean) else UNDEFINED


def standing_table(verdict: Verdict, number: int) -> list[list[str]]:
    """Return of each method its mean rank among methods and controls, and how often it is significantly better and worse than another.

    Of the judgements that are not set aside.
    """
    judged = verdict.judged[number]
    chosen = verdict.of(number).place.unique()
    ranks = pd.DataFrame(judged.ranks[chosen], columns=judged.methods)
    total = len(chosen) * (len(judged.methods) - 1)
    better: Counter[str] = Counter()
    worse: Counter[str] = Counter()
    for one in standings(verdict, number):
        better.update({one.first: one.better, one.second: one.worse})
        worse.update({one.first: one.worse, one.second: one.better})
    lines = [["method", "mean rank", "better than another", "worse than another"]]
    for method in judged.methods:
        of = ranks[method]
        rank = f"{of.mean():.1f}" if of.notna().any() else UNDEFINED
        lines.append([display(method), rank, f"{better[method]} of {total}", f"{worse[method]} of {total}"])
    return lines


def pair_table(verdict: Verdict, number: int) -> list[list[str]]:
    """Return in how many judgements the row's method is significantly better, and worse, than the column's; empty for one method."""
    stands = {(one.first, one.second): f"{one.better} : {one.worse}" for one in standings(verdict, number)}
    stands |= {(one.second, one.first): f"{one.worse} : {one.better}" for one in standings(verdict, number)}
    methods = verdict.judged[number].methods
    lines = [[display(row), *(stands.get((row, column), "") for column in methods)] for row in methods]
    return [["better : worse", *map(display, methods)], *lines] if stands else []


def tau_table(judged: Judged) -> tuple[str, list[list[str]]]:
    """Return a heading and Kendall's tau between the protocol points, by the average drop in the first score; no lines for one point."""
    score = main_score(judged.run)
    table = judged.judgements
    at = list(table.index[(table.metric == "average_drop") & (table.score == score)])
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


def claim_table(verdict: Verdict) -> list[list[str]]:
    """Return how each pair of methods stands on each network; empty for one run or no pair in common."""
    found = claims(verdict)
    if not found:
        return []
    names = run_names([one.run for one in verdict.judged])
    lines = [["first against second", *names, "over all"]]
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
    pair = f"{display(claim.first)} {{}} {display(claim.second)}"
    better = [names[i] for i, one in claim.standings.items() if one.better and not one.worse]
    worse = [names[i] for i, one in claim.standings.items() if one.worse and not one.better]
    both = [names[i] for i, one in claim.standings.items() if one.better and one.worse]
    neither = [names[i] for i, one in claim.standings.items() if not one.better and not one.worse]
    if claim.kind == OPEN:
        return f"{display(claim.first)} and {display(claim.second)} cannot be told apart on any of {len(claim.standings)} networks."
    if claim.kind == ALWAYS:
        return f"{pair.format('is better than')} in some judgement and worse in none on all {len(better)} networks."
    parts = [f"is better than {display(claim.second)} and never worse on {and_list(better)}"] if better else []
    parts += [f"is worse than {display(claim.second)} and never better on {and_list(worse)}"] if worse else []
    parts += [f"turns against {display(claim.second)} within {and_list(both)}"] if both else []
    parts += [f"cannot be told from {display(claim.second)} on {and_list(neither)}"] if neither else []
    return f"{display(claim.first)} {'; it '.join(parts)}."
