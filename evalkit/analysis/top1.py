"""The top-1 accuracy of a run: the value that was published for its weights, and the one that guessing would reach."""

from scipy import stats

from evalkit.analysis.load import Run
from evalkit.files import WEIGHTS_SUFFIXES
from evalkit.weights_origin import are_random

PUBLISHED_ON = {
    "ImageNet val": ("imagenet", 50_000),
    "797 evaluation images": ("digits", 797),
    "398 evaluation images": ("two_digits", 398),
    "797 planted canvases": ("planted", 797),
}
"""The name and the number of images of the data set that the end of an `expected_top1_source` names."""
FEWEST = 30
"""Smallest number of labelled images, and of scored ones, from which a share and its interval say something."""


def expected_top1(run: Run) -> float | None:
    """Return the published top-1 in percent of the run's weights; None unless the run covers the data set that it was measured on.

    A value whose source names no known data set is the user's own, and holds for every whole run.
    """
    facts, identity = run.provenance, run.provenance["identity"]
    value, source = facts.get("expected_top1"), str(facts.get("expected_top1_source"))
    part = (
        identity.get("sample") or identity.get("limit") or identity.get("until") or facts["missing_shards"] or identity["images"] != "all"
    )
    if value is None or part:
        return None
    known = next((data for end, data in PUBLISHED_ON.items() if source.endswith(end)), None)
    if known is not None:
        weights = str(facts["weights"])
        own = random_weights(run) or (weights.lower().endswith(WEIGHTS_SUFFIXES) and not weights.startswith("embedded:"))
        if own or (identity["data"]["name"], facts["images"]) != known:
            return None
    return float(value)


def random_weights(run: Run) -> bool:
    """Return whether the network's weights are random, all or some."""
    return are_random(str(run.provenance["weights"]))


def outputs(run: Run) -> int | None:
    """Return the network's number of outputs; None where the run's record lacks its classes."""
    return len(run.provenance.get("class_names") or []) or None


def near_guessing(correct: int, labelled: int, classes: int) -> bool:
    """Return whether a top-1 of `correct` of `labelled` images is near that of guessing among `classes`.

    Its exact 95 % interval reaches down to 1/classes, or stays below twice the odds of guessing, which is 2 / (classes + 1): about
    twice 1/classes, and two thirds for two classes. False for fewer than `FEWEST` images, which would not tell them apart.
    """
    if labelled < FEWEST or classes < 2:
        return False
    interval = stats.binomtest(correct, labelled).proportion_ci(0.95)
    return bool(interval.low <= 1 / classes or interval.high < 2 / (classes + 1))
