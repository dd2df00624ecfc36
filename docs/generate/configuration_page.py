"""The reference of conf/: keys with their types, defaults and comments."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from markup import code, fence, prose, table
from sources import ROOT, named
from types_in_words import in_words, named_in_words
from yaml_comments import Key, header, keys_and_remarks

from evalkit.config import schema
from evalkit.models.settings import ModelConfig

HEAD = ("key", "type", "default", "meaning")
LAUNCHERS = {"local": schema.LocalLauncher, "ray": schema.RayLauncher, "slurm": schema.SlurmLauncher}
CHOSEN_BY_FILE = ("_target_", "name")
"""Keys of a file that are not for changing: choosing the file sets them."""


def keys(name: str) -> str:
    """Return the first comment of a yaml file, and a table of its keys."""
    file = ROOT / name
    if file.stem == "model_settings":
        return "\n\n".join([header(file), *_tables(file, "model.", _types_of(ModelConfig))])
    if file.parent.name == "conf":
        return "\n\n".join([header(file), _groups(file), *_tables(file, "", _types_of(schema.RunConfig), without=("defaults", "hydra"))])
    group = file.parent.name
    without = CHOSEN_BY_FILE if group != "model" else ()
    return "\n\n".join([header(file), *_tables(file, f"{group}.", _types(file), without=without)])


def models() -> str:
    """Return a table of the networks of conf/model."""
    entries = {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in _files("model") if file.stem != "custom"}
    rows = [
        (code(name), code(entry["factory"]), code(entry["layer"]), _size(entry), code(entry["weights"] or "null"))
        for name, entry in entries.items()
    ]
    return table(("model=", "network", "layer", "images", "weights"), rows)


def methods(group: str = "method") -> str:
    """Return a table of the keys of all files of conf/method, or of conf/control, that have any."""
    rows = []
    for file in _files(group):
        types = _types(file)
        settings = (key for key in keys_and_remarks(file) if isinstance(key, Key) and key.name != "_target_")
        rows += [(code(file.stem), *_row(key, "", types)) for key in settings]
    return table((group, *HEAD), rows)


def whole_file(name: str) -> str:
    """Return a yaml file as it is."""
    return fence((ROOT / name).read_text(encoding="utf-8"), "yaml")


def _files(group: str) -> list[Path]:
    return sorted((ROOT / "conf" / group).glob("*.yaml"))


def _groups(config: Path) -> str:
    """Return a table of the groups: what each holds, and which file is the default."""
    chosen = {
        group: name
        for entry in yaml.safe_load(config.read_text(encoding="utf-8"))["defaults"]
        if isinstance(entry, dict)
        for group, name in entry.items()
    }
    rows = [(code(group), code(_written(name)), ", ".join(code(file.stem) for file in _files(group))) for group, name in chosen.items()]
    return table(("group", "default", "files of conf/"), rows)


def _tables(file: Path, prefix: str, types: Callable[[str], str], without: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield tables of keys, and between them the remarks that stand between keys in the file."""
    rows: list[tuple[str, ...]] = []
    for entry in keys_and_remarks(file):
        if isinstance(entry, str):
            yield from [table(HEAD, rows)] if rows else []
            yield prose(entry)
            rows = []
        elif entry.name not in without:
            rows.append(_row(entry, prefix, types))
    yield from [table(HEAD, rows)] if rows else []


def _row(key: Key, prefix: str, types: Callable[[str], str]) -> tuple[str, ...]:
    default = "required" if key.value == "???" else code(_written(key.value))
    return code(f"{prefix}{key.name}"), types(key.name), default, prose(key.comment)


def _types(file: Path) -> Callable[[str], str]:
    """Return the types of a file's keys as text: those of its settings, or of the parameters of its `_target_`."""
    group = file.parent.name
    if group == "model":
        return _types_of(ModelConfig)
    if group == "protocol":
        return _types_of(schema.ProtocolConfig)
    if group == "launcher":
        return _types_of(LAUNCHERS[file.stem])
    target = yaml.safe_load(file.read_text(encoding="utf-8"))["_target_"]
    parameters = named(target).parameters
    return lambda key: named_in_words(str(parameters[key].annotation)) if key in parameters else ""


def _types_of(settings: type) -> Callable[[str], str]:
    hints = get_type_hints(settings, include_extras=True)
    return lambda key: in_words(hints[key])


def _written(value: Any) -> str:
    """Return a value as an override writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_written(inner)}' for key, inner in value.items())}}}"
    return re.sub(r"\s+", " ", str(value))


def _size(entry: dict[str, Any]) -> str:
    """Return what becomes of an image before the network sees it."""
    resize = f"resize {_written(entry['resize'])}" if entry["resize"] is not None else ""
    crop = f"crop {entry['crop']}" if entry["crop"] is not None else ""
    return ", ".join(part for part in (resize, crop) if part)
