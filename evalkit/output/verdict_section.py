"""The verdict as the first section of the report."""

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from evalkit.analysis.judgements import contenders
from evalkit.analysis.summary import main_score
from evalkit.analysis.verdict import TURNS, Verdict, standings
from evalkit.output.tables import scored_of, stopped, title
from evalkit.output.verdict_headline import headline
from evalkit.output.verdict_markdown import PAIRS, RANKS, TAU, WIN, split
from evalkit.output.verdict_plots import CAPTIONS, verdict_figures
from evalkit.output.verdict_rule import glossary, rule
from evalkit.output.verdict_tables import (
    aside_table,
    claim_sentences,
    claim_table,
    over,
    pair_table,
    rank_tables,
    standing_table,
    tau_table,
)
from evalkit.output.verdict_words import agreement_lines, pair_sentence, srg_sentence, turn_sentence


def verdict_section(verdict: Verdict, address: Callable[[Figure], object]) -> dict[str, Any]:
    """Return what the page verdict.html shows, its figures through `address`, which makes them data URIs once the page is written."""
    return {
        "claims": claim_sentences(verdict),
        "claim_table": claim_table(verdict),
        "over": over([one.run for one in verdict.judged]),
        "runs": [_of_run(verdict, number, address) for number in range(len(verdict.judged))],
        "pairs": PAIRS,
        "tau": TAU,
        "ranks": f"{RANKS} {WIN}",
    }


def _of_run(verdict: Verdict, number: int, address: Callable[[Figure], object]) -> dict[str, Any]:
    judged = verdict.judged[number]
    stands, methods = standings(verdict, number), contenders(judged.methods)
    return {
        "title": title(judged.run),
        "scored": f"{scored_of(judged.run)}.",
        "words": [*rule(verdict, number), *glossary(verdict, number)],
        "stopped": stopped(judged.run),
        "headline": headline(verdict, number),
        "aside": aside_table(judged),
        "groups": {
            heading: [pair_sentence(one, main_score(judged.run)) for one in chosen]
            for heading, chosen in split(stands, methods).items()
            if chosen
        },
        "turns": [turn_sentence(one) for one in stands if one.kind == TURNS and {one.first, one.second} <= set(methods)],
        "pairs": pair_table(verdict, number),
        "standing": standing_table(verdict, number) if stands else [],
        "agreement": agreement_lines(verdict.agreements[number]),
        "srg": srg_sentence(verdict.agreements[number]),
        "points": tau_table(judged),
        "ranks": rank_tables(judged),
        "figures": [{"name": CAPTIONS[name], "address": address(figure)} for name, figure in verdict_figures(judged)],
    }
