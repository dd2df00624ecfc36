"""Markdown that a code host and the built site show alike."""

import re
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a column without any content is left out."""
    rows = [[cell.replace("|", r"\|").replace("\n", " ") for cell in row] for row in rows]
    used = [i for i in range(len(head)) if any(row[i] for row in rows)]
    lines = [[head[i] for i in used], ["---" for _ in used], *([row[i] for i in used] for row in rows)]
    return "\n".join("|".join(["", *(f" {cell} " if cell else " " for cell in line), ""]) for line in lines)


def code(text: object) -> str:
    """Return text as code, empty for empty text."""
    return f"`{text}`" if str(text) else ""


def fence(text: str, language: str) -> str:
    """Return a block of code."""
    return f"```{language}\n{text.strip()}\n```"


def prose(text: str) -> str:
    """Return plain text that means the same in Markdown: `*` and `<` outside of code are characters, not emphasis or HTML."""
    parts = re.split(r"(`[^`\n]*`)", text)
    return "".join(part if part.startswith("`") else _escaped(part) for part in parts)


def _escaped(text: str) -> str:
    return re.sub(r"(?<=\S)\*|\*(?=\S)", r"\\*", re.sub(r"<(?=[\w/!?])", "&lt;", text))
