"""Names of classes compared word by word, for a name that no class has as it is written: `ball point pen`, `teddy bear`."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from evalkit.data.text import normalised

_NAME = re.compile(r"[\w\s.,&()'\u2019-]+")
"""What may be a name: text with other characters, such as markup, is not searched for words."""
_MISSPELT = 0.8
"""Likeness (difflib's ratio) from which on a name is another one with a slip, not a longer description."""


def by_words(given: str, names: Mapping[int, Sequence[str]]) -> list[int]:
    """Return the classes that a name may stand for, in the order of `names`, which lists the names of each class.

    Names are compared in lower case, without separators: `ball point pen` is `ballpoint pen`. Where a class has the name as
    a whole, only such classes count. Otherwise those whose name holds all words of the given one side by side (`retriever`:
    golden retriever), and those whose name is a part of it (`teddy bear`: teddy), the latter unless another class's name
    differs from the given one by a slip of the pen (`tiger shrk` is no tiger).
    """
    sought = _words(given)
    if not sought or not _NAME.fullmatch(given):
        return []
    split = {index: [_words(name) for name in of_class] for index, of_class in names.items()}
    whole = [index for index, of_class in split.items() if any("".join(words) == "".join(sought) for words in of_class)]
    if whole:
        return whole
    holding = [index for index, of_class in split.items() if any("".join(sought) in _runs(words) for words in of_class)]
    parts = _parts(sought, split)
    others = {"".join(words) for index, of_class in split.items() if index not in parts for words in of_class}
    if get_close_matches("".join(sought), others, n=1, cutoff=_MISSPELT):
        parts = set()
    return [index for index in names if index in holding or index in parts]


def _parts(sought: Sequence[str], split: Mapping[int, Sequence[list[str]]]) -> set[int]:
    """Return the classes named by a part of the words, without parts that lie within the part of another class."""
    runs = _runs(sought)
    found = {index: [runs[name] for words in of_class if (name := "".join(words)) in runs] for index, of_class in split.items()}
    every = {run for of_class in found.values() for run in of_class}

    def within(run: tuple[int, int]) -> bool:
        return any(start <= run[0] and run[1] <= end for start, end in every - {run})

    return {index for index, of_class in found.items() if not all(map(within, of_class))}


def _runs(words: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return all runs of words, joined, with the places of their beginning and end."""
    places = [(start, end) for start in range(len(words)) for end in range(start + 1, len(words) + 1)]
    return {"".join(words[start:end]): (start, end) for start, end in reversed(places)}


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W_]+", normalised(name).casefold())
