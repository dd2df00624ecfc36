"""One sentence for each value that does not fit the schema, made from the schema's types instead of pydantic's words."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from evalkit.config.spelling import unmarked
from evalkit.config.types import at, element, fields_of, members
from evalkit.errors import UserError, did_you_mean, printable

_COUNTS = {2: "two", 3: "three"}
_SHOWN = 80
"""Longest value that a sentence repeats in full, in characters."""


def refusal(error: ValidationError, schema: Any, given: Any) -> UserError:
    """Return the first error of settings as an error of the user; `given` are the settings as they were typed (see `spelling`)."""
    errors = error.errors()
    first = next((each for each in errors if each["loc"][-1:] != ("name",)), errors[0])  # a name may be that of another key, which is wrong
    key, annotation, value = _locate(first["loc"], schema, given)
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        _, owner, _ = _locate(first["loc"][:-1], schema, given)
        parent = key.rpartition(".")[0]
        known = [f"{parent}.{name}" if parent else name for kind, _ in members(owner) for name in fields_of(kind)]
        return UserError(f"no key '{key}' in the configuration{did_you_mean(key, known)}")
    if first["type"].startswith("union_tag"):
        tags = [tag for kind, _ in members(annotation) for tag in get_args(at(kind, "name").annotation)]
        name = value.get("name") if isinstance(value, dict) else value
        return UserError(f"{key}.name={shown(name)} is not valid: choose {_in_words(tags)} with {key}=NAME")
    if first["type"] == "missing" and isinstance(first["loc"][-1], str):
        owner, _, name = key.rpartition(".")
        return UserError(f"{owner} has no {name}" if owner[-1:].isdecimal() else f"{key} is not set: add {key}=...")
    if first["type"] == "value_error":
        problem = first["msg"].removeprefix("Value error, ")
        if isinstance(value, dict):
            return UserError(f"{key}: {problem}" if key[-1:].isdecimal() else problem)
        return UserError(f"{key}={shown(value)} {problem}")
    return misfit(key, value, annotation)


def misfit(key: str, value: Any, annotation: Any) -> UserError:
    """Return the error of a value that its type does not take: what it is, and what to give."""
    what = _described(annotation)
    example = annotation.examples[0] if isinstance(annotation, FieldInfo) and annotation.examples else None
    what += f", as in {key}={example}" if example else ""
    if value is None or value == "":
        return UserError(f"{key} is {'null' if value is None else 'empty'}: give {what}")
    names = [str(name) for kind, _ in members(annotation) for name in _choices(kind)]
    wrong = next((item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str) and item not in names), None)
    hint = did_you_mean(wrong, names) if names and wrong else ""
    given = f"'{value}'" if isinstance(value, str) and value.isdecimal() else shown(value)  # text, unlike the number 5
    return UserError(f"{key}={given} is not valid: give {what}{hint if 'did you mean' in hint else ''}")


def shown(value: Any) -> str:
    """Return a value as one would type it, shortened where it is long."""
    text = "" if value == "" else printable(_typed(value))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _typed(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_typed(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_typed, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else unmarked(str(value)) or "''"


def _locate(path: Iterable[int | str], schema: Any, given: Any) -> tuple[str, Any, Any]:
    """Return the dotted key of an error, its type and its value: the innermost that has a name or is a point.

    Pydantic's path also names the members of unions, which are no keys.
    """
    key, annotation, value = [], schema, given
    for part in path:
        kinds = [kind for kind, _ in members(annotation)]
        named = isinstance(part, str) and any(part in fields_of(kind) or get_origin(kind) is dict for kind in kinds)
        extra = isinstance(part, str) and isinstance(value, dict) and part in value and any(map(fields_of, kinds))
        if named or extra:
            annotation, value = at(annotation, str(part)), value.get(part) if isinstance(value, dict) else None
        elif isinstance(part, int) and isinstance(value, list) and any(fields_of(kind) for kind, _ in members(element(annotation))):
            annotation, value = element(annotation), value[part]
        else:
            continue
        key.append(str(part))
    return ".".join(key), annotation, value


def _described(annotation: Any) -> str:
    """Return in words what a type takes."""
    if isinstance(annotation, FieldInfo) and annotation.description:
        return annotation.description
    kinds = [(kind, constraints) for kind, constraints in members(annotation)]
    words = [_kind_in_words(kind, constraints) for kind, constraints in kinds if kind is not type(None)]
    if any(kind is type(None) for kind, _ in kinds):
        words.append("null")
    words = list(dict.fromkeys(words))
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])}, or {words[-1]}"


def _kind_in_words(kind: Any, constraints: tuple[Any, ...]) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _in_words(inner)
    if origin is tuple and ... not in inner:
        return f"a list of {_COUNTS[len(inner)]} {_described(inner[0]).removeprefix('a ').replace('number', 'numbers', 1)}"
    if origin in (list, tuple):
        return f"{_described(inner[0])}, or a list of such"
    if kind in (int, float):
        return ("a whole number" if kind is int else "a number") + _range(constraints)
    if kind is bool:
        return "true or false"
    if isinstance(kind, type) and issubclass(kind, Path):
        return "a folder"
    if fields_of(kind):
        return f"settings ({', '.join(fields_of(kind))})"
    return "a text" if kind is str else "settings, {key: value}"


def _in_words(names: Sequence[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _range(constraints: tuple[Any, ...]) -> str:
    least, above, most = (next((getattr(c, name) for c in constraints if hasattr(c, name)), None) for name in ("ge", "gt", "le"))
    if least is not None and most is not None:
        return f" from {least} to {most}"
    if above is not None:
        return " above 0" if most is None else f" above {above}, at most {most}"
    return "" if least is None else f" of {least} or more"


def _choices(kind: Any) -> tuple[Any, ...]:
    if get_origin(kind) in (list, tuple):
        return tuple(name for inner, _ in members(get_args(kind)[0]) for name in _choices(inner))
    return get_args(kind) if get_origin(kind) is Literal else ()


def composition_error(reason: Exception) -> UserError:
    """Return the error of a configuration that Hydra or OmegaConf cannot compose or resolve."""
    text = unmarked(" ".join(str(reason).splitlines()[:1]))
    for pattern, words in _COMPOSITION:
        match = re.search(pattern, text)
        if match:
            return UserError(words.format(*match.groups()))
    return UserError(f"the configuration cannot be composed: {text}")


_COMPOSITION = [
    (r"Could not override '(.*?)'", "{0} cannot be set: only keys that exist can be, and new ones are added, as in +{0}.KEY=VALUE"),
    (
        r"Error merging override (.*)",
        "{0} is not valid: give the kind of value that evalkit's own files have there (text, a number, a list or settings)",
    ),
    (r"An item is already at '(.*?)'", "{0} exists already: leave out the + before it"),
    (r"Could not delete from config\. '(.*?)' does not exist", "no key '{0}' in the configuration that could be deleted"),
    (r"Could not delete '(.*?)'\. No match in the defaults list", "~{0} deletes nothing that can be deleted: set {0}=... instead"),
    (r"Environment variable '(.*?)' not found", "the environment variable {0}, which the configuration refers to, is not set"),
    (r"Unsupported interpolation type (\S+)", "${{{0}:...}} is no reference that evalkit knows; one to a key is written ${{model.name}}"),
    (r"Recursive interpolation", "a key of the configuration refers to itself by ${{...}}"),
    (r"raised while resolving interpolation: (.*)", "a reference ${{...}} in the configuration cannot be resolved ({0})"),
    (r"Interpolation key '(.*?)' not found", "${{{0}}} names no key of the configuration"),
]
