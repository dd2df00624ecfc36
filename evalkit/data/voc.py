"""PASCAL VOC in the layout of its development kit, with several labels an image, boxes, and objects marked as difficult.

Everingham et al., "The PASCAL Visual Object Classes challenge", IJCV 2010. In the challenge's evaluation of classifiers (VOCevalcls of its
development kit), an image is neither positive nor negative for a class of which it shows only objects marked as difficult.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from evalkit.data.boxes import Box, match_boxes, read_objects
from evalkit.data.listing import file_sizes
from evalkit.data.sources import ClassKey, Files, Folder, existing_folder
from evalkit.data.text import read_names
from evalkit.errors import UserError, one_of
from evalkit.files import Place

SPLITS = ("train", "val", "trainval", "test")
YEARS = tuple(range(2007, 2013))
PARENTS = ("", "VOCdevkit", "TrainVal/VOCdevkit")
"""Where the years lie below what was unpacked; the archive of 2011 has one more folder."""

Objects = Mapping[str, Sequence[tuple[Box, bool]]]
"""The objects of each image, and whether they are difficult."""


def voc(root: Folder, year: int | None = None, split: str = "val", difficult: str = "ignore") -> "Voc":
    """Open one split (train, val, trainval or test) of a year of VOC, 2007 to 2012; nothing is downloaded.

    `root` is the folder that the archives were unpacked into, its VOCdevkit, or VOCdevkit/VOC2007. `year` may be left out where
    there is one. The images are those listed in ImageSets/Main, and their classes and boxes those of Annotations.

    With difficult=ignore, objects marked as difficult are neither present nor absent: they give no label and no box, and a class that
    only such objects show is `undecided`. With difficult=keep they count like all others.

    Raises UserError: no such folder, year or split, or files that are not VOC's.
    """
    one_of(split, SPLITS, "data.split")
    one_of(difficult, ("ignore", "keep"), "data.difficult")
    folder = _year_folder(existing_folder(root), year)
    names = _listed_images(folder, split)
    for needed in ("JPEGImages", "Annotations"):
        if not (folder / needed).is_dir():
            raise UserError(f"{folder} has no folder {needed}, so it is not VOC's: unpack its archive again")
    files = [f"{name}.xml" for name in names]
    there = file_sizes(folder / "Annotations", files)
    missing = [file for file in files if file not in there]
    if missing:
        raise UserError(
            f"{folder}/Annotations lacks {missing[0]}{_others(len(missing))}, which data.split={split} needs"
            + "; of test images only those of 2007 (VOCtest_06-Nov-2007.tar) are published with annotations" * (split == "test")
        )
    objects = {name: read_objects(folder / "Annotations" / file, first=1) for name, file in zip(names, files, strict=True)}
    unnamed = next((name for name, found in objects.items() if any(box.key is None for box, _ in found)), None)
    if unnamed is not None:
        raise UserError(f"{folder}/Annotations/{unnamed}.xml has an object without a <name>")
    return Voc(folder, objects, "ignore" if difficult == "ignore" else "keep")


class Voc(Files):
    """Images of VOC. An image without labels shows none of the classes for certain, so `target=label` has nothing to explain in it."""

    exhaustive = True
    """Every object of the classes is annotated."""

    def __init__(self, folder: Place, objects: Objects, difficult: Literal["ignore", "keep"]) -> None:
        kept = {name: [box for box, hard in found if difficult == "keep" or not hard] for name, found in objects.items()}
        keys = {name: _classes(boxes) for name, boxes in kept.items()}
        super().__init__(folder / "JPEGImages", [f"{name}.jpg" for name in objects], list(keys.values()))
        self.known_boxes = {name: boxes for name, boxes in kept.items() if boxes}
        self.matched_boxes = match_boxes(self.known_boxes, self.paths, folder / "Annotations")
        self._undecided = {
            f"{name}.jpg": tuple(key for key in _classes(box for box, _ in found) if key not in keys[name])
            for name, found in objects.items()
        }

    def undecided(self, position: int) -> tuple[ClassKey, ...]:
        """Return the classes that only difficult objects of the image show: neither present nor absent."""
        return self._undecided[self.paths[position]]


def _classes(boxes: Iterable[Box]) -> tuple[Any, ...]:
    """Return the classes of some boxes, each once."""
    return tuple(dict.fromkeys(box.key for box in boxes if box.key is not None))


def _year_folder(root: Place, year: int | None) -> Place:
    """Return the folder of one year. Raises UserError where there is none, or where several could be meant."""
    if year is not None and year not in YEARS:
        raise UserError(f"data.year={year} is no year of VOC with this layout: choose one from {YEARS[0]} to {YEARS[-1]}")
    if (root / "ImageSets").is_dir():
        named = re.fullmatch(r"VOC(\d{4})", root.name)
        if named and year is not None and int(named[1]) != year:
            raise UserError(f"data.root={root} is {root.name}, and data.year={year}: set data.year={named[1]}, or data.root to its parent")
        return root
    bases = [root / parent for parent in PARENTS]
    there = {found: base / f"VOC{found}" for found in YEARS for base in bases if (base / f"VOC{found}").is_dir()}
    if year is None and len(there) == 1:
        return next(iter(there.values()))
    if year is not None and year in there:
        return there[year]
    if not there:
        raise UserError(
            f"no VOC in {root}: expected VOCdevkit/VOC2007 or the like below it, or ImageSets, Annotations and JPEGImages in it"
        )
    years = ", ".join(map(str, there))
    if year is None:
        raise UserError(f"{root} holds the years {years} of VOC: choose one, as in data.year={min(there)}")
    raise UserError(f"data.year={year}, but of VOC {root} holds {years}: set data.year={min(there)}, or unpack VOC{year} there")


def _listed_images(folder: Place, split: str) -> list[str]:
    """Return the names of the images of a split. Raises UserError where there is no such list, or no image in it."""
    lists = folder / "ImageSets" / "Main"
    listed = lists / f"{split}.txt"
    if not listed.is_file():
        known = [each for each in SPLITS if (lists / f"{each}.txt").is_file()]
        if not known:
            raise UserError(f"{lists} holds none of the lists {', '.join(f'{each}.txt' for each in SPLITS)}: unpack VOC's archive again")
        archive = "; the test images of 2007 are an archive of their own, unpacked into the same folder" if split == "test" else ""
        raise UserError(f"data.split={split}, but {lists} has the lists of {', '.join(known)} alone{archive}")
    names = list(dict.fromkeys(line.split()[0] for _, line in read_names(listed)))
    strange = next((name for name in names if not re.fullmatch(r"[\w.-]+", name) or name.strip(".") == ""), None)
    if strange is not None:
        raise UserError(f"{listed} names '{strange}', which is no image's name such as 000005")
    if not names:
        raise UserError(f"{listed} lists no images")
    return names


def _others(missing: int) -> str:
    return f" and {missing - 1} more" if missing > 1 else ""
