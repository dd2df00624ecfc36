"""Sources of images: a source is a fixed, ordered list of images, each with a name and a class.

Images are ordered by their path below the root, so that the first N are the same everywhere. A class is given by its
key (wnid, name or index), never by the rank of its folder, which would shift where some of the 1000 classes are missing.
"""

import hashlib
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Annotated, Protocol, TypeVar

import numpy as np
from pydantic import Field

from evalkit.data.boxes import Box, match_boxes, read_boxes
from evalkit.data.decode import Encoded, Picture
from evalkit.data.listing import Listing, file_sizes, is_array, list_images, resolve_names
from evalkit.data.text import Row, read_table, spellings
from evalkit.errors import UserError
from evalkit.files import Place, place, read_remote


@dataclass(frozen=True)
class ListedClass:
    """A class in a labels list: its name, and its output index for models whose classes have no names."""

    name: str
    index: int | None

    def __str__(self) -> str:
        return self.name


ClassKey = str | int | ListedClass
"""A class by wnid or name, by output index, or by both."""


class Source(Protocol):
    """The interface of a data set; positions run from 0 to len - 1."""

    @property
    def fingerprint(self) -> str:
        """A hash that changes when the images, their order or their labels change."""
        ...

    def __len__(self) -> int: ...

    def image_id(self, position: int) -> str:
        """Return a name that is unique in the data set and the same on every machine."""
        ...

    def class_keys(self, position: int) -> tuple[ClassKey, ...]:
        """Return the image's classes: one, several where the data set has several labels per image, none where unknown."""
        ...

    def boxes(self, position: int) -> Sequence[Box]:
        """Return the boxes of the image's objects, none where the data set has no boxes."""
        ...

    def load(self, position: int) -> Picture:
        """Return the image: Pillow's, of any mode, or a tensor (channels,h,w), uint8 or float32 in [0,1]. Raises UnreadableImage."""
        ...


def shows_nothing(source: Source, position: int) -> bool:
    """Return whether an image is known to show none of the classes: it has no label in a data set that annotates every object."""
    return bool(getattr(source, "exhaustive", False)) and not source.class_keys(position)


Folder = Annotated[str, Field(description="the folder that holds the images", examples=["/data/photos"])]


class FileList:
    """Files below a root, with their classes and boxes."""

    expected: str = ".jpg, .png or the suffix of another picture"
    """What is expected where there is no such file."""

    def __init__(
        self,
        root: Place,
        paths: Sequence[str],
        keys: Sequence[tuple[ClassKey, ...]],
        boxes: Place | None = None,
        listing: Listing | None = None,
    ) -> None:
        if not paths:
            raise UserError(f"no images in {root}: expected files ending in {self.expected}{_instead(listing)}")
        self.listing = listing
        """The content of the root; None where a list says which files are the images."""
        order = sorted(range(len(paths)), key=lambda i: paths[i])
        self.root = root
        self.paths = [paths[i] for i in order]
        self.keys = [keys[i] for i in order]
        self.known_boxes = {} if boxes is None else read_boxes(boxes)
        self.matched_boxes = match_boxes(self.known_boxes, self.paths, boxes)

    def __len__(self) -> int:
        return len(self.paths)

    def image_id(self, position: int) -> str:
        """Return the path below the root, with forward slashes."""
        return utf8(self.paths[position])

    def class_keys(self, position: int) -> tuple[ClassKey, ...]:
        """Return the classes given by the labels file or by the folder's name."""
        return self.keys[position]

    def boxes(self, position: int) -> Sequence[Box]:
        """Return the boxes that the list of boxes gives."""
        return self.matched_boxes.of_image.get(self.paths[position], ())

    def file(self, position: int) -> bytes | Path:
        """Return a local file, or the bytes of a remote one."""
        file = self.root / self.paths[position]
        return file if isinstance(file, Path) else read_remote(file)

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return file_sizes(self.root, self.paths)

    @property
    def missing(self) -> list[str]:
        """The images whose files do not exist."""
        return [path for path in self.paths if path not in self._sizes]

    @cached_property
    def fingerprint(self) -> str:
        """Hash over paths, sizes, labels and boxes; contents are not read, since that would take a pass over the data."""
        files = ((path, self._sizes.get(path, -1), key) for path, key in zip(self.paths, self.keys, strict=True))
        return hash_entries(chain(files, sorted(self.known_boxes.items())))


class Files(Encoded, FileList):
    """Pictures in files below a root."""

    def encoded(self, position: int) -> bytes | Path:
        """Return a local file, or the bytes of a remote one."""
        return self.file(position)


def _instead(listing: Listing | None) -> str:
    """Return what lies in a folder without images."""
    if listing is None:
        return ""
    if is_array(listing.unread[0] if listing.unread else ""):
        return f"; it holds {listing.unread[0]}: set data=arrays"
    if listing.unread or listing.archives:
        return f"; it holds {(listing.unread or listing.archives)[0]}"
    return f"; {listing.hidden[0]} is hidden or trash" if listing.hidden else ""


F = TypeVar("F", bound=FileList)


def image_folder(root: Folder, labels: str | None = None, boxes: str | None = None) -> Files:
    """Open class folders, or the files listed in `labels` (default `<root>/labels.csv` where there is one).

    The list has the columns `file`, and `wnid`, `class` or `label`, and/or `index` (the model's output); a file with
    several rows has several labels. Files are relative to the root, or to its subfolder `images`. Without a list, the
    first folder of a path is its class. `boxes` is the path for `read_boxes`, default `<root>/boxes.csv` where there is one.

    Raises UserError: no such folder, no images, a list that does not fit the folder.
    """
    return open_folder(Files, list_images, root, labels, boxes)


def open_folder(kind: type[F], contents: Callable[[Place], Listing], root: str, labels: str | None, boxes: str | None) -> F:
    """Open a folder as `image_folder` does, as a source of any kind; `contents` lists the files of this kind below the folder."""
    folder = existing_folder(root)
    listed = place(labels) if labels is not None else folder / "labels.csv"
    default_boxes = folder / "boxes.csv"
    boxes_path = place(boxes) if boxes is not None else default_boxes if default_boxes.is_file() else None
    if labels is None and not listed.is_file():
        found = contents(folder)
        keys = [(path.split("/")[0],) if "/" in path else () for path in found.images]
        return kind(folder, found.images, keys, boxes_path, found)
    return labelled_files(folder, listed, boxes_path, kind)


def labelled_files(folder: Place, listed: Place, boxes: Place | None, kind: type[F] = Files) -> F:  # type: ignore[assignment]
    """Open the files of a labels list, in the order of their paths. Raises UserError where the list does not fit the folder."""
    keys = read_labels(listed)
    first_named = spellings(next(iter(keys)))
    if (folder / "images").is_dir() and not set(first_named) & set(file_sizes(folder, first_named)):
        folder = folder / "images"
    paths = resolve_names(folder, list(keys))
    outside = next((path for path in paths if _leaves(folder, path)), None)
    if outside is not None:
        raise UserError(f"{listed} names '{outside}', which lies outside {folder}")
    merged: dict[str, tuple[str, tuple[ClassKey, ...]]] = {}
    for path, of_path in zip(paths, keys.values(), strict=True):
        # An image written in several ways is one; its first spelling stays its name, as in run folders that exist.
        first, before = merged.setdefault(_below(folder, path), (path, ()))
        merged[_below(folder, path)] = (first, tuple(dict.fromkeys((*before, *of_path))))
    files = kind(folder, [path for path, _ in merged.values()], [of_path for _, of_path in merged.values()], boxes)
    if len(files.missing) == len(files):
        raise UserError(f"none of the {len(paths)} files listed in {listed} is in {folder}: its paths must be relative to that folder")
    return files


def _below(folder: Place, path: str) -> str:
    """Return a path without `.` and `..`, relative to the folder where it lies below it."""
    if not isinstance(folder, Path):
        return posixpath.normpath(path)
    return os.path.relpath(folder.absolute() / path, folder.absolute())


def read_labels(listed: Place) -> dict[str, tuple[ClassKey, ...]]:
    """Read the class keys of each path from a labels list (CSV; also Kaggle's LOC_val_solution.csv)."""
    if not listed.is_file():
        raise UserError(f"no labels file {listed}")
    columns, rows = read_table(listed)
    if not rows:
        raise UserError(f"{listed} lists no files")
    if {"ImageId", "PredictionString"} <= set(columns):
        return {f"{row['ImageId']}.JPEG": tuple(row["PredictionString"].split()[:1]) for row in rows}
    name_column = next((column for column in ("wnid", "class", "label") if column in columns), None)
    if "file" not in columns or (name_column is None and "index" not in columns):
        has = ", ".join(sorted(column for column in columns if column))
        raise UserError(f"{listed} needs a column 'file' and one of 'wnid', 'class', 'label' or 'index'; it has {has}")
    keys: dict[str, tuple[ClassKey, ...]] = {}
    for row in rows:
        if not row["file"].strip():
            raise UserError(f"{listed}, line {row.line} names no file")
        before = keys.setdefault(row["file"], ())
        key = _class_key(listed, row, name_column)
        if key is not None and key not in before:
            keys[row["file"]] = (*before, key)
    return keys


def _class_key(listed: Place, row: Row, name_column: str | None) -> ClassKey | None:
    given = row["index"].strip()
    try:
        index = int(given) if given else None
    except ValueError as reason:
        raise UserError(f"{listed}, line {row.line}: column 'index' must hold whole numbers, not '{given}'") from reason
    return ListedClass(row[name_column], index) if name_column and row[name_column] else index


def existing_folder(root: str) -> Place:
    """Return the folder. Raises UserError, which says what to set, where there is none."""
    folder = place(root)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: set data.root to the folder that holds the images")
    return folder


def _leaves(folder: Place, path: str) -> bool:
    """Return whether a path in a list leads out of its folder by itself. A picture may be a link to elsewhere."""
    steps_up = ".." in PurePosixPath(path).parts
    if not isinstance(folder, Path):
        return PurePosixPath(path).is_absolute() or steps_up
    bases = (folder.absolute(), folder.resolve())
    inside = any(Path(os.path.normpath(base / path)).is_relative_to(os.path.normpath(base)) for base in bases)
    # Behind a link, `..` leads elsewhere than the text of the path says.
    return not inside or (steps_up and not (folder / path).resolve().is_relative_to(bases[1]))


def choose(source: Source, *, limit: int | None, sample: int | None, seed: int) -> list[int]:
    """Return the positions to evaluate, ascending: the first `limit`, or a seeded sample stratified by class, or all.

    Every class has its proportional share of a sample, and a smaller sample is part of a larger one.
    """
    try:
        total = len(source)
    except UserError:  # a stream of unknown length
        if limit is None:
            raise
        total = limit
    if limit is not None:
        return list(range(min(limit, total)))
    if sample is None or sample >= total:
        return list(range(total))
    rng = np.random.default_rng(seed)
    members: dict[tuple[ClassKey, ...], list[int]] = {}
    for position in range(total):
        members.setdefault(source.class_keys(position), []).append(position)
    turn = np.empty(total)
    for positions in members.values():
        # Each 1/len of the unit interval holds the turn of one image of the class; the images with the lowest turns are the sample.
        turn[rng.permutation(positions)] = (np.arange(len(positions)) + rng.random()) / len(positions)
    return sorted(int(position) for position in np.argsort(turn, kind="stable")[:sample])


def utf8(name: str) -> str:
    """Return a file's name for tables: bytes that are not UTF-8 become `\\xff` and the like."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_wnid(name: str) -> bool:
    """Return whether a name is a WordNet id in ImageNet's form."""
    return re.fullmatch(r"n\d{8}", name) is not None


def hash_entries(entries: Iterable[object]) -> str:
    """Return one hash over the `repr` of all entries, in order."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(repr(entry).encode())
    return digest.hexdigest()
