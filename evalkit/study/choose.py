"""Choice of the images that a study shows, as in the paper, from the rows of finished runs."""

from collections.abc import Callable

import pandas as pd
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from evalkit.analysis.load import ITEM, Run
from evalkit.errors import UserError

COLUMNS = ["index", "image_id", "label", "predicted", "target", "target_name"]


def best_classes(run: Run, number: int) -> "pd.Series[float]":
    """Return the classes with the highest F1 of the run's predictions (section 6.3), best first; ties by class index.

    Raises UserError if the run has no labels, or left out the images that the network gets wrong.
    """
    if run.raw:
        raise UserError(f"{run.path} has no classes (model.output=raw), and this study needs classes, of which the best are shown")
    if run.provenance["identity"]["images"] == "correct":
        raise UserError(f"{run.path} left out what the network gets wrong, so its classes have no F1 score: run it with images=all")
    read = run.rows[run.rows.label.notna() & run.rows.predicted.notna()].drop_duplicates(ITEM)
    if read.empty:
        raise UserError(f"no image of {run.path} has a label among the model's classes, so no class has an F1 score")
    images = read.astype({"label": int, "predicted": int}).groupby("index")
    labels, predicted = images.label.agg(set), images.predicted.agg(set)
    columns = MultiLabelBinarizer(sparse_output=True).fit([*labels, *predicted])  # an image may have several labels
    score = f1_score(columns.transform(labels), columns.transform(predicted), average=None, zero_division=0)
    scores: pd.Series[float] = pd.Series(score, columns.classes_)
    return scores[scores.index.isin(set.union(*labels))].nlargest(number)


def better(run: Run, classes: int, number: int | None, seed: int) -> tuple[pd.DataFrame, int]:
    """Return images of the best classes (section 6.3), and how many of these are left out.

    Images whose map explains another class than their label are left out: raters cannot judge maps of a class that the
    image does not show.
    """
    items = items_of(run)
    items = items[items.label.isin(best_classes(run, classes).index)]
    chosen = items[items.target == items.label]
    return _per_class(chosen, number, seed), len(items) - len(chosen)


def trust(runs: tuple[Run, Run], classes: int, number: int | None, seed: int) -> tuple[pd.DataFrame, int]:
    """Return images of the first run's best classes that both networks get right (section 6.4), and how many are left out.

    `second_target` is the output of the second network for the same class. Raises UserError if the runs saw different
    images.
    """
    first, second = runs
    prints = [run.provenance["identity"]["data"]["fingerprint"] for run in runs]
    if prints[0] != prints[1]:
        raise UserError(f"{first.path} and {second.path} saw different images (their data fingerprints differ)")
    items = items_of(first)
    items = items[items.label.isin(best_classes(first, classes).index)].drop_duplicates("index")
    other = _right(second)[["image_id", "target", "target_name"]].rename(columns=lambda name: name.replace("target", "second_target"))
    both = _right(first).merge(other, on="image_id")
    both = both[both["index"].isin(items["index"])]
    same = (both.target == both.second_target) | (both.target_name == both.second_target_name)  # the same label, if an image has several
    return _per_class(both[same], number, seed), len(items) - int(same.sum())


def which(run: Run, number: int | None, seed: int, labels: Callable[[int], int]) -> tuple[pd.DataFrame, int]:
    """Return both classes of images with exactly two labelled categories (section 6.5), and the number of other images.

    `labels` returns the number of labelled categories, with or without an output of the model, at a position of the data
    set. Raises UserError if the run did not explain labels.
    """
    target = run.provenance["identity"]["target"]
    if target != "label":
        raise UserError(f"{run.path} explained target={target}; `which` asks about both categories of an image: run it with target=label")
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
