"""Titles, legends and labels that stay within a figure, however long the names of methods and layers are."""

import re
import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text

from evalkit.layer_names import AT

LETTERS_PER_INCH = 12
"""Letters of a caution that are tried first for an inch of the figure's width."""
INCHES_PER_LINE = 0.2
"""Height of a line of the title or the legend."""
USUAL_NAME = 20
"""Letters of a method's name for which the figures' usual sizes leave room."""
INCHES_PER_LETTER = 0.085
FEWEST = 12
"""Letters below which a line is not made shorter."""


def entitle(figure: Figure, text: str, cautions: Sequence[str], **font: Any) -> None:
    """Set the figure's title, with cautions under it, in lines no wider than the figure, which becomes higher by what they need."""
    heading = figure.suptitle("", **font)
    tried = int(LETTERS_PER_INCH * figure.get_figwidth())
    title = _lines(figure, heading, text, max(tried, len(text)))
    lines = [line for one in cautions for line in _lines(figure, heading, one, tried)]
    added = len(title) - 1 + len(lines)
    if added:  # room above the axes, which the layout would take from them
        figure.set_figheight(figure.get_figheight() + INCHES_PER_LINE * added)
    heading.set_text("\n".join([*title, *lines]))


def _lines(figure: Figure, heading: Text, text: str, letters: int) -> list[str]:
    """Wrap a text at the largest number of letters, up to `letters`, with which no line is wider than the figure."""
    for number in range(letters, FEWEST, -2):
        lines = textwrap.wrap(text, number)
        heading.set_text("\n".join(lines))
        if heading.get_window_extent().width <= 0.98 * figure.bbox.width:
            return lines
    return textwrap.wrap(text, FEWEST)


def legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str], most: int, **options: Any) -> None:
    """Put a legend under the axes, in as many columns, at most `most`, as the figure's width has room for."""
    most = max(1, min(most, len(labels)))
    if options.get("title"):
        options["title"] = textwrap.fill(options["title"], int(LETTERS_PER_INCH * figure.get_figwidth()))
    for columns in range(most, 0, -1):
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns, **options)
        if columns == 1 or legend.get_window_extent().width <= 0.98 * figure.bbox.width:
            break
        legend.remove()
    added = -(-len(labels) // columns) - -(-len(labels) // most)
    figure.set_figheight(figure.get_figheight() + INCHES_PER_LINE * added)


def room(names: Sequence[str]) -> float:
    """Return the inches that the longest of these names needs beyond a usual one."""
    return INCHES_PER_LETTER * max(0, max(map(len, names)) - USUAL_NAME)


def folded(name: str, letters: int) -> str:
    """Return a name in lines of at most so many letters, `method@layer` with the layer on a line of its own if it is longer."""
    if len(name) <= letters:
        return name
    lines = [""]
    for piece in re.split(rf"(?={AT})|(?<=[._])", name):  # after a dot or underscore
        if piece.startswith(AT) or len(lines[-1] + piece) > letters:
            lines.append("")
        lines[-1] += piece
    return "\n".join(part for line in lines for part in textwrap.wrap(line, letters))
