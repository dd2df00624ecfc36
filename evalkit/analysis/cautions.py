"""Cautions of a run: sentences on what makes its numbers misleading, which stand before its tables."""

from collections.abc import Mapping
from typing import Any

from evalkit.analysis.load import Run, exclusions, in_words
from evalkit.analysis.top1 import FEWEST, near_guessing, outputs, random_weights
from evalkit.control_names import versions

CONSTANT_PERCENT = 20
"""Share of constant maps above which a method's numbers describe the choice among equal pixels."""
EXCLUDED_PERCENT = 10
"""Share of excluded images above which the rest need not stand for all."""
BY_DESIGN = "evalkit.methods.constant"
"""The method whose maps are meant to be constant."""


def cautions(run: Run) -> list[str]:
    """Return one sentence for each reason to mistrust the run's tables, the gravest first; empty for most runs."""
    counts = run.counts()
    found = [_weights(run), _outputs(run), _constant(run, counts), _top1(run, counts), _unfinished(run, counts), _excluded(run, counts)]
    few = counts["scored"]
    if few < FEWEST:
        images = "1 image is" if few == 1 else f"{few} images are"
        found.append(f"only {images} scored: with fewer than {FEWEST}, intervals and tests are unreliable.")
    return [f"Caution: {sentence}" for sentence in found if sentence]


def _weights(run: Run) -> str:
    if not random_weights(run):
        return ""
    if str(run.provenance["weights"]).startswith("random in part"):
        return f"the network's weights are {run.provenance['weights']}: its maps and drops say nothing about a trained one."
    return "the network has random weights: it has learnt nothing, so its maps and drops say nothing about a trained one."


def _outputs(run: Run) -> str:
    if outputs(run) != 1:
        return ""
    return "the network has one output, which is explained whatever the image shows: a top-1 would be 100 % by definition."


def _constant(run: Run, counts: Mapping[str, Any]) -> str:
    settings = run.provenance["identity"]["method"]
    shares = {
        method: (number, counts["maps_of"][method])
        for method, number in counts["degenerate"].items()
        if method != "constant" and _target(settings.get(method)) != BY_DESIGN and method not in versions(settings)
    }
    said = [
        f"{_percent(number, of)} of {method}'s maps are constant ({number} of {of})"
        for method, (number, of) in shares.items()
        if 100 * number > CONSTANT_PERCENT * of
    ]
    if not said:
        return ""
    drop, explanation = ("its drop compares", "an explanation") if len(said) == 1 else ("their drops compare", "explanations")
    return f"{', '.join(said)}: {drop} the threshold's choice among equal pixels, not {explanation}."


def _target(settings: Any) -> Any:
    return settings.get("_target_") if isinstance(settings, Mapping) else None


def _top1(run: Run, counts: Mapping[str, Any]) -> str:
    classes = outputs(run) or 0
    if run.raw or random_weights(run) or run.provenance["identity"]["images"] != "all" or not counts["labelled"]:
        return ""
    if not near_guessing(counts["correct"], counts["labelled"], classes):
        return ""
    return (
        f"the top-1 of {counts['top1_percent']:.2f} % on {counts['labelled']} images is near the {_percent(1, classes)} of guessing among "
        f"{classes} classes: check the weights, the preprocessing and the order of model.classes."
    )


def _unfinished(run: Run, counts: Mapping[str, Any]) -> str:
    if not run.provenance["missing_shards"]:
        return ""
    done = min(part.images for part in run.table.parts) + counts["left_out"]
    return f"the run is not finished: {done} of its {run.provenance['images']} images are in finished shards, and the numbers will change."


def _excluded(run: Run, counts: Mapping[str, Any]) -> str:
    reasons = exclusions(run)
    excluded = sum(reasons.values())
    total = counts["scored"] + excluded
    if 100 * excluded <= EXCLUDED_PERCENT * total:
        return ""
    return f"{excluded} of {total} images ({_percent(excluded, total)}) are excluded, {in_words(reasons)}: the numbers are of the others."


def _percent(number: int, of: int) -> str:
    return f"{100 * number / of:.3g} %"
