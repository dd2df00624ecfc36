"""The command line reference, from the program itself: not from what --help prints, which depends on the terminal and on typer."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from markup import code, fence, prose, table
from typer.main import get_command
from types_in_words import in_words

from evalkit.cli.main import app


def commands() -> str:
    """Return a table of all commands, then a section for each, with its arguments and options."""
    known = list(_below(get_command(app), "evalkit"))
    rows = [(f"[{code(path)}](#{path.replace(' ', '-')})", prose(_summary(command))) for path, command in known if not _is_group(command)]
    return "\n\n".join([table(("command", "what it does"), rows), *(_section(path, command) for path, command in known)])


def _below(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield f"{path} {name}", inner
            yield from _below(inner, f"{path} {name}")


def _is_group(command: Any) -> bool:
    return hasattr(command, "commands")


def _summary(command: Any) -> str:
    return str(command.help).partition("\n\n")[0].replace("\n", " ")


def _section(path: str, command: Any) -> str:
    title = f"{'#' * len(path.split())} {code(path)}"
    if _is_group(command):
        return f"{title}\n\n{prose(command.help)}"
    about = [_paragraph(text) for text in re.split(r"\n\n+", command.help.strip())]
    types = get_type_hints(inspect.unwrap(command.callback), include_extras=True)
    given = [parameter for parameter in command.params if parameter.name in types and not getattr(parameter, "hidden", False)]
    arguments = [parameter for parameter in given if parameter.param_type_name == "argument"]
    options = [parameter for parameter in given if parameter.param_type_name == "option"]
    needed = [f"{option.opts[-1]} {_kind(types[option.name])[0].upper()}" for option in options if option.required]
    usage = " ".join([path, *needed, *(["[OPTIONS]"] if options else []), *map(_usage, arguments)])
    rows = [
        (_names(parameter), _kind(types[parameter.name])[1], _default(parameter), prose(parameter.help or ""))
        for parameter in (*arguments, *options)
    ]
    head = ("argument or option", "value", "default", "meaning")
    return "\n\n".join([title, *about, fence(usage, "text"), *([table(head, rows)] if rows else [])])


def _paragraph(text: str) -> str:
    """Return a paragraph of a command's help; those that are commands become a block of code."""
    return fence(text, "bash") if text.lstrip().startswith("evalkit ") else prose(text)


def _usage(argument: Any) -> str:
    """Return an argument as in a usage line: in brackets where it may be left out, with dots where it may be repeated."""
    name = argument.name.upper() if argument.required else f"[{argument.name.upper()}]"
    return str(argument.metavar or (f"{name}..." if argument.nargs == -1 else name))


def _names(parameter: Any) -> str:
    """Return the name of an argument, or all names of an option; of a flag that is off by default, not how it is switched off."""
    if parameter.param_type_name == "argument":
        return code(_usage(parameter))
    return ", ".join(code(name) for name in [*parameter.opts, *(parameter.secondary_opts if parameter.default is not False else [])])


def _kind(annotation: Any) -> tuple[str, str]:
    """Return the type of one value, without and with its bounds: by the annotation, since typer's own types change with its version."""
    inner, *metadata = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    if get_origin(inner) in (UnionType, Union):
        inner = next(part for part in get_args(inner) if part is not type(None))
    one = get_args(inner)[0] if get_origin(inner) is list else inner
    if one is bool:
        return "", ""
    kind = "number" if one is int else in_words(one)
    return kind, kind + "".join(map(_bounds, metadata))


def _bounds(metadata: Any) -> str:
    low, high = getattr(metadata, "min", None), getattr(metadata, "max", None)
    return "" if low is None else f", {low} or more" if high is None else f", {low} to {high}"


def _default(parameter: Any) -> str:
    """Return the default; empty where there is none, or where the meaning says it."""
    default = parameter.default
    if parameter.required:
        return "required"
    if isinstance(default, bool):
        return code(parameter.opts[-1]) if default else ""
    plain = isinstance(default, str | int | float | Path)
    return code(default.as_posix() if isinstance(default, Path) else default) if plain else ""
