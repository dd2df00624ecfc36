"""The text that raters read. Neither it nor the rest of their page names a method or a model."""

from dataclasses import dataclass
from typing import Any

from evalkit.study.records import NEITHER, RATINGS


@dataclass(frozen=True)
class Wording:
    """The text of one design."""

    title: str
    task: str
    """The task in two sentences."""
    question: str
    """The question; {name} stands for the class."""
    captions: tuple[str, ...]
    """Captions of the maps, from left to right."""
    choices: tuple[dict[str, Any], ...]
    """The answers, in the order of the keys 1, 2, ...: `option` is the position of the chosen option, `value` another answer."""


_SHADES = "bright yellow counted most, what has no colour did not count"

WORDING = {
    "better": Wording(
        "Which map shows it better?",
        f"A program has recognised what each photograph shows, and two heat maps each claim to mark what it went by ({_SHADES}). "
        "Choose the map that best highlights the named object or objects, or “same” if the two are very similar.",
        "Which map best highlights: {name}?",
        ("map A", "map B"),
        ({"text": "A", "option": 0}, {"text": "B", "option": 1}, {"text": "same", "value": NEITHER["better"]}),
    ),
    "trust": Wording(
        "Which map is more reliable?",
        f"Two programs have both recognised what each photograph shows, and a heat map for each marks what it went by ({_SHADES}). "
        "Rate how reliable the first map is beside the second: the one that describes the named object better is the more reliable.",
        "Is the first map more reliable than the second for: {name}?",
        ("first map", "second map"),
        tuple(
            {"text": f"{text} ({rating:+d})" if rating else f"{text} (0)", "value": rating}
            for text, rating in zip(("clearly more", "slightly more", "equally", "slightly less", "clearly less"), RATINGS, strict=True)
        ),
    ),
    "which": Wording(
        "What does the map highlight?",
        "Each photograph shows objects of two categories, and the map beside it marks what a program went by when it looked for one "
        "of the two (the brighter, the more it counted). Choose the category that the map highlights, or “both” if it highlights one "
        "as much as the other.",
        "Which category does this map highlight?",
        ("map",),
        ({"option": 0}, {"option": 1}, {"text": "both", "value": NEITHER["which"]}),
    ),
}
