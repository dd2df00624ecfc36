"""Import of objects by their dotted path and of optional packages, and what a user's code does wrong while it runs."""

import argparse
import importlib
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from evalkit.errors import UserError, cause, did_you_mean

_PACKAGE = Path(__file__).parent
_LIBRARIES = tuple({Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")})


class ParsedArguments(SystemExit):
    """Raised in place of argparse's exit with a usage text; a program that catches its SystemExit catches it too."""


def is_users(file: Path) -> bool:
    """Return whether a file is the user's own code: not of this package, an installed one or Python's library."""
    if {"site-packages", "dist-packages"} & set(file.parts) or file.is_relative_to(_PACKAGE):
        return False
    return not any(file.is_relative_to(library) for library in _LIBRARIES) and file.is_file()


def dotted_names(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield all texts in a setting that may be dotted names, with their keys."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from dotted_names(inner, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from dotted_names(inner, f"{key}.{number}")
    elif isinstance(value, str) and "." in value and all(part.isidentifier() for part in value.split(".")):
        yield key, value


@contextmanager
def arguments_refused() -> Iterator[None]:
    """Let argparse raise `ParsedArguments` where it would print a usage text: the arguments in sys.argv are evalkit's."""

    def error(self: argparse.ArgumentParser, message: str) -> NoReturn:  # noqa: ARG001 - argparse's signature
        raise ParsedArguments(message)

    original = argparse.ArgumentParser.error
    argparse.ArgumentParser.error = error  # type: ignore[method-assign]
    try:
        yield
    finally:
        argparse.ArgumentParser.error = original  # type: ignore[method-assign]


def failure(reason: BaseException) -> str:
    """Return what an exception of a user's code means, and its place there: `net.py, line 3, calls sys.exit(0)`."""
    frames = [frame for frame in traceback.extract_tb(reason.__traceback__) if is_users(Path(frame.filename))]
    place = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}," if frames else "it"
    if isinstance(reason, ParsedArguments):
        return f"{place} parses the arguments of the command line, which are evalkit's; put that under if __name__ == '__main__':"
    if isinstance(reason, SystemExit):
        return f"{place} calls sys.exit({'' if reason.code is None else repr(reason.code)[:200]})"
    if isinstance(reason, ModuleNotFoundError) and reason.name and "." not in reason.name:
        return f"{place} needs the package {reason.name}, which is not installed"
    return cause(reason) + (f" ({place.removesuffix(',')})" if frames and not isinstance(reason, SyntaxError) else "")


def exit_of_users_code(stop: SystemExit) -> str | None:
    """Return the message for an exit that a user's code asked for; None for one of this package."""
    frames = traceback.extract_tb(stop.__traceback__)
    return f"{failure(stop)}, and a run cannot go on after that" if any(is_users(Path(frame.filename)) for frame in frames) else None


def find(dotted: str, key: str) -> Callable[..., Any]:
    """Import the callable at a dotted path. Raises UserError, which names the configuration key `key`."""
    path, _, name = dotted.rpartition(".")
    if path.partition(".")[0] == "timm":
        import_timm(f"{key}={dotted}")
    if not all(part.isidentifier() for part in (*path.split("."), name)):
        raise UserError(f"{key}={dotted} is not a dotted path such as package.module.function")
    try:
        with arguments_refused():
            module = importlib.import_module(path)
    except KeyboardInterrupt:
        raise
    except BaseException as reason:  # importing a user's file can raise any exception
        if isinstance(reason, ModuleNotFoundError) and f"{path}.".startswith(f"{reason.name}."):
            raise UserError(f"{key}={dotted}: cannot import '{path}' ({reason}); put its folder on PYTHONPATH") from reason
        raise UserError(f"{key}={dotted}: importing '{path}' failed: {failure(reason)}") from reason
    function = getattr(module, name, None)
    if function is None:
        public = [other for other, value in vars(module).items() if callable(value) and not other.startswith("_")]
        raise UserError(f"{key}={dotted}: '{path}' has no '{name}'{did_you_mean(name, public)}")
    if not callable(function):
        raise UserError(f"{key}={dotted} is not callable")
    return function


def import_timm(for_what: str) -> Any:
    """Import the optional package timm. Raises UserError, which says how to install it."""
    try:
        return importlib.import_module("timm")
    except ImportError as reason:
        raise UserError(
            f"{for_what} needs the package timm, which is not installed: in evalkit's folder, pip install '.[timm]'"
        ) from reason
