"""The yaml files of conf/: their names and contents."""

from importlib import resources
from pathlib import Path
from typing import Any, Literal, overload

import yaml

from evalkit.errors import UserError

GROUPS = ("model", "data", "method", "control", "protocol", "launcher", "experiment")
"""The folders of conf/."""


def choices(group: str, conf: Path | None = None, *, own: bool = False) -> list[str]:
    """Return the sorted names of the yaml files of a group: those of evalkit and of the folder `conf`; with `own`, only the latter.

    Raises UserError where there is no folder `conf`.
    """
    folders: list[Any] = [] if own else [resources.files("evalkit.conf") / group]
    if conf is not None:
        _check_folder(conf)
    if conf is not None and (conf / group).is_dir():
        folders.append(conf / group)
    return sorted({entry.name.removesuffix(".yaml") for folder in folders for entry in folder.iterdir() if entry.name.endswith(".yaml")})


def _check_folder(conf: Path) -> None:
    """Raise UserError unless a folder has the layout of conf/, at least in part."""
    if conf.is_file():
        raise UserError(f"{conf} (--conf) is a file: give the folder that holds the folders {', '.join(GROUPS)}, or some of them")
    if not conf.is_dir():
        raise UserError(f"no folder {conf} (--conf)")
    if not any((conf / group).is_dir() for group in GROUPS):
        parent = f"; did you mean {conf.resolve().parent}?" if conf.resolve().name in GROUPS else ""
        raise UserError(f"{conf} (--conf) holds none of the folders {', '.join(GROUPS)}{parent}")


@overload
def read_choice(group: str, name: str, conf: Path | None = None, *, as_text: Literal[True]) -> str: ...


@overload
def read_choice(group: str, name: str, conf: Path | None = None) -> dict[str, Any]: ...


def read_choice(group: str, name: str, conf: Path | None = None, *, as_text: bool = False) -> str | dict[str, Any]:
    """Read a yaml file of a group; return its parsed content or, with `as_text`, its text. Raises UserError where it is not valid yaml."""
    own = conf / group / f"{name}.yaml" if conf is not None else None
    file = own if own is not None and own.is_file() else resources.files("evalkit.conf") / group / f"{name}.yaml"
    try:
        text = file.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except yaml.YAMLError as reason:
        raise UserError(f"{own} is not valid yaml: {' '.join(str(reason).split())}") from reason
    except UnicodeDecodeError as reason:
        raise UserError(f"{own} is no file of settings in UTF-8 ({reason})") from reason
    if not isinstance(content, dict):
        raise UserError(f"{own} holds no settings such as 'key: value'")
    return text if as_text else content


def function_entry(group: Literal["method", "control"], name: str, conf: Path | None) -> tuple[dict[str, Any], str]:
    """Return the settings of a yaml file of conf/method or conf/control, and its first comment as a description."""
    text, content = read_choice(group, name, conf, as_text=True), read_choice(group, name, conf)
    about = next((line[2:] for line in text.splitlines() if line.startswith("# ") and "@package" not in line), "")
    return content.get(group, {}).get(name, content), about
