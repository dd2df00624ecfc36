"""A verification in words, and as JSON for a badge."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from evalkit.errors import printable, shards_in_words
from evalkit.verify.outcome import Outcome
from evalkit.verify.sample import MISSED, surely_found
from evalkit.verify.tolerances import COARSER, NEAR_TIE, TOLERANCES, tolerance

FIRST = 5
"""How many differences of a kind are printed."""


def headline(outcome: Outcome) -> str:
    """Return the verdict in one line."""
    word, compared = "verified" if outcome.verified else "NOT verified", outcome.comparison
    return (
        f"{word}: {outcome.recomputed:,} of {outcome.sample.images:,} images ({_share(outcome)}) recomputed, "
        f"{compared.differing_rows:,} of {_counted(compared.rows, 'row')} of scores and {_counted(compared.maps, 'map')} "
        f"{_differ(compared.differing_rows)} beyond the tolerances; "
        f"{_structure(outcome)}"
    )


def _differ(number: int) -> str:
    return "differs" if number == 1 else "differ"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what if number == 1 else ' or '.join(f'{each}s' for each in what.split(' or '))}"


def _share(outcome: Outcome) -> str:
    return f"{100 * outcome.recomputed / outcome.sample.images:.2g} %" if outcome.recomputed < outcome.sample.images else "all"


def _structure(outcome: Outcome) -> str:
    checked = outcome.shards - len(outcome.missing)
    problems = len(outcome.problems) + len(outcome.foreign)
    found = _counted(problems, "problem") if problems else "nothing wrong"
    return f"the structure of {checked:,} of {_counted(outcome.shards, 'shard')} checked, {found}"


def details(outcome: Outcome) -> list[str]:
    """Return what differs and where, how far, and what the check cannot say, line by line."""
    return [printable(line) for line in _details(outcome)]


def _details(outcome: Outcome) -> Iterator[str]:
    compared = outcome.comparison
    for difference in outcome.record:
        yield f"differs in {difference}"
    if outcome.missing:
        yield f"{shards_in_words(len(outcome.missing))} unfinished, damaged or of another run: {_numbers(outcome.missing)}"
    if outcome.foreign:
        files = ", ".join(outcome.foreign[:FIRST]) + (", ..." if len(outcome.foreign) > FIRST else "")
        yield f"{_counted(len(outcome.foreign), 'file')} of none of the run's shards, which other programs may read as its own: {files}"
    yield from _first(outcome.problems)
    if compared.differing_rows:
        rows, images = compared.differing_rows, len(compared.differing_images)
        yield f"{_counted(rows, 'row or map')} of {_counted(images, 'image')} {_differ(rows)}:"
        yield from (f"  {difference}" for difference in compared.differences[:FIRST])
    if compared.largest:
        yield "largest deviation by column, as a share of its tolerance:"
        yield from (f"  {line}" for line in _largest(outcome))
    if compared.near_ties:
        yield from _ties(outcome)
    yield from _turned(outcome)
    if outcome.differs_in_code:
        yield "evalkit's code is another version here, so a difference may also be a correction: CHANGELOG.md says what was corrected"
    for line in outcome.circumstances:
        yield f"allowed to differ: {line}"
    yield from _limits(outcome)


def _first(found: list[Any]) -> Iterator[str]:
    yield from map(str, found[:FIRST])
    if len(found) > FIRST:
        yield f"and {len(found) - FIRST:,} more problems of the structure"


def _numbers(shards: list[int]) -> str:
    return ", ".join(map(str, shards[:FIRST])) + (", ..." if len(shards) > FIRST else "")


def _largest(outcome: Outcome) -> Iterator[str]:
    factor = COARSER[outcome.comparison.precision]
    for column, largest in outcome.comparison.largest.items():
        allowed = tolerance(column)
        parts = [f"{factor * allowed.absolute:g}"] if allowed.absolute else []
        parts += [f"{factor * allowed.relative:g} of {_scale(column)}"] if allowed.relative else []
        yield f"{column}: {largest:.2g}, {100 * outcome.comparison.shares[column]:.2g} % of {' + '.join(parts)}"


def _scale(column: str) -> str:
    if column in ("minimum", "maximum", "map"):
        return "the map's largest value"
    return "the image's logit" if column.startswith("logit") else "the value"


def _ties(outcome: Outcome) -> Iterator[str]:
    compared = outcome.comparison
    gap = NEAR_TIE * COARSER[compared.precision]
    text = f"{compared.near_ties:,} of {compared.rows:,} rows of scores have a rank_gap below {gap:g}, where rounding may swap pixels; "
    by = ", ".join(f"{column} by up to {value:.2g}" for column, value in compared.largest_swapped.items())
    yield text + (
        f"{compared.swapped:,} of them {_differ(compared.swapped)} as swaps explain ({by})" if compared.swapped else "none was swapped"
    )


def _turned(outcome: Outcome) -> Iterator[str]:
    leanings = outcome.comparison.leanings
    if leanings.comparisons:
        come = "comes" if leanings.comparisons == 1 else "come"
        counted = _counted(leanings.comparisons, "comparison")
        yield f"{counted} of nearly equal scores (Y < O, or of two methods) {come} out otherwise, each within rounding"
    for method, (more, less) in leanings.one_sided().items():
        yield f"differs: they come out for {method} in {_counted(more, 'image')} and against it in {less:,}, and rounding has no side"


def _limits(outcome: Outcome) -> Iterator[str]:
    sample, n, images = outcome.sample, outcome.recomputed, outcome.sample.images
    if sample.seed is None:
        yield f"the shards {_numbers(list(sample.shards))} were named, not drawn: of the scores of other images this says nothing"
    elif n < images:
        least = surely_found(images, n)
        yield (
            f"drawn with --seed {sample.seed}; of {images:,} images, fewer than {least:,} with altered scores would have been missed "
            f"with a probability above {100 * MISSED:g} %, and {least:,} or more with at most that"
        )
    else:
        yield "every image was recomputed"
    yield from (f"not checked: {what}" for what in outcome.unstructured)
    yield (
        "no such check can say whether images or settings were chosen because they suit a method, whether this run is the best of several, "
        "or whether the weights are what their name says; seconds and hardware are the record's word"
    )


def to_json(outcome: Outcome, here: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Return the outcome as JSON: for a badge that is void as soon as `rows_digest` or `identity_hash` are not those of the run."""
    compared, sample = outcome.comparison, outcome.sample
    return {
        "verified": outcome.verified,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "evalkit": version,
        "code": here["code"],
        "machine": {"torch": here["torch"], "device": here["device"], "python": here["python"], **here["hardware"]},
        "identity_hash": outcome.identity_hash,
        "rows_digest": outcome.rows_digest,
        "sample": {
            "images": sample.images,
            "recomputed": outcome.recomputed,
            "fraction": outcome.recomputed / sample.images,
            "drawn": sample.seed is not None,
            "seed": sample.seed,
            "shards": list(sample.shards),
            "surely_found_from": surely_found(sample.images, outcome.recomputed) if sample.seed is not None else None,
            "missed_probability": MISSED,
        },
        "rows_compared": compared.rows,
        "maps_compared": compared.maps,
        "rows_differing": compared.differing_rows,
        "images_differing": len(compared.differing_images),
        "near_ties": compared.near_ties,
        "near_ties_differing": compared.swapped,
        "comparisons_turned": compared.leanings.comparisons,
        "one_sided": compared.leanings.one_sided(),
        "largest_deviations": compared.largest,
        "largest_deviations_at_near_ties": compared.largest_swapped,
        "tolerances": {column: tolerance(column)._asdict() for column in {**TOLERANCES, **compared.largest}},
        "precision": compared.precision,
        "record": [{"kind": each.kind, "text": each.text} for each in outcome.record],
        "structure": {
            "shards": outcome.shards,
            "missing": outcome.missing,
            "foreign": outcome.foreign,
            "problems": [str(each) for each in outcome.problems],
        },
        "differences": [vars(each) for each in compared.differences],
        "allowed_to_differ": outcome.circumstances,
    }
