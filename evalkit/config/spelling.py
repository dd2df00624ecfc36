"""The spelling of values: a name that looks like a number or a boolean stays as it was typed.

Hydra and yaml read `3.10` as 3.1 before it is known whether a name or a number is meant. So each value whose spelling they
would lose passes through the composition as a text that holds both (`mark`), and the type in the schema decides (`settle`).
"""

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin

from evalkit.config.types import at, element, members

_MARKED = re.compile("\ue000(.*?)\ue001(.*?)\ue002")  # code points for private use, which no keyboard types


def mark(text: str, value: float) -> str | float:
    """Return a text that holds a value's spelling and the value; the value itself where it tells the spelling."""
    if ":" in text:  # yaml reads 10:30 in base 60
        return text
    return value if str(value) == text else f"\ue000{text}\ue001{json.dumps(value)}\ue002"


def unmarked(text: str) -> str:
    """Return a text with the spelling of each marked value in it."""
    return _MARKED.sub(r"\1", text)


def has_marks(value: Any) -> bool:
    """Return whether a marked value is somewhere in nested settings."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(map(has_marks, inner)) or (isinstance(value, str) and _MARKED.search(value) is not None)


def settle(value: Any, annotation: Any) -> Any:
    """Return settings without marks: a number or boolean is text where the type asks for text, as it was typed.

    Where the type takes both, as `target` does, a whole number in its plain form is a number, and all else is text.
    """
    if isinstance(value, dict):
        return {key: settle(item, at(annotation, str(key))) for key, item in value.items()}
    if isinstance(value, list):
        return [settle(item, element(annotation)) for item in value]
    match = _MARKED.fullmatch(value) if isinstance(value, str) else None
    if isinstance(value, str) and match is None:
        return unmarked(value)
    text, read = (match[1], json.loads(match[2])) if match else (str(value), value)
    plain = isinstance(read, int) and not isinstance(read, bool) and match is None
    return text if isinstance(read, int | float) and _is_text(annotation, plain) else read


def settle_call(settings: dict[str, Any], function: Callable[..., Any]) -> dict[str, Any]:
    """Return the settings of a function without marks, by the types of its parameters."""
    try:
        parameters = inspect.signature(function, eval_str=True).parameters
    except (TypeError, ValueError, NameError):  # a function in C, or one whose types exist for type checkers alone
        parameters = cast(Any, {})
    types: dict[str, Any] = {"name": str, "_target_": str}
    types |= {
        name: type(p.default) if p.annotation is p.empty and p.default is not None else p.annotation for name, p in parameters.items()
    }
    return {key: settle(value, types.get(key, Any)) for key, value in settings.items()}


def _is_text(annotation: Any, plain: bool) -> bool:
    """Return whether a type takes text, and no number such as this one (`plain`: a whole number in its plain form)."""
    types = [kind for kind, _ in members(annotation)]
    types = (
        types
        if any(get_origin(kind) not in (list, tuple) for kind in types if kind is not type(None))
        else [kind for kind, _ in members(element(annotation))]
    )
    names = any(isinstance(kind, type) and issubclass(kind, str | Path) for kind in types)
    if any(kind in (int, float, bool) for kind in types):
        return names and not plain
    return names or any(get_origin(kind) is Literal and isinstance(get_args(kind)[0], str) for kind in types)


def swept_name(override: str, schema: Any) -> str:
    """Return one value of a sweep as part of a folder's name: names as they were typed, numbers as Python writes them."""
    key, _, value = override.partition("=")
    inner, annotation = value.strip("'"), schema
    if _MARKED.fullmatch(inner) is None:
        return unmarked(override)
    for part in key.lstrip("+").split("."):
        annotation = at(annotation, part)
    return f"{key}={settle(inner, annotation)}"
