"""What raters read. Nothing here, nor anywhere else on their page, names a method or a model."""

from dataclasses import dataclass
from typing import Any

from evalkit.study.records import NEITHER, RATINGS


@dataclass(frozen=True)
class Wording:
    """One design's words."""

    title: str
    task: str
    """The task in two sentences."""
    question: str
    """With the class for {name}."""
    captions: tuple[str, ...]
    """Of the maps, from left to right."""
    choices: tuple[dict[str, Any], ...]
    """In the order of the keys 1, 2, ...: `option` is the position of what is chosen, `value` any other answer."""


_SHADES = "Bright yellow marks what counted most, black what did not count."

WORDING = {
    "better": Wording(
        "Which map shows it better?",
        "A program has recognised what each photograph shows, and two heat maps each claim to show which parts it went by. "
        f"Choose the map that best highlights the named object or objects, or “same” if the two are very similar. {_SHADES}",
        "Which map best highlights: {name}?",
        ("A", "B"),
        ({"text": "A", "option": 0}, {"text": "B", "option": 1}, {"text": "same", "value": NEITHER["better"]}),
    ),
    "trust": Wording(
        "Which map is more reliable?",
        "Two programs have both recognised what each photograph shows, and a heat map for each shows which parts it went by. Rate how "
        f"reliable the first map is beside the second: the one that describes the named object best is the more reliable. {_SHADES}",
        "How reliable is the first map beside the second for: {name}?",
        ("first", "second"),
        tuple(
            {"text": f"{text} ({rating:+d})" if rating else f"{text} (0)", "value": rating}
            for text, rating in zip(("clearly more", "slightly more", "equally", "slightly less", "clearly less"), RATINGS, strict=True)
        ),
    ),
    "which": Wording(
        "What does the picture highlight?",
        "Behind each picture is a photograph of objects of two categories, and what is bright is what a program went by when it looked "
        "for one of the two. Choose the category that the picture highlights, or “both” if it highlights one as much as the other.",
        "Which category does this picture highlight?",
        ("",),
        ({"option": 0}, {"option": 1}, {"text": "both", "value": NEITHER["which"]}),
    ),
}
