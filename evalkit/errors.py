"""Mistakes of the caller, told in one sentence, and other people's text, shown harmlessly."""

import difflib
import logging
import warnings
from collections.abc import Iterable, Mapping


class UserError(Exception):
    """Bad input: the message says what is wrong, where, and what to do instead. The command line exits with 2."""


def first_line(reason: BaseException) -> str:
    """What an exception says, in one line."""
    return next((line for line in str(reason).splitlines() if line.strip()), "no message")


def printable(text: str) -> str:
    """Text from data sets and run folders for a terminal or a page: no escape sequences, line breaks or hidden marks."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape").decode() for c in text)


def log_to_stderr(level: int) -> None:
    """Warnings, which may hold names from a data set, to stderr; but neither that there are fewer cores than decoding processes,
    nor Pillow's doubts about large images, which are decoded like any other.
    """
    for doubt in ("This DataLoader will create", "Image size .* could be decompression bomb"):
        warnings.filterwarnings("ignore", doubt)
    handler = logging.StreamHandler()
    handler.setFormatter(_Printable("%(levelname)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


class _Printable(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = printable(record.message)
        return super().formatMessage(record)


def remote_failure(reason: BaseException) -> str | None:
    """What a library for remote storage says of a store that cannot be reached or entered; None for any other exception."""
    theirs = type(reason).__module__.partition(".")[0] in ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google")
    return f"the remote store failed ({first_line(reason)})" if theirs else None


def shards_in_words(number: int) -> str:
    """`1 shard`, `2 shards`."""
    return f"{number} shard{'s' * (number != 1)}"


def counted(numbers: Mapping[str, int]) -> str:
    """`grad_cam 3, cam 1`: the most frequent first, without zeros."""
    return ", ".join(f"{name} {number}" for name, number in sorted(numbers.items(), key=lambda item: -item[1]) if number)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known name, else the known names themselves (at most twelve)."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.6)
    near = [other for other in near if sorted(other) == sorted(name)] or near  # characters swapped: 'vgg61' is no 'vgg19'
    if near:
        return f"; did you mean '{near[0]}'?"
    listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"; known: {listed}" if names else ""


def whole(value: int, name: str, least: int = 1) -> int:
    """The value itself. Raises UserError where it is no whole number, or less than `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{name}={value} must be a whole number, {least} or more")
    return value


def one_of(value: str, known: Iterable[str], name: str) -> str:
    """The value itself. Raises UserError where it is no known one."""
    if value not in known:
        raise UserError(f"{name}={value} is no choice{did_you_mean(str(value), known)}")
    return value
