"""Types of settings in words that need no Python."""

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from markup import code
from pydantic import BaseModel
from pydantic.fields import FieldInfo

NAMES = {"str": "text", "int": "whole number", "float": "number", "bool": "`true` or `false`", "None": "`null`", "NoneType": "`null`"}
NAMES |= {"Any": "anything", "dict": "mapping", "Point": "protocol point", "Path": "path", "UPath": "address", "Folder": "folder"}
NAMES |= {"Sequence[float]": "list of: number"}


def named_in_words(annotation: str) -> str:
    """Return an annotation such as "str | None" in words."""
    return " or ".join(NAMES.get(part, part) for part in annotation.split(" | "))


def in_words(annotation: Any, bounds: str = "") -> str:
    """Return a type in words, with the bounds of a number."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return in_words(arguments[0], bounds + "".join(map(_bounds, arguments[1:])))
    if origin is Literal:
        return ", ".join(map(code, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(in_words(argument) for argument in arguments)
    if origin is list or (origin is tuple and arguments[-1] is Ellipsis):
        return f"list of: {in_words(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    if origin is tuple:
        return f"list of {len(arguments)}: {in_words(arguments[0])}"
    name = (origin or annotation).__name__
    return NAMES.get(name, name) + bounds


def _bounds(metadata: Any) -> str:
    """Return the bounds that a field's metadata sets, as text."""
    if isinstance(metadata, FieldInfo):
        return "".join(map(_bounds, metadata.metadata))
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    return "".join(f" {sign} {getattr(metadata, name)}" for name, sign in signs.items() if getattr(metadata, name, None) is not None)
