"""The reference of the Python objects: signatures, and docstrings as Markdown."""

import re
from collections.abc import Iterator
from typing import Any

from markup import code, fence, prose
from sources import named

WIDTH = 100
"""Characters of a signature's line, above which each parameter has a line of its own."""


def objects(*paths: str) -> str:
    """Return the sections of modules, classes and functions, given by their dotted paths."""
    return "\n\n".join(part for path in paths for part in _object(named(path), path, "###"))


def _object(found: Any, name: str, level: str) -> Iterator[str]:
    """Yield an object's heading, signature and docstring, then its documented members in the order of the source."""
    yield f"{level} {code(name)}"
    if found.is_function or found.is_class:
        yield fence(_signature(found), "py")
    yield from _docstring(found)
    members = [member for member in found.members.values() if _is_public(member)]
    values = [member for member in members if member.is_attribute or _is_cached(member)]
    if values:
        yield "\n".join([f"**{'Attributes' if found.is_class else 'Constants'}**\n", *map(_attribute, values)])
    for member in members:
        if member not in values:
            yield from _object(member, f"{found.name}.{member.name}" if found.is_class else member.name, "####")


def _is_public(member: Any) -> bool:
    return not member.is_alias and not member.name.startswith("_") and bool(member.docstring)


def _is_cached(member: Any) -> bool:
    """Return whether a function is read as an attribute, since a decorator of this package makes it a cached property."""
    paths = [str(decorator.callable_path) for decorator in getattr(member, "decorators", [])]
    return any("cached_property" in str(named(path).returns) for path in paths if path.startswith("evalkit."))


def _attribute(found: Any) -> str:
    """Return an attribute, property or constant as an entry of a list."""
    kind = found.returns if found.is_function else found.annotation
    about = "\n\n".join(_docstring(found)).replace("\n", "\n  ")
    return f"- {code(found.name if kind is None else f'{found.name}: {kind}')}: {about}"


def _signature(found: Any) -> str:
    """Return a definition without its body, a class as its constructor; with the quotes of the sources, which `ruff format` checks."""
    return re.sub(r"'([^'\"\\]*)'", r'"\1"', _single_quoted(found))


def _single_quoted(found: Any) -> str:
    if found.is_class:
        bases = f"({', '.join(map(str, found.bases))})" if found.bases else ""
        if "__init__" in found.members or "dataclass" in found.labels:
            body = _definition("__init__", found.parameters, "", "    ")
        else:
            body = "\n    ".join(f"{field.name}: {field.annotation}" for field in found.attributes.values() if field.annotation is not None)
        return f"class {found.name}{bases}:\n    {body or '...'}"
    decorators = "".join(f"@{name}\n" for name in ("classmethod", "staticmethod") if name in found.labels)
    return decorators + _definition(found.name, found.parameters, f" -> {found.returns}" if found.returns is not None else "")


def _definition(name: str, parameters: Any, returns: str, indent: str = "") -> str:
    words = list(_parameters(parameters))
    line = f"def {name}({', '.join(words)}){returns}: ..."
    if len(indent + line) <= WIDTH:
        return line
    inner = "".join(f"{indent}    {word},\n" for word in words)
    return f"def {name}(\n{inner}{indent}){returns}: ..."


def _parameters(parameters: Any) -> Iterator[str]:
    """Yield the parameters as they are written, with the bare star before the first that is passed by name."""
    starred = False
    for parameter in parameters:
        kind = parameter.kind.name
        if kind == "keyword_only" and not starred:
            yield "*"
        starred = starred or kind in ("keyword_only", "var_positional")
        star = {"var_positional": "*", "var_keyword": "**"}.get(kind, "")
        annotation = f": {parameter.annotation}" if parameter.annotation is not None else ""
        default = "" if parameter.default is None or star else f"{' = ' if annotation else '='}{parameter.default}"
        yield f"{star}{parameter.name}{annotation}{default}"


def _docstring(found: Any) -> Iterator[str]:
    """Yield the parts of a docstring as Markdown."""
    for section in found.docstring.parsed if found.docstring else []:
        kind = section.kind.value
        if kind == "text":
            yield prose(section.value)
        elif kind in ("parameters", "attributes"):
            yield _listed(
                "Arguments" if kind == "parameters" else "Attributes", ((code(item.name), item.description) for item in section.value)
            )
        elif kind in ("raises", "returns", "yields"):
            items = ((code(item.annotation) if item.annotation is not None else "", item.description) for item in section.value)
            yield _listed(kind.capitalize(), items)
        elif kind == "admonition":
            yield f"**{section.title}** {prose(section.value.contents)}"
        else:
            raise ValueError(f"{found.path}: a docstring's section '{kind}' has no form in docs/api.md")


def _listed(title: str, items: Any) -> str:
    lines = (f"- {name}: {_entry(text)}" if name else f"- {_entry(text)}" for name, text in items)
    return f"**{title}**\n\n" + "\n".join(lines)


def _entry(text: str) -> str:
    return prose(re.sub(r"\s+", " ", text.strip()))
