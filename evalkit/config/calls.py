"""The settings of a function, checked by its parameters before it is called."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from evalkit.config.sentences import misfit
from evalkit.config.spelling import settle_call
from evalkit.config.types import members
from evalkit.errors import UserError, did_you_mean

_CHECKED = (str, int, float, bool, type(None))
"""Types that settings can have; a parameter of any other type is left to its function."""


def fitted(function: Callable[..., Any], settings: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the settings of a function as its parameters' types ask for them: 5 is text where text is meant.

    `key` precedes their names, as in `data.root`. Raises UserError: a parameter is missing or unknown; in evalkit's own
    functions, also where a value has another type.
    """
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # a function in C that does not tell them
        return dict(settings)
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        unknown = next((name for name in settings if name not in parameters), None)
        if unknown is not None:
            raise UserError(f"no key '{key}.{unknown}' in the configuration{did_you_mean(unknown, parameters)}")
    for name, p in parameters.items():
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and name not in settings:
            raise UserError(f"{key}.{name} is not set: add {key}.{name}=...")
    values = settle_call(dict(settings), function)
    own = str(getattr(function, "__module__", "")).startswith("evalkit.")
    for name, value in values.items() if own else ():
        _check(f"{key}.{name}", value, parameters[name].annotation)
    return values


def _check(key: str, value: Any, annotation: Any) -> None:
    """Raise UserError where a value is not of one of the plain types of its parameter."""
    if all(kind in _CHECKED for kind, _ in members(annotation)):
        try:
            TypeAdapter(annotation).validate_python(value, strict=True)
        except ValidationError as reason:
            raise misfit(key, value, FieldInfo.from_annotation(annotation)) from reason
        if value == "":
            raise misfit(key, value, FieldInfo.from_annotation(annotation))
