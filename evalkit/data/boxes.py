"""Bounding boxes of a data set, and their conversion to pixels of the network's input."""

import math
import posixpath
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from evalkit.data.decode import Preprocess
from evalkit.data.listing import Listing, files_below, is_hidden
from evalkit.data.text import read_table, spellings
from evalkit.errors import UserError
from evalkit.files import Place

COLUMNS = ("w", "h", "x1", "y1", "x2", "y2")
NAMES = ("wnid", "class", "label")
OVERSHOOT = 1.0
"""Pixels by which a listed box may exceed its frame, because of rounding or of pixels counted from 1."""


@dataclass(frozen=True)
class Box:
    """The box of one object: its edges, in pixels of a frame of `width` x `height` whose own edges are 0, `width` and `height`.

    `key` is the class as the data set names it; None where it names none, and the box belongs to the image's own class.
    """

    key: str | int | None
    x1: float
    y1: float
    x2: float
    y2: float
    width: int
    height: int


def read_boxes(file: Place) -> dict[str, list[Box]]:
    """Read the boxes of each file name, from a CSV or from a folder of ImageNet's annotations.

    The CSV has the columns `file`, `w`, `h` (the stored image's size), `x1`, `y1`, `x2`, `y2` (edges in its pixels) and,
    where an image may show several classes, `wnid`, `class`, `label` or `index`. The folder holds one Pascal VOC file per
    image, such as `ILSVRC2012_val_00000001.xml`; its names are returned without extension, and without their folders unless
    several files have one name.

    Raises UserError: no such file or folder, missing columns, relative edges, or, with line or file, values that are no
    numbers or no box.
    """
    if not file.is_dir() and not file.is_file():
        raise UserError(f"no boxes at {file}: expected a CSV (file,{','.join(COLUMNS)}) or a folder of ILSVRC2012_val_*.xml")
    boxes = _read_annotations(file) if file.is_dir() else _read_list(file)
    _check_pixels(file, boxes)
    return boxes


def _check_pixels(file: Place, boxes: Mapping[str, list[Box]]) -> None:
    """Raises UserError where no edge is above 1 although the images are larger."""
    flat = [(name, box) for name, of_name in boxes.items() for box in of_name]
    if flat and all(max(box.x2, box.y2) <= 1 < min(box.width, box.height) for _, box in flat):
        name, box = flat[0]
        edges = f"{box.x1:g} {box.y1:g} {box.x2:g} {box.y2:g}"
        raise UserError(
            f"{file}: no edge is above 1 (the first box, of {name}, is {edges}), so these are shares of the image and not pixels; "
            "multiply x1 and x2 by the width, y1 and y2 by the height"
        )


@dataclass(frozen=True)
class MatchedBoxes:
    """The boxes of a list, by the images of a data set."""

    file: Place | None
    images: Sequence[str]
    of_image: Mapping[str, list[Box]]
    """Boxes by the image's path, for each image that the list names."""
    unmatched: Sequence[str]
    """Names in the list that are no image's."""


def match_boxes(boxes: Mapping[str, list[Box]], images: Sequence[str], file: Place | None) -> MatchedBoxes:
    """Match the names in a list of boxes with images' paths: a name is a path or a file name, with or without extension.

    Raises UserError, with the list's `file`, for a file name that several images have.
    """
    paths, bare, names, stems = (dict[str, list[str]]() for _ in range(4))
    for image in images:
        path = PurePosixPath(image)
        named = posixpath.normpath(image)
        for by_spelling, spelling in ((paths, named), (bare, posixpath.splitext(named)[0]), (names, path.name), (stems, path.stem)):
            by_spelling.setdefault(spelling, []).append(image)
    kinds = (paths, bare, names, stems)
    found: list[dict[str, list[Box]]] = [{} for _ in kinds]
    unmatched = []
    for name, of_name in boxes.items():
        written = [posixpath.normpath(spelling) for spelling in spellings(name)]
        for of_image, by_spelling in zip(found, kinds, strict=True):
            meant = next((by_spelling[spelling] for spelling in written if spelling in by_spelling), [])
            if len(meant) > 1:
                raise UserError(f"{file}: '{name}' may be {meant[0]} or {meant[1]}; write the path below data.root")
            if meant:
                of_image.setdefault(meant[0], []).extend(of_name)
                break
        else:
            unmatched.append(name)
    return MatchedBoxes(file, images, found[3] | found[2] | found[1] | found[0], unmatched)


def to_input(box: Box, preprocess: Preprocess, size: tuple[int, int] | None = None) -> Box | None:
    """Convert a box to pixels of the preprocessed image; None where the crop leaves nothing of it.

    `size` is the stored image's height and width where they differ from the box's frame: the data set was resized, but
    not cropped, after it had been annotated.
    """
    height, width = _resized(preprocess.resize, *(size or (box.height, box.width)))
    x = _cropped(box.x1 * width / box.width, box.x2 * width / box.width, width, preprocess.crop)
    y = _cropped(box.y1 * height / box.height, box.y2 * height / box.height, height, preprocess.crop)
    if x is None or y is None:
        return None
    return Box(box.key, x[0], y[0], x[1], y[1], preprocess.crop or width, preprocess.crop or height)


def _resized(resize: int | Sequence[int] | None, height: int, width: int) -> tuple[int, int]:
    """Return height and width after torchvision's resize, which rounds the longer side down."""
    if resize is None:
        return height, width
    if not isinstance(resize, int):
        return resize[0], resize[1]
    return (int(resize * height / width), resize) if width <= height else (resize, int(resize * width / height))


def _cropped(low: float, high: float, length: int, crop: int | None) -> tuple[float, float] | None:
    """Convert one side of a box as torchvision's central crop does with an image of this `length`; None where nothing is left."""
    if crop is None:
        shift, crop = 0, length
    elif length >= crop:
        shift = -round((length - crop) / 2)  # halves are rounded to even, as in torchvision
    else:
        shift = (crop - length) // 2  # torchvision adds black borders, an odd pixel at the end
    low, high = max(low, 0.0) + shift, min(high, float(length)) + shift
    low, high = max(low, 0.0), min(high, float(crop))
    return (low, high) if low < high else None


def _read_list(listed: Place) -> dict[str, list[Box]]:
    boxes: dict[str, list[Box]] = {}
    columns, rows = read_table(listed)
    class_column = _class_column(listed, columns)
    for row in rows:
        where = f"{listed}, line {row.line}"
        key = _key(where, row[class_column], class_column) if class_column else None
        boxes.setdefault(row["file"], []).append(_box(where, key, [row[column] for column in COLUMNS]))
    if not boxes:
        raise UserError(f"{listed} lists no boxes")
    return boxes


def _class_column(listed: Place, columns: Sequence[str]) -> str | None:
    """Return the name of the column with a box's class. Raises UserError where another column is missing."""
    missing = [column for column in ("file", *COLUMNS) if column not in columns]
    if missing:
        raise UserError(f"{listed} lacks the column {missing[0]}: a list of boxes has file,{','.join(COLUMNS)} and, optionally, class")
    return next((column for column in (*NAMES, "index") if column in columns), None)


def _key(where: str, text: str, column: str) -> str | int | None:
    if column != "index" or not text:
        return text or None
    try:
        return int(text)
    except ValueError as reason:
        raise UserError(f"{where}: index must be a whole number, not '{text}'") from reason


def _box(where: str, key: str | int | None, texts: Sequence[str], first: int = 0) -> Box:
    """Parse a box from the texts of w, h, x1, y1, x2, y2; `first` is subtracted from x1 and y1."""
    try:
        width, height, x1, y1, x2, y2 = (float(text) for text in texts)
        x1, y1 = x1 - first, y1 - first
    except ValueError as reason:
        raise UserError(f"{where}: {', '.join(COLUMNS)} must be numbers, not {', '.join(texts)}") from reason
    if not (1 <= width < math.inf and 1 <= height < math.inf and x1 < x2 and y1 < y2):
        raise UserError(f"{where}: the edges {x1:g} {y1:g} {x2:g} {y2:g} (x1 y1 x2 y2) are no box in an image of {width:g}x{height:g}")
    if min(x1, y1) < -OVERSHOOT or x2 > width + OVERSHOOT or y2 > height + OVERSHOOT:
        raise UserError(
            f"{where}: the box {x1:g} {y1:g} {x2:g} {y2:g} extends beyond its image of {width:g}x{height:g}; "
            "w and h must be the size of the image to which the edges refer"
        )
    return Box(key, x1, y1, x2, y2, int(width), int(height))


def _read_annotations(folder: Place) -> dict[str, list[Box]]:
    files = [path for path in files_below(folder, Listing()) if path.endswith(".xml") and not is_hidden(path)]
    if not files:
        raise UserError(f"no annotations in {folder}: expected ILSVRC2012_val_*.xml (Pascal VOC)")
    number = Counter(PurePosixPath(path).stem for path in files)
    names = [PurePosixPath(path).stem if number[PurePosixPath(path).stem] == 1 else path.removesuffix(".xml") for path in files]
    return {name: _read_annotation(folder / path) for name, path in zip(names, files, strict=True)}


def _read_annotation(file: Place) -> list[Box]:
    """Read all objects of one image. Coordinates are taken as edges, as is common; the error is at most one pixel."""
    return [box for box, _ in read_objects(file)]


def read_objects(file: Place, first: int = 0) -> list[tuple[Box, bool]]:
    """Read the objects of one file of Pascal VOC: the box of each, and whether it is marked as difficult.

    `first` is the number of the first pixel where the coordinates are those of the outermost pixels (VOC: 1), 0 where they are edges.
    Raises UserError: the file is no XML or no annotation, `difficult` is neither 0 nor 1, or a box is none, as in `read_boxes`.
    """
    try:
        root = ET.fromstring(file.read_bytes())
    except (ET.ParseError, ValueError, LookupError) as reason:  # the latter two of encodings that the parser does not know
        raise UserError(f"{file} is no XML ({reason})") from reason

    def texts(parent: ET.Element, *paths: str) -> list[str]:
        return [(parent.findtext(path) or "").strip() for path in paths]

    size = texts(root, "size/width", "size/height")
    objects = []
    for thing in root.iter("object"):
        x1, y1, x2, y2 = texts(thing, "bndbox/xmin", "bndbox/ymin", "bndbox/xmax", "bndbox/ymax")
        name, difficult = texts(thing, "name", "difficult")
        if difficult not in ("", "0", "1"):
            raise UserError(f"{file} has <difficult>{difficult}</difficult>: expected 0 or 1")
        objects.append((_box(str(file), name or None, [*size, x1, y1, x2, y2], first), difficult == "1"))
    if not objects and root.tag != "annotation":
        raise UserError(f"{file} holds <{root.tag}>, not <annotation> as VOC's files do")
    return objects
