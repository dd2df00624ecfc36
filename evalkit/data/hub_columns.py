"""The choice of the columns of a Hugging Face data set that hold the pictures and the labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Features, LargeList, List, Value
from datasets import Image as ImageFeature

from evalkit.data.listing import is_image
from evalkit.errors import UserError, did_you_mean

_PICTURES, _LABELS = ("image", "images", "img", "picture"), ("label", "labels")
"""Usual names, which decide between several columns of one type."""

_ENCODED = ("binary", "large_binary", "string", "large_string")
"""Types of a plain column that can be cast to pictures: bytes, or paths of files."""

_NO_LABELS = ("binary", "large_binary", "float16", "float32", "float64")
"""Types of a plain column that is not proposed for labels."""


@dataclass(frozen=True)
class Columns:
    """The columns that are read, and what is to be said about the choice."""

    image: str
    label: str | None
    facts: str
    """Which columns are read."""
    doubt: str = ""
    """A warning where another column might be meant."""
    no_labels: str = ""
    """Why no column is read for labels, and what to set."""


def choose_columns(data: Any, path: str, image: str | None, label: str | None) -> Columns:
    """Return the columns to read: the given ones, else the only one of type Image, and the one of type ClassLabel.

    Between several columns of type Image, the one called image, img or picture is taken.

    Raises UserError: no such column, a column of another type, or several columns of pictures.
    """
    features = data.features or Features()
    for column in (image, label):
        if column is not None and column not in features:
            raise UserError(f"no column '{column}' in {path}{did_you_mean(column, features)}")
    image = _image(data, features, path, image)
    if label is not None:
        if label == image or not _holds_labels(features[label]):
            proposed = _proposed(features, image)
            raise UserError(
                f"column '{label}' of {path} holds no labels (data.label_column), which are a class, or a list of classes, in each row"
                + (f"; set it to {_one_of(proposed)}" if proposed else "")
            )
        return Columns(image, label, f"pictures from column '{image}', labels from '{label}'")
    named = [key for key, kind in features.items() if isinstance(element(kind), ClassLabel)]
    if not named:
        proposed = _proposed(features, image)
        why = f"; {path} has no column of type ClassLabel"
        if proposed:
            others = f" (or another of {', '.join(proposed)})" if len(proposed) > 1 else ""
            why += f", so name the column with names or indices of classes, as in data.label_column={proposed[0]}{others}"
        return Columns(image, None, f"pictures from column '{image}', no labels", no_labels=why)
    usual = [key for key in named if key.lower() in _LABELS]
    label = usual[0] if len(usual) == 1 else named[0]
    doubt = ""
    if len(named) > 1 and len(usual) != 1:
        others = ", ".join(f"data.label_column={key}" for key in named if key != label)
        doubt = f"{path} has {len(named)} columns of labels, and '{label}', the first, is read: set data.label_column={label}, or {others}"
    return Columns(image, label, f"pictures from column '{image}', labels from '{label}'", doubt)


def element(kind: Any) -> Any:
    """Return the type of a column's values, or of their elements where they are lists."""
    return kind.feature if isinstance(kind, List | LargeList) else kind


def _image(data: Any, features: Features, path: str, given: str | None) -> str:
    """Return the column with the pictures."""
    found = [key for key, kind in features.items() if isinstance(kind, ImageFeature)]
    usual = [key for key in found if key.lower() in _PICTURES]
    if given is None and len(found) != 1 and len(usual) != 1:
        if found:
            raise UserError(f"{path} has {len(found)} columns of pictures: set data.image_column to {_one_of(found)}")
        raise UserError(f"no image column in {path}{_instead(data, features)}")
    column = given or (usual if len(usual) == 1 else found)[0]
    if not _castable(features[column]):
        instead = f"; set it to {_one_of(found)}" if found else _instead(data, features)
        raise UserError(f"column '{column}' of {path} holds no pictures (data.image_column){instead}")
    return column


def _castable(kind: Any) -> bool:
    """Return whether a column of this type may hold one picture a row."""
    if isinstance(kind, dict):
        return bool({"bytes", "path"} & set(kind))
    return kind.dtype in _ENCODED if isinstance(kind, Value) else not isinstance(kind, ClassLabel | List | LargeList)


def _instead(data: Any, features: Features) -> str:
    """Return the columns that can be read as pictures although their type is not Image, judged by the first row, or what is needed."""
    plain = [key for key, kind in features.items() if isinstance(kind, Value | dict) and _castable(kind)]
    row: dict[str, Any] = next(iter(data.select_columns(plain)), {}) if plain else {}
    fit = [key for key in plain if _is_picture(row.get(key))]
    if fit:
        return f": set data.image_column to {_one_of(fit)}"
    lists = [key for key, kind in features.items() if isinstance(element(kind), ImageFeature)]
    split = f" ('{lists[0]}' holds lists of pictures, which need a row for each picture)" if lists else ""
    return (
        f": save it with a column that holds one picture in each row, of type Image, encoded bytes or paths of image files{split}; "
        f"its columns are {', '.join(features) or 'unknown'}"
    )


def _is_picture(value: Any) -> bool:
    return isinstance(value, bytes | dict) or (isinstance(value, str) and is_image(value))


def _holds_labels(kind: Any) -> bool:
    return isinstance(element(kind), ClassLabel | Value)


def _proposed(features: Features, image: str) -> list[str]:
    """Return the columns that may hold labels, those first whose names say so."""
    kinds = {key: element(kind) for key, kind in features.items() if key != image}
    fit = [key for key, kind in kinds.items() if isinstance(kind, ClassLabel) or (isinstance(kind, Value) and kind.dtype not in _NO_LABELS)]
    return sorted(fit, key=lambda key: not any(part in key.lower() for part in ("label", "class", "categor", "target")))


def _one_of(columns: Sequence[str]) -> str:
    return columns[0] if len(columns) == 1 else f"one of {', '.join(columns)}"
