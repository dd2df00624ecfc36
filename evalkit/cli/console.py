"""What commands print: lines of text as they are, however long."""

from rich.console import Console
from rich.markup import escape


def lines(*, stderr: bool) -> Console:
    """Return a console that neither breaks lines nor colours what looks like a number or a path."""
    return Console(emoji=False, stderr=stderr, highlight=False, soft_wrap=True)


def show(line: str, mark: str = "") -> None:
    """Print a result of a command, a line of plain text, to stdout; `mark` stands before it in rich's markup."""
    lines(stderr=False).print(mark + escape(line))


def note(line: str, mark: str = "") -> None:
    """Print what is no result to stderr, as `show` does."""
    lines(stderr=True).print(mark + escape(line))
