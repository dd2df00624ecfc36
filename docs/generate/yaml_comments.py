"""Yaml files with their comments, which yaml parsers drop."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from markup import fence, prose


@dataclass(frozen=True)
class Key:
    """A key at the top level of a file; the comment is that of its line, with the indented comment lines below it."""

    name: str
    value: Any
    comment: str


def keys_and_remarks(file: Path) -> Iterator[Key | str]:
    """Yield the keys of a file in order, and as text the comments that stand on lines of their own between them."""
    text = file.read_text(encoding="utf-8")
    lines, values = text.splitlines(), yaml.safe_load(text)
    nodes = yaml.compose(text).value
    ends = [*(key.start_mark.line for key, _ in nodes[1:]), len(lines)]
    for (key, value), end in zip(nodes, ends, strict=True):
        first = key.start_mark.line
        on_one_line = value.start_mark.line == value.end_mark.line == first
        rest = lines[first][value.end_mark.column if on_one_line else key.end_mark.column :]
        below = lines[first + 1 : end]
        comments = [found[1] for found in [re.search(r"(?:^|\s|:)#\s*(.*)$", rest)] if found]
        comments += [line.strip(" #") for line in below if re.match(r"\s+#", line)] if on_one_line else []
        yield Key(key.value, values[key.value], " ".join(comments))
        if remark := " ".join(line.lstrip("# ") for line in below if line.startswith("#")):
            yield remark


def header(file: Path) -> str:
    """Return the comment at the top of a file as Markdown: its text, and its indented lines as commands."""
    parts: list[tuple[bool, list[str]]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            is_command = line.startswith("#   ")
            if not parts or parts[-1][0] != is_command:
                parts.append((is_command, []))
            parts[-1][1].append(line.removeprefix("#   ") if is_command else line.lstrip("# "))
    return "\n\n".join(fence("\n".join(lines), "bash") if is_command else prose("\n".join(lines)) for is_command, lines in parts)
