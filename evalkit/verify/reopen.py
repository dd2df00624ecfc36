"""The configuration of a finished run, from its folder, with other places of its data and weights."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from evalkit.config.choices import GROUPS
from evalkit.config.compose import validated
from evalkit.config.overrides import parse
from evalkit.config.schema import RunConfig
from evalkit.errors import UserError, did_you_mean
from evalkit.imports import find
from evalkit.runs.folder import RunFolder

TRUSTED = ("evalkit.methods", "evalkit.data", "evalkit.models", "torchvision.models", "timm.create_model", "timm.models")
"""Packages whose functions a run folder may name. It may come from others, so no other function is called without being asked for."""
_NAMES = ("_target_", "factory", "score", "method", "base_method")
"""Settings that name a function by its dotted path."""
_FREE = {"device": "auto", "maps_from": None}
"""What the machine that made the run decides for itself, and no number depends on."""


def reopened(folder: RunFolder, overrides: Sequence[str] = (), allow: Sequence[str] = ()) -> RunConfig:
    """Return the configuration of a run, with overrides such as data.root=...; `allow` names modules whose functions may be called.

    Raises UserError: run.yaml is no configuration, an override names no key of it, or it names a function that is not allowed.
    """
    file = folder.path / "run.yaml"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as reason:
        raise UserError(f"{file} cannot be read ({type(reason).__name__}), so the run cannot be computed again; restore it") from reason
    if not isinstance(content, dict) or not {"model", "data", "method", "protocol"} <= content.keys():
        raise UserError(f"{file} is no configuration of a run, so the run cannot be computed again; restore it")
    content |= _FREE
    given = set[str]()
    for override in parse(overrides):
        key, value = override.key_or_group, override.value()
        if key in GROUPS:
            raise UserError(f"verify takes {key} from the run; only its places may be others, as in data.root=... or model.weights=...")
        if override.is_delete() or override.is_sweep_override():
            raise UserError(f"'{override.input_line}' gives no value for the run's own settings; write key=value")
        _put(content, key, value, added=override.is_add())
        given.add(str(value))
    named = _dotted({group: content.get(group) for group in ("model", "data", "method", "control")})
    refused = [(key, dotted) for key, dotted in named if dotted not in given and not _is_allowed(key, dotted, allow)]
    if refused:
        key, dotted = refused[0]
        modules = ",".join(dict.fromkeys([*allow, *(name.rpartition(".")[0] for _, name in refused)]))
        raise UserError(
            f"{folder.path} names {key}={dotted}, which is not part of evalkit, torchvision or timm: "
            f"read it, put its folder on PYTHONPATH, and give --allow {modules}"
        )
    return validated(content)[0]


def _put(content: dict[str, Any], key: str, value: object, *, added: bool) -> None:
    """Replace one setting. Raises UserError where there is none of that name, unless it is added."""
    *path, last = key.split(".")
    inner: Any = content
    for part in path:
        inner = inner.get(part) if isinstance(inner, dict) else None
    if not isinstance(inner, dict) or (last not in inner and not added):
        raise UserError(f"no key '{key}' in the configuration of the run{did_you_mean(key, _keys(content))}")
    inner[last] = value


def _keys(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in content.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")


def _dotted(content: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the settings that name a function by its dotted path."""
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
        elif key in _NAMES and isinstance(value, str) and "." in value:
            yield f"{prefix}{key}", value


def _is_allowed(key: str, dotted: str, allow: Sequence[str]) -> bool:
    """Return whether a function is in a trusted or allowed module: by its dotted path, and where it is defined."""
    if _within(dotted, allow):
        return True
    return _within(dotted, TRUSTED) and _within(str(getattr(find(dotted, key), "__module__", "")), TRUSTED)


def _within(dotted: str, packages: Sequence[str]) -> bool:
    return any(f"{dotted}.".startswith(f"{package}.") for package in packages)
