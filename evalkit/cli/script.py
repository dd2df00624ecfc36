"""The start of a script in experiments/ from its command line."""

from collections.abc import Callable
from typing import Any

import typer

from evalkit.cli.main import exit_with_error
from evalkit.errors import UserError, first_line


def run_script(main: Callable[..., Any]) -> None:
    """Run a script's function with the arguments of the command line; a user's mistake or a missing file is one sentence, exit code 2."""
    try:
        typer.run(main)
    except UserError as error:
        exit_with_error(str(error))
    except OSError as reason:
        if reason.filename is None:
            raise
        exit_with_error(f"cannot open {reason.filename} ({reason.strerror or first_line(reason)}); check the paths on the command line")
