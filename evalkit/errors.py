"""Errors of the user as one-sentence messages, and safe display of text from outside."""

import difflib
import logging
import re
import warnings
from collections.abc import Iterable, Mapping


class UserError(Exception):
    """Bad input: the message says what is wrong, where, and what to do instead. The command line exits with 2."""


def first_line(reason: BaseException) -> str:
    """Return the first line of an exception's message that is not blank."""
    return next((line for line in str(reason).splitlines() if line.strip()), "no message")


def cause(reason: BaseException) -> str:
    """Return the type of an exception and the first sentence of its message, without its full stop.

    A sentence ends where a full stop behind a word is followed by a space and a capital: not within numbers and names.
    """
    sentence = re.split(r"(?<=[a-z\d)\]'\"`]{2})\.\s+(?=[A-Z])", first_line(reason).strip())[0]
    return f"{type(reason).__name__}: {sentence.removesuffix('.')}"


def printable(text: str) -> str:
    """Return text from data sets and run folders, safe for a terminal or a page: no escape sequences, line breaks or hidden characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape").decode() for c in text)


def log_to_stderr(level: int) -> None:
    """Log warnings and what a run says of itself, with names from data sets made printable, to stderr.

    Left out are two kinds of warnings that need no action: torch warns of fewer cores than decoding processes; Pillow
    warns of large images, which are decoded like any other.
    """
    for message in ("This DataLoader will create", "Image size .* could be decompression bomb"):
        warnings.filterwarnings("ignore", message)
    if level <= logging.WARNING:
        # what data a run has, what of a checkpoint is loaded, and which jobs were submitted
        for name in ("evalkit.evaluation.inventory", "evalkit.models.fitting", "evalkit.launch.slurm"):
            logging.getLogger(name).setLevel(logging.INFO)
    handler = logging.StreamHandler()
    handler.setFormatter(_Printable("%(levelname)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


class _Printable(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = printable(record.message)
        return super().formatMessage(record)


def remote_failure(reason: BaseException) -> str | None:
    """Return a message for an exception of a remote storage library, as for no connection or no access; None for any other exception."""
    is_remote = type(reason).__module__.partition(".")[0] in ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "httpx")
    return f"the remote store failed ({first_line(reason)})" if is_remote else None


def shards_in_words(number: int) -> str:
    """Return a number of shards as text: `1 shard`, `2 shards`."""
    return f"{number} shard{'s' * (number != 1)}"


def counted(numbers: Mapping[str, int]) -> str:
    """Return counts as text, the most frequent first, without zeros: `grad_cam 3, cam 1`."""
    return ", ".join(f"{name} {number}" for name, number in sorted(numbers.items(), key=lambda item: -item[1]) if number)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the most similar known name, or None where none is similar."""
    near = difflib.get_close_matches(name, sorted(set(known)), n=5, cutoff=0.6)
    swapped = [other for other in near if sorted(other) == sorted(name)]  # 'vgg61' means 'vgg16', not 'vgg19'
    return next(iter(swapped or near), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the most similar known name, else `; known: ` and up to twelve known names."""
    names = sorted(set(known))
    near = nearest(name, names)
    if near is not None:
        return f"; did you mean '{near}'?"
    listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"; known: {listed}" if names else ""


def whole(value: int, name: str, least: int = 1) -> int:
    """Return the value. Raises UserError where it is not a whole number or less than `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{name}={value} must be a whole number, {least} or more")
    return value


def one_of(value: str, known: Iterable[str], name: str) -> str:
    """Return the value. Raises UserError where it is not among the known ones."""
    if value not in known:
        raise UserError(f"{name}={value} is not a valid choice{did_you_mean(str(value), known)}")
    return value
