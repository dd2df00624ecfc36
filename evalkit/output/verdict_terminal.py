"""The verdict on one screen."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evalkit.analysis.judgements import contenders
from evalkit.analysis.summary import main_score
from evalkit.analysis.verdict import ALWAYS, EQUAL, LEADS, OPEN, TURNS, Verdict, standings
from evalkit.output.fitted import fitted
from evalkit.output.tables import scored_of, title, warnings_of
from evalkit.output.verdict_headline import headline
from evalkit.output.verdict_markdown import split
from evalkit.output.verdict_rule import rule
from evalkit.output.verdict_tables import claim_sentences, over, standing_table
from evalkit.output.verdict_words import agreement_lines, pair_sentence, srg_sentence

MOST_PAIRS = 5
"""Largest number of pairs whose sentences are printed; all are in verdict.md."""


def print_verdict(console: Console, verdict: Verdict) -> None:
    """Print who is better than whom in sentences, whether the rankings agree, and what the words mean."""
    if len(verdict.judged) > 1:
        sentences = claim_sentences(verdict)
        _heading(console, f"Over {over([one.run for one in verdict.judged])}")
        _list(console, sentences[:MOST_PAIRS], len(sentences), "pairs")
    for number in range(len(verdict.judged)):
        _print_run(console, verdict, number)


def _print_run(console: Console, verdict: Verdict, number: int) -> None:
    judged = verdict.judged[number]
    _heading(console, f"Verdict on {title(judged.run)}")
    for sentence in warnings_of(judged.run):
        console.print(sentence, style="bold", markup=False, highlight=False)
    for line in (f"{scored_of(judged.run)}.", *rule(verdict, number)):
        console.print(line, style="dim", markup=False, highlight=False)
    console.print()
    _list(console, headline(verdict, number))
    stands = standings(verdict, number)
    if not stands:
        return
    groups = split(stands, contenders(judged.methods))
    among = next(group for group in groups.values() if group)
    among = sorted(among, key=lambda one: [ALWAYS, LEADS, TURNS, OPEN, EQUAL].index(one.kind))
    console.print()
    _list(console, [pair_sentence(one, main_score(judged.run)) for one in among[:MOST_PAIRS]], len(among), "pairs")
    console.print()
    console.print(fitted(console, standing_table(verdict, number)))
    agreed = agreement_lines(verdict.agreements[number])
    if agreed:
        _heading(console, "Do the rankings agree? Kendall's tau, 1 alike, 0 unrelated, -1 reversed, and its 95 % interval")
        console.print(fitted(console, agreed))
        _list(console, srg_sentence(verdict.agreements[number]))


def _heading(console: Console, text: str) -> None:
    console.print(f"\n{text}", style="bold", markup=False, highlight=False)


def _list(console: Console, sentences: list[str], of: int = 0, what: str = "") -> None:
    for sentence in sentences:
        table = Table.grid(padding=(0, 1))
        table.add_row("-", escape(sentence))
        console.print(table)
    if of > len(sentences):
        console.print(f"  ... and {of - len(sentences)} more {what} in verdict.md", highlight=False)
