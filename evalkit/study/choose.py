"""Choice of the images that a study shows, as in the paper, from the rows of finished runs."""

from collections.abc import Callable, Sequence

import pandas as pd
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from evalkit.analysis.load import ITEM, Run
from evalkit.errors import UserError

COLUMNS = ["index", "image_id", "label", "predicted", "target", "target_name"]


def best_classes(judges: Sequence[Run], number: int, of: Run) -> "pd.Series[float]":
    """Return the classes with the highest F1 of the judges' predictions (section 6.3), as outputs of the run `of`, best first.

    Of several judges the lowest F1 of a class counts, so that each of the networks performs well on it, and their order does
    not matter. Ties go to the higher mean, then by class index, or by name where the networks number their classes
    differently. Raises UserError as `f1_scores` does.
    """
    numbered = [_counterparts(judge, of) for judge in judges]
    scores = [f1_scores(judge).rename(index=own).loc[lambda f1: f1.index.notna()] for judge, own in zip(judges, numbered, strict=True)]
    table = pd.concat([one.groupby(level=0).max() for one in scores], axis=1, join="inner")
    names = of.provenance["class_names"] if any(own is not None for own in numbered) else None
    ties = [index if names is None else names[int(index)] for index in table.index]
    order = pd.DataFrame({"worst": -table.min(axis=1), "mean": -table.mean(axis=1), "tie": ties}, table.index)
    found = order.sort_values(["worst", "mean", "tie"]).head(number)
    return pd.Series(-found.worst, found.index.astype(int))


def f1_scores(run: Run) -> "pd.Series[float]":
    """Return the F1 of the run's predictions for each class among its labels, by output.

    Raises UserError if the run has no labels, or left out the images that the network gets wrong.
    """
    if run.raw:
        raise UserError(f"{run.path} has no classes (model.output=raw), and this study needs classes, of which the best are shown")
    if run.provenance["identity"]["images"] == "correct":
        raise UserError(f"{run.path} left out what the network gets wrong, so its classes have no F1 score: run it with images=all")
    read = run.table.items[run.table.items.label.notna() & run.table.items.predicted.notna()]
    if read.empty:
        raise UserError(f"no image of {run.path} has a label among the model's classes, so no class has an F1 score")
    images = read.astype({"label": int, "predicted": int}).groupby("index")
    labels, predicted = images.label.agg(set), images.predicted.agg(set)
    columns = MultiLabelBinarizer(sparse_output=True).fit([*labels, *predicted])  # an image may have several labels
    score = f1_score(columns.transform(labels), columns.transform(predicted), average=None, zero_division=0)
    scores: pd.Series[float] = pd.Series(score, columns.classes_)
    return scores[scores.index.isin(set.union(*labels))]


def _counterparts(run: Run, of: Run) -> Callable[[int], float] | None:
    """Return the function from outputs of a run to those of another by the classes' names (nan: it has none); None if they are the same."""
    own, others = (one.provenance.get("class_names") for one in (run, of))
    if not own or not others or own == others:
        return None
    place = {name: float(i) for i, name in enumerate(others)}
    return lambda output: place.get(own[output], float("nan"))


def better(run: Run, judges: Sequence[Run], classes: int, number: int | None, seed: int) -> tuple[pd.DataFrame, int]:
    """Return images of the best classes (section 6.3), and how many of these are left out.

    The paper shows all images of a class with maps of this class. A run with target=label has them; of a run with another
    target, images whose map explains another class than their label are left out: raters cannot judge maps of a class that
    the image does not show.
    """
    items = items_of(run)
    items = items[items.label.isin(best_classes(judges, classes, run).index)]
    chosen = items[items.target == items.label]
    return _per_class(chosen, number, seed), len(items) - len(chosen)


def trust(runs: tuple[Run, Run], judges: Sequence[Run], classes: int, number: int | None, seed: int) -> tuple[pd.DataFrame, int]:
    """Return images of the best classes that both networks get right (section 6.4), and how many are left out.

    `second_target` is the output of the second network for the same class. Raises UserError if the runs saw different
    images.
    """
    first, second = runs
    prints = [run.provenance["identity"]["data"]["fingerprint"] for run in runs]
    if prints[0] != prints[1]:
        raise UserError(f"{first.path} and {second.path} saw different images (their data fingerprints differ)")
    best = best_classes(judges, classes, first).index
    items = items_of(first)
    items = items[items.label.isin(best)].drop_duplicates("index")
    other = _right(second)[["image_id", "target", "target_name"]].rename(columns=lambda name: name.replace("target", "second_target"))
    both = _right(first).merge(other, on="image_id")
    both = both[both.target.isin(best)].sort_values(["index", "target_name"])
    same = (both.target == both.second_target) | (both.target_name == both.second_target_name)  # the same label, if an image has several
    return _per_class(both[same], number, seed), len(items) - int(same.sum())


def which(run: Run, number: int | None, seed: int, labels: Callable[[int], int]) -> tuple[pd.DataFrame, int]:
    """Return both classes of images with exactly two labelled categories (section 6.5), and the number of other images.

    `labels` returns the number of labelled categories, with or without an output of the model, at a position of the data
    set.
    """
    items = items_of(run)
    two = items[items.groupby("index")["target"].transform("size") == 2]
    chosen = [index for index in two["index"].unique() if labels(index) == 2]
    drawn = pd.Series(chosen, dtype=int).sample(n=min(number or len(chosen), len(chosen)), random_state=seed)
    return two[two["index"].isin(drawn)], items["index"].nunique() - len(chosen)


def items_of(run: Run) -> pd.DataFrame:
    """Return `COLUMNS` of the images and explained classes that every method of a run could be scored on."""
    return run.scored.drop_duplicates(ITEM)[COLUMNS].sort_values(ITEM).astype({"target": int})


def _right(run: Run) -> pd.DataFrame:
    items = items_of(run)
    return items[(items.label == items.predicted) & (items.target == items.label)]


def _per_class(items: pd.DataFrame, number: int | None, seed: int) -> pd.DataFrame:
    if number is None:
        return items
    return items.sample(frac=1, random_state=seed).groupby("target").head(number).sort_values(ITEM)
