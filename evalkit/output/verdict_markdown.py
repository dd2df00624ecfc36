"""The verdict in Markdown: verdict.md."""

from collections.abc import Mapping, Sequence

from evalkit.analysis.judgements import LOCALISATION, MAP, contenders
from evalkit.analysis.summary import main_score
from evalkit.analysis.verdict import TURNS, Standing, Verdict, standings
from evalkit.output.markdown import inert, pipes
from evalkit.output.tables import caption, scored_of, title, warnings_of
from evalkit.output.verdict_headline import headline
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

RANKS = "Means, and in brackets ranks among methods and controls, 1 the best; equal ones share the better rank."
PAIRS = "In how many judgements the row's method is significantly better : worse than the column's:"
WIN = (
    "Win: the share of images, in percent, on which the method loses less score than another one, minus the share on which it loses more, "
    "averaged over the others, controls among them."
)
TAU = (
    "Kendall's tau is 1 where two judgements rank the methods alike, -1 where in opposite order, 0 where as often one way as the other; "
    "here its mean over all pairs of judgements that differ in one thing only, with 95 % intervals over images (2.5 and 97.5 % of the "
    "values on 2,000 resamples, the same for all, widened to tau itself). Noise lowers tau: with more images it would rather be larger. "
    "Judgements that are set aside are left out, and from the first column the controls."
)
OTHER = {
    LOCALISATION: "Another question: where is the object?",
    MAP: "Not a question of faithfulness: what the maps look like, and how stable they are",
}
OTHERS = "These do not count above: they ask something else. Their p values are corrected as a family of their own."


Figures = Mapping[int, Sequence[tuple[str, str]]]
"""Captions and addresses of each run's figures, by its number."""


def verdict_markdown(verdict: Verdict, figures: Figures | None = None) -> str:
    """Return the verdict on all runs: over them, then for each, in words first."""
    parts = ["# Verdict"]
    claims = claim_table(verdict)
    if claims:
        parts += [f"## Over {over([one.run for one in verdict.judged])}", inert(bullets(claim_sentences(verdict)))]
        parts += ["In how many judgements the first method is significantly better and worse than the second:", inert(pipes(claims))]
    for number in range(len(verdict.judged)):
        parts += _of_run(verdict, number)
        shown = (figures or {}).get(number, ())
        parts += ["### Figures"] * bool(shown) + [f"{caption}:\n\n![{caption}]({address})" for caption, address in shown]
    return "\n\n".join(parts) + "\n"


def _of_run(verdict: Verdict, number: int) -> list[str]:
    judged = verdict.judged[number]
    score = main_score(judged.run)
    parts = [f"## {title(judged.run)}", *(f"> **{sentence}**" for sentence in warnings_of(judged.run))]
    parts += [f"{scored_of(judged.run)}.", bullets(headline(verdict, number))]
    parts += ["### What the words mean", bullets([*rule(verdict, number), *glossary(verdict, number)])]
    aside = aside_table(judged)
    if aside:
        parts += ["### What is set aside", "In `verdict.csv` they are, in the column `aside`.", pipes(aside)]
    stands = standings(verdict, number)
    methods = contenders(judged.methods)
    if stands:
        parts += ["### Every pair", PAIRS, pipes(pair_table(verdict, number))]
    for heading, chosen in split(stands, methods).items():
        if chosen:
            parts += [f"### {heading}", bullets([pair_sentence(one, score) for one in chosen])]
    turning = [one for one in stands if one.kind == TURNS and {one.first, one.second} <= set(methods)]
    if turning:
        parts += ["### Where pairs turn", bullets([turn_sentence(one) for one in turning])]
    agreed = agreement_lines(verdict.agreements[number])
    if agreed:
        parts += ["### Do the rankings agree?", TAU, pipes(agreed), *srg_sentence(verdict.agreements[number])]
        heading, lines = tau_table(judged)
        if lines:
            parts += [f"{heading}:", pipes(lines)]
    parts += ["### Ranks", f"{RANKS} {WIN}"]
    if stands:
        parts += [
            "Over the judgements that are not set aside, controls among the ranks, and how often each is significantly better and worse:"
        ]
        parts += [pipes(standing_table(verdict, number))]
    for name, lines in rank_tables(judged):
        parts += [f"{name[0].upper()}{name[1:]}:", pipes(lines)]
    for question, heading in OTHER.items():
        tables = rank_tables(judged, question)
        if tables:
            parts += [f"### {heading}", OTHERS, *(f"{name[0].upper()}{name[1:]}:\n\n{pipes(lines)}" for name, lines in tables)]
    return [inert(part) for part in [*parts, "### How it was measured", bullets(caption(judged.run))]]


def split(stands: Sequence[Standing], methods: Sequence[str]) -> dict[str, list[Standing]]:
    """Return the pairs of methods, those of a method and a control, and those of controls, by headings."""
    number = {"Method against method": 2, "Method against control": 1, "Control against control": 0}
    return {name: [one for one in stands if (one.first in methods) + (one.second in methods) == of] for name, of in number.items()}


def bullets(sentences: Sequence[str]) -> str:
    """Return sentences as a Markdown list."""
    return "\n".join(f"- {sentence}" for sentence in sentences)
