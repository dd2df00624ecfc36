"""Tables that are never wider than the terminal: cells are broken between words, so that no number is cut or split."""

import re
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

Lines = Sequence[Sequence[str]]
"""A header, then lines of as many cells. A line that has only its first cell is a heading."""
FOLDED = 12
"""Letters to which the names of the first column may be folded; what stands in the others is never split."""


def fits(console: Console, lines: Lines, **options: Any) -> bool:
    """Return whether a table fits without any cell on several lines."""
    return console.measure(_table(lines, **options), options=console.options.update(width=1000)).maximum <= console.width


def fitted(console: Console, lines: Lines, align: Lines | None = None, most: int | None = None, **options: Any) -> RenderableType:
    """Return a table of text for this terminal; `options` are of `rich.table.Table`, and `left`, the number of columns aligned left.

    Where it is too wide, cells are broken between words and before brackets, and names in the first column anywhere. Where even that
    does not suffice, each line becomes a paragraph: its first cell, then each column's name with its value. `align` are the lines from
    which the columns' widths are taken, for tables below each other, `most` the largest number of letters of the first column.
    """
    measured = lines if align is None else align
    natural = [max(_widest(line[i].split("\n")) for line in measured) for i in range(len(lines[0]))]
    least = [max(_widest(part for row in line[i].split("\n") for part in _parts(row)) for line in measured) for i in range(len(lines[0]))]
    free = natural[0]
    natural[0] = min(natural[0], most or natural[0])
    least[0] = min(least[0], natural[0], FOLDED)
    table = _table(measured, **options)
    room = console.width - console.measure(table, options=console.options.update(width=10**6)).maximum + sum(natural) - natural[0] + free
    if sum(least) > room:
        return _paragraphs(lines, header=options.get("show_header", True))
    widths = list(natural)
    while sum(widths) > room:
        widest = max((i for i in range(len(widths)) if widths[i] > least[i]), key=lambda i: widths[i])
        widths[widest] -= 1
    return _table([[_broken(cell, width) for cell, width in zip(line, widths, strict=True)] for line in lines], widths, **options)


def _table(lines: Lines, widths: Sequence[int] | None = None, left: int = 1, **options: Any) -> Table:
    table = Table(**{"box": box.SIMPLE_HEAD, "padding": (0, 1), "pad_edge": False, **options})
    for i, name in enumerate(lines[0]):
        table.add_column(escape(name), justify="left" if i < left else "right", overflow="fold", width=widths[i] if widths else None)
    for line in lines[1:]:
        table.add_row(*map(escape, line), style=None if any(line[1:]) or len(line) == 1 else "bold")
    return table


def _paragraphs(lines: Lines, *, header: bool) -> RenderableType:
    parts: list[RenderableType] = []
    for first, *values in lines[1:]:
        parts.append(Text(first.strip(), style="bold", overflow="fold"))
        names = lines[0][1:] if header else [""] * len(values)
        said = (f"{name} {value}".strip().replace("\n", " ") for name, value in zip(names, values, strict=True) if value)
        parts += [Padding(Text(one, overflow="fold"), (0, 0, 0, 2)) for one in said]
    return Group(*parts)


def _parts(text: str) -> list[str]:
    """Return what must stay on one line: words, and an interval in brackets."""
    before, bracket, rest = text.partition("[")
    return [*before.split(), *([bracket + rest] if bracket and cell_len(rest) < 2 * FOLDED else (bracket + rest).split())]


def _broken(cell: str, width: int) -> str:
    """Return a cell with its interval, or the control in a method's name, on a line of its own where it is wider than its column."""
    return "\n".join(re.sub(r" (?=\[)|(?<=\w)(?=\+[a-z])", "\n", row) if cell_len(row) > width else row for row in cell.split("\n"))


def _widest(texts: Any) -> int:
    return max(map(cell_len, texts), default=0)
