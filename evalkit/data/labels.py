"""Conversion of class keys (wnid, name or index) to the model's output indices."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

from torchvision.models import ResNet50_Weights

from evalkit.data.class_words import by_words
from evalkit.data.imagenet import synonyms, wnids
from evalkit.data.sources import ClassKey, ListedClass, is_wnid
from evalkit.data.text import normalised, read_names, read_table
from evalkit.errors import UserError, did_you_mean
from evalkit.files import local

_SAME_NAME = ((134, 517), (638, 639))
"""Outputs of ImageNet's classes with one name in most lists: the cranes (bird and machine) and the maillots (swimsuit and tights)."""
_LISTED = 12
"""Largest number of classes that are listed where a name stands for several."""


@dataclass(frozen=True)
class Classes:
    """A model's outputs: `keys` are their wnids or names in order (None where unknown), `names` are readable names."""

    outputs: int
    keys: Sequence[str] | None = None
    names: Sequence[str] | None = None
    map: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Outputs for each class name of a data set. If given, names are looked up only here: COCO's kite is a toy, ImageNet's a bird."""
    quantity: bool = False
    """Whether the outputs are one quantity and its negative, which no label stands for."""

    def outputs_of(self, key: ClassKey, of: str = "") -> tuple[int, ...]:
        """Return the outputs that a class stands for, none where the model has no such class. Raises UserError as `index` does."""
        if not self.quantity and (not self.map or isinstance(key, int)):
            self.index(key, of)
        return self.outputs_among(key)

    def outputs_among(self, key: ClassKey) -> tuple[int, ...]:
        """Return the outputs that a class stands for, none where the model has no such class or no such output."""
        if self.quantity:
            return ()
        if self.map and not isinstance(key, int):
            return self._mapped.get(normalised(str(key)), ())
        index = self._found(key)
        return (index,) if index is not None and 0 <= index < self.outputs else ()

    def meant(self, name: str) -> str | None:
        """Return the class that is likely meant by a name without outputs: one that differs in case or separators, or in a letter."""
        known = list(self.map) or [*(self.names or ()), *(self.keys or ())]
        by_loose_name = {_loose(part): full for full in reversed(known) for part in (full.split(",")[0], full)}
        if _loose(name) in by_loose_name or is_wnid(name):
            return by_loose_name.get(_loose(name))
        near = get_close_matches(_loose(name), by_loose_name, n=1, cutoff=0.8)
        return by_loose_name[near[0]] if near else None

    def contradicts(self, key: ClassKey) -> int | None:
        """Return the output that a listed class has by its name, where its index is another output; None where they agree or one lacks."""
        if self.map or not isinstance(key, ListedClass) or self.keys is None or key.index is None or not 0 <= key.index < self.outputs:
            return None
        found = self._found(key)
        return found if found != key.index else None

    def with_more(self, name: str) -> str | None:
        """Return the class whose line holds more than a name: a number or wnid beside it, as in `0: dog` or `n02084071 dog`."""
        sought = _loose(name)
        return next((full for full in self.keys or () if _loose(full) != sought and sought in map(_loose, _parts(full))), None)

    def output(self, given: int | str) -> int:
        """Return the output of a class given by index or name (see `by_words`; a name as it is written comes first).

        Raises UserError where there is none, or a name stands for several.
        """
        if isinstance(given, int) or (given.isdecimal() and given not in self._by_name):
            if not 0 <= int(given) < self.outputs:
                if self.quantity:
                    raise UserError(f"target={given} is no output: of its one output z, target=0 explains z and target=1 explains -z")
                raise UserError(f"target={given} is no output: the model has {self.outputs}, from 0 to {self.outputs - 1}")
            return int(given)
        if _short(given) in self._by_short_name:
            return self._by_name.get(given, self._by_short_name[_short(given)])
        found = by_words(given, {index: self.all_names(index) for index in range(self.outputs)})
        if not found:
            raise UserError(f"target={given}: the model has no such class{self._hint(given, self._by_short_name)}")
        if len(found) > 1:
            listed = ", ".join(f"{self.name(index)} ({index})" for index in found[:_LISTED]) + ", ..." * (len(found) > _LISTED)
            raise UserError(f"target={given} may be {listed}: give the name of one as it is written here, or its index")
        return found[0]

    def read_as(self, given: int | str) -> str | None:
        """Return the names of the class that a name was read as word by word; None for an index, or a name that a class has."""
        if isinstance(given, int) or given.isdecimal() or _short(given) in self._by_short_name:
            return None
        return ", ".join(self.all_names(self.output(given)))

    def all_names(self, index: int) -> list[str]:
        """Return the names of an output: the parts of its line, and for a wnid the synonyms of ImageNet's class, where known."""
        lines = [names[index] for names in (self.names, self.keys) if names is not None]
        known = [synonyms().get(line, "") if is_wnid(line) else line for line in lines]
        return list(dict.fromkeys(part.strip() for line in known for part in line.split(",") if part.strip()))

    def _hint(self, name: str, by_short_name: Mapping[str, int]) -> str:
        """Return the hint for a name that no class has, with readable names."""
        if not by_short_name:
            return "; its classes have no names: give an index, or model.classes=FILE"
        near = get_close_matches(_short(name), by_short_name, n=1)
        return f"; did you mean '{self.name(by_short_name[near[0]])}'?" if near else did_you_mean(name, map(self.name, range(self.outputs)))

    def index(self, key: ClassKey | None, of: str = "") -> int | None:
        """Return the output of a class; None where the model has no such class, or the class is unknown.

        For a model whose classes have no names, a labels list's index is used. Raises UserError where that is no output;
        `of` names the image or the box that has the label.
        """
        index = self._found(key)
        if index is not None and not 0 <= index < self.outputs:
            named = isinstance(key, ListedClass) and self.keys is None  # an index alone stays one, whatever the classes are called
            raise UserError(
                f"label {index}{of and f' of {of}'} is no output of a model with {self.outputs} outputs, which count from 0 to "
                f"{self.outputs - 1}" + ("; name its classes with model.classes=FILE, one wnid or name a line" if named else "")
            )
        return index

    def _found(self, key: ClassKey | None) -> int | None:
        """Return the output of a class, or an index of a list, which may be no output."""
        if isinstance(key, ListedClass) and self._agrees(key):
            return key.index
        if isinstance(key, str | ListedClass) and self.keys is not None:
            return self._by_name.get(normalised(str(key)))
        index = key.index if isinstance(key, ListedClass) else key
        return index if isinstance(index, int) else None

    def _agrees(self, key: ListedClass) -> bool:
        """Return whether name and index mean the same output. Names alone need not be unique: ImageNet has two cranes."""
        if self.keys is None or key.index is None or not 0 <= key.index < self.outputs:
            return False
        return _short(key.name) in (_short(self.name(key.index)), _short(self.keys[key.index]))

    def name(self, index: int) -> str:
        """Return a short, readable name."""
        listed = self.names or self.keys
        return str(index) if listed is None else listed[index].split(",")[0]

    @cached_property
    def _by_short_name(self) -> dict[str, int]:
        return {_short(name): index for name, index in reversed(self._by_name.items())}

    @cached_property
    def _by_name(self) -> dict[str, int]:
        indices = {normalised(name): i for i, name in reversed(list(enumerate(self.names or [])))}
        indices.update({normalised(key): i for i, key in enumerate(self.keys or [])})
        return indices

    @cached_property
    def _mapped(self) -> dict[str, tuple[int, ...]]:
        mapped: dict[str, tuple[int, ...]] = {}
        for name, outputs in self.map.items():
            mapped[normalised(name)] = (*mapped.get(normalised(name), ()), *outputs)
        return mapped


def _short(name: str) -> str:
    return normalised(name.split(",", maxsplit=1)[0]).lower()


def _loose(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", normalised(name).casefold()).strip()


def _parts(line: str) -> tuple[str, ...]:
    """Return the name without a number or wnid beside it, and that wnid."""
    before = re.fullmatch(r"(\d+|n\d{8})[\s:,;.)=-]+(.+)", line.strip())
    after = re.fullmatch(r"(.+?)[\s:,;=-]+(\d+|n\d{8})", line.strip())
    names = [match[group].strip("\"' ") for match, group in ((before, 2), (after, 1)) if match]
    wnids_beside = [match[group] for match, group in ((before, 1), (after, 2)) if match and is_wnid(match[group])]
    return (*names, *(name.split(",")[0] for name in names), *wnids_beside)


def load_classes(given: str | Sequence[str] | None, outputs: int, class_map: str | None = None) -> Classes:
    """Load classes: `imagenet`, a file with one wnid or name per line in output order, or the names themselves.

    `class_map` is a CSV with the columns `class`, a name in the data set, and `index`, an output that it stands for.
    Raises UserError: no such file, or the number of classes is not the number of outputs.
    """
    outputs_of = {} if class_map is None else _read_map(local(class_map), outputs)
    if given is None:
        return Classes(outputs, map=outputs_of)
    if given == "imagenet":
        keys, names = wnids(), list(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])
        where = "the 1000 ImageNet classes"
    elif isinstance(given, str):
        if not local(given).is_file():
            raise UserError(f"no file {given}: model.classes takes a file with one wnid or name a line, in output order, or 'imagenet'")
        lines_of_names = read_names(local(given))
        keys = [name for _, name in lines_of_names]
        names, where = None, f"{given} with {len(keys)} classes"
        _check_unique(keys, f"{given}, lines", [line for line, _ in lines_of_names])
    else:
        keys, names, where = [str(name) for name in given], None, f"{len(given)} classes"
        _check_unique(keys, "model.classes, entries", range(1, len(keys) + 1))
    if len(keys) != outputs:
        raise UserError(f"model.classes gives {where}, but the model has {outputs} outputs")
    if names is None and set(keys) <= set(wnids()):
        name_of = dict(zip(wnids(), ResNet50_Weights.IMAGENET1K_V1.meta["categories"], strict=True))
        names = [name_of[key] for key in keys]
    return Classes(outputs, keys, names, outputs_of)


def load_quantity(given: str | Sequence[str] | None, class_map: str | None = None) -> Classes:
    """Return the outputs z and -z of a network with one number z, which may have a name, such as `age`: then `age` and `-age`.

    Raises UserError where several names are given, or a class map.
    """
    if given is not None and (isinstance(given, str) or len(given) != 1):
        raise UserError(f"model.classes={given}: with model.output=raw, one output takes a list of one name, as in 'model.classes=[age]'")
    if class_map is not None:
        raise UserError("model.class_map is set, and with model.output=raw one output has no classes: set model.class_map=null")
    name = "output" if given is None else str(given[0])
    return Classes(2, [name, f"-{name}"], quantity=True)


def _read_map(file: Path, outputs: int) -> dict[str, tuple[int, ...]]:
    if not file.is_file():
        raise UserError(f"no file {file}: model.class_map takes a CSV with the columns class and index")
    outputs_of: dict[str, tuple[int, ...]] = {}
    columns, rows = read_table(file)
    if rows and not {"class", "index"} <= set(columns):
        has = ", ".join(filter(None, columns))
        raise UserError(f"{file} begins with {has}: model.class_map takes a CSV whose first line names the columns class and index")
    for row in rows:
        name, index = row["class"], row["index"].strip()
        if not name:
            raise UserError(f"{file}, line {row.line} names no class")
        if not index.isdecimal() or int(index) >= outputs:
            raise UserError(f"{file}, line {row.line}: index '{index}' is no output of the model, a whole number from 0 to {outputs - 1}")
        outputs_of[name] = (*outputs_of.get(name, ()), int(index))
    if not outputs_of:
        raise UserError(f"{file} lists no classes: model.class_map takes a CSV with the columns class and index")
    return outputs_of


def _check_unique(keys: Sequence[str], where: str, places: Sequence[int]) -> None:
    """Raises UserError, with the places of both, where two outputs have one name, except the pairs of ImageNet's 1000 classes."""
    first: dict[str, int] = {}
    for i, key in enumerate(keys):
        before = first.setdefault(normalised(key), i)
        imagenets = len(keys) == 1000 and (before, i) in _SAME_NAME
        if before != i and not imagenets:
            raise UserError(f"{where} {places[before]} and {places[i]} both say '{key}': each output needs a name of its own")
