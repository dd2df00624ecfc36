"""The text files that describe a data set: lists of labels, boxes and classes, whichever program saved them."""

import codecs
import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evalkit.errors import UserError, first_line
from evalkit.files import Place

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is the beginning of this one
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
MARK = "\ufeff"
"""The byte-order mark, which stays inside a text where marked files were joined."""
_END_OF_FILE = re.compile(r"\x1a\s*\Z")
"""Ctrl-Z, with which some programs of Windows end a text."""


@dataclass(frozen=True)
class Row:
    """A row of a table: its line in the file, counted from 1, and its values by column; a value that is missing is ""."""

    line: int
    values: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.values.get(column, "")


def normalised(name: str) -> str:
    """Return a name for comparisons: in Unicode NFC, without a byte-order mark and without blanks around it."""
    return unicodedata.normalize("NFC", name).replace(MARK, "").strip()


def spellings(path: str) -> list[str]:
    """Return what a path in a list may mean, likeliest first: it as written, without blanks around it, with forward slashes."""
    return list(dict.fromkeys((path, path.strip(), path.strip().replace("\\", "/"))))


def read_text(file: Place) -> str:
    """Read a text in UTF-8, or in UTF-16 or UTF-32 with a byte-order mark. Raises UserError as `decode_text` does."""
    try:
        content = file.read_bytes()
    except OSError as reason:
        raise UserError(f"cannot read {file} ({reason.strerror or first_line(reason)})") from reason
    return decode_text(content, str(file))


def decode_text(content: bytes, name: str) -> str:
    """Decode the content of a text file. Raises UserError, with `name` and line, for another encoding and for NUL bytes."""
    mark, encoding = next(((mark, encoding) for mark, encoding in _MARKS if content.startswith(mark)), (b"", "utf-8"))
    content = content[len(mark) :]
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as reason:
        line = content[: reason.start].decode(encoding, "replace").count("\n") + 1
        what = f"the byte 0x{content[reason.start]:02x} is not {encoding.upper()[:6].rstrip('-')}"
        raise UserError(f"{name}, line {line}: {what}; save the file as UTF-8") from reason
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise UserError(f"{name}, line {line}: a NUL byte, so this is no text, or text in UTF-16 without its mark; save the file as UTF-8")
    return _END_OF_FILE.sub("", text)


def read_names(file: Place) -> list[tuple[int, str]]:
    """Read a file with one name a line, as pairs of line and name. Blank lines and lines of separators alone are skipped.

    A name may stand in double quotes. Raises UserError as `read_text` does.
    """
    lines = enumerate(io.StringIO(read_text(file), newline=None), 1)
    names = ((number, line.replace(MARK, "").strip()) for number, line in lines)
    return [(number, _unquoted(name)) for number, name in names if name.strip(",;\t ")]


def _unquoted(name: str) -> str:
    quoted = len(name) > 2 and name[0] == name[-1] == '"'
    return name[1:-1].replace('""', '"') if quoted else name


def read_table(file: Place) -> tuple[list[str], list[Row]]:
    """Read a CSV with a header: its columns, and its rows except those without any value.

    Values are separated by commas, semicolons or tabs, whichever the header has most of. Raises UserError as `read_text`
    does, for text that is no CSV, for a row with more values than columns, and for two columns of one name with different values.
    """
    text = read_text(file)
    given = re.match(r"sep=(.)\r?\n", text)  # a first line of Excel
    start = 1 if given else 0
    text = text[given.end() :] if given else text
    header = next((line for line in text.splitlines() if line.strip()), "")
    separator = given[1] if given else max(",;\t", key=header.count)
    rows = _rows(file, text, separator, start)
    columns = [column.replace(MARK, "").strip() for column in next(rows, (0, []))[1]]
    return columns, [Row(line, _by_column(f"{file}, line {line}", columns, values)) for line, values in rows]


def _by_column(where: str, columns: Sequence[str], values: Sequence[str]) -> dict[str, str]:
    """Return the values of one row by column. Raises UserError where values belong to no column, or two to one."""
    if any(value.strip() for value in values[len(columns) :]):
        raise UserError(
            f"{where}: {len(values)} values for {len(columns)} columns; a value with separators stands in double quotes, "
            'as in "great white, shark"'
        )
    row: dict[str, str] = {}
    for column, value in zip(columns, values, strict=False):
        before = row.setdefault(column, value)
        if column and before != value:
            raise UserError(f"{where}: two columns are called '{column}', with '{before}' and '{value}'; keep one of them")
    return row


def _rows(file: Place, text: str, separator: str, start: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that hold a value, each with its first line; `start` lines of the file come before the text."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = start + 1
    try:
        for values in reader:
            if any(value.strip() for value in values):
                yield line, values
            line = start + reader.line_num + 1
    except csv.Error as reason:
        raise UserError(f"{file}, line {line} is no CSV ({reason}): a value with quotes or separators stands in double quotes") from reason
