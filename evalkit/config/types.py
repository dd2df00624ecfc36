"""What a type of the schema consists of: the members of unions, the fields of settings, the elements of lists."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def members(annotation: Any, constraints: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield each alternative of a type, with the constraints that apply to it."""
    if isinstance(annotation, FieldInfo):
        yield from members(annotation.annotation, (*constraints, *annotation.metadata))
    elif get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        found = [part for one in more for part in (one.metadata if isinstance(one, FieldInfo) else [one])]
        yield from members(inner, (*constraints, *found))
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from members(member, constraints)
    else:
        yield annotation, constraints


def at(annotation: Any, key: str) -> Any:
    """Return the type of a key of settings, a point or a mapping; Any where it is not known."""
    for kind, _ in members(annotation):
        known = fields_of(kind)
        if key in known:
            return known[key]
        if get_origin(kind) is dict:
            return get_args(kind)[1]
    return Any


def element(annotation: Any) -> Any:
    """Return the type of the elements of a list or tuple; Any where it is not known."""
    return next((get_args(kind)[0] for kind, _ in members(annotation) if get_origin(kind) in (list, tuple)), Any)


def fields_of(kind: Any) -> dict[str, Any]:
    """Return the types of the fields of settings or of a point; an empty mapping for any other type."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return dict(kind.model_fields)
    if is_dataclass(kind):
        return {field.name: field.type for field in fields(kind)}
    return {}
