"""The configuration of a run folder as the start of another: `like=results/mine`."""

import json
import sys
from collections.abc import Iterable
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore

from evalkit.config.schema import Former, RunConfig
from evalkit.errors import UserError, did_you_mean, printable
from evalkit.files import Place, listed, place
from evalkit.imports import dotted_names, is_users
from evalkit.until import pair_of

KEY = "like"
NAME = "_like_"
"""Name of the composed configuration and of its parts in Hydra's store, where no file of conf/ is called so."""
PARTS = ("model", "data", "method", "control", "protocol", "launcher")
NOT_TAKEN = ("out", "maps_from", "until_from")
"""Keys that belong to one run folder alone."""
LIBRARIES = ("evalkit", "torchvision.models", "timm", "transformers", "torch.nn", "captum", "pytorch_grad_cam", "torchcam")
"""What a run folder may name besides the user's own files: it may come from others, and so name any function."""
_FILES = ("weights", "classes", "class_map")
_NO_PATHS = ("name", "_target_", "split", "subset", "image_column", "label_column")


def take(overrides: Iterable[str]) -> tuple[list[str], str | None]:
    """Return the overrides without `like=`, and its value. Raises UserError where it is empty or given twice."""
    rest = [text for text in overrides if text.lstrip("+").partition("=")[0] != KEY]
    given = [text.partition("=")[2].strip() for text in overrides if text not in rest]
    if len(given) > 1:
        raise UserError(f"like= names one run folder, and is given {len(given)} times")
    value = given[0].strip("'\"") if given else None
    if value in ("", "null"):
        raise UserError("like= names no run folder: like=results/mine")
    return rest, value


def run_folder(text: str) -> Place:
    """Return the run folder that `like=` names. Raises UserError where there is none, and which ones are near."""
    path = place(text.rstrip("/") or text)
    if isinstance(path, Path) and path.name in ("", ".."):
        path = path.resolve()
    if (path / "provenance.json").is_file():
        return path
    below = [record.parent.name for record in listed(path, "*/provenance.json")]
    if below:
        raise UserError(f"like={text} holds several runs ({printable(', '.join(below[:6]))}): name one, as in like={path / below[0]}")
    beside = [record.parent.name for record in listed(path.parent, "*/provenance.json")]
    hint = did_you_mean(path.name, beside) if beside else ""
    raise UserError(f"like={text} is not a run folder: it has no provenance.json{printable(hint)}")


def methods_of(path: Place) -> tuple[str, ...]:
    """Return the names of a run's rows. Raises UserError where its record is damaged."""
    record = path / "provenance.json"
    try:
        return tuple(json.loads(record.read_bytes())["identity"]["method"])
    except (ValueError, KeyError, TypeError) as reason:
        raise UserError(f"{record} is damaged ({type(reason).__name__}); the command that made it rewrites it") from reason


def store(path: Place) -> None:
    """Read the run's settings, and register them with Hydra as the configuration `NAME`.

    Keys that the run's version did not know have their defaults. Raises UserError: run.yaml is damaged, or no configuration of a run.
    """
    file = path / "run.yaml"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as reason:
        raise _unreadable(file, type(reason).__name__) from reason
    settings = content if isinstance(content, dict) else {}
    lacking = [key for key in ("model", "data", "method", "protocol") if not isinstance(settings.get(key), dict) or not settings[key]]
    if lacking:
        raise _unreadable(file, f"it has no settings of {', '.join(lacking)}")
    if "${" in json.dumps(content, default=str):  # evalkit resolves them before it writes, and others could read the environment by them
        raise _unreadable(file, "it holds a reference ${...}")
    _relocate(content, path)
    base = yaml.safe_load((resources.files("evalkit.conf") / "config.yaml").read_text(encoding="utf-8"))
    parts = {part: content[part] for part in PARTS if content.get(part)}
    chosen = {part: [NAME] if part in ("method", "control") else NAME for part in parts}
    defaults = [
        {key: chosen.get(key, name) for key, name in entry.items()} if isinstance(entry, dict) else entry for entry in base["defaults"]
    ]
    taken = {key: value for key, value in content.items() if key not in (*PARTS, *NOT_TAKEN)}
    for part, settings in parts.items():
        ConfigStore.instance().store(group=part, name=NAME, node=settings, package=part)
    ConfigStore.instance().store(name=NAME, node={**base, **taken, "defaults": defaults})


def _unreadable(file: Place, why: str) -> UserError:
    return UserError(f"{file} cannot be read, or is no configuration of a run ({why}): give its settings as overrides instead of like=")


def _relocate(content: dict[str, Any], path: Place) -> None:
    """Replace relative paths to files that are there from the folder in which the run was started, which its `out` tells."""
    start = started_in(path, content.get("out"))
    if start is None or start == Path.cwd():
        return
    model, data = content["model"], content["data"]
    for key in _FILES if isinstance(model, dict) else ():
        if isinstance(model.get(key), str) and not Path(model[key]).is_absolute() and (start / model[key]).is_file():
            model[key] = str(start / model[key])
    for key, value in data.items() if isinstance(data, dict) else ():
        if key not in _NO_PATHS and isinstance(value, str) and value and not Path(value).is_absolute() and (start / value).exists():
            data[key] = str(start / value)


def started_in(path: Place, out: object) -> Path | None:
    """Return the folder relative to which a run folder is called `out`; None where the two do not agree."""
    if not isinstance(path, Path) or not isinstance(out, str) or Path(out).is_absolute():
        return None
    whole, parts = path.resolve(), [part for part in Path(out).parts if part != "."]
    return Path(*whole.parts[: -len(parts)]) if parts and list(whole.parts[-len(parts) :]) == parts else None


def adapt(content: dict[str, Any], former: Former) -> None:
    """Set the keys of a composed configuration that cannot be the former run's where its methods are others.

    `control_of` names methods: all have the controls where those are not chosen. A run that `until` has ended explains the images
    on which it ended, whatever the methods.
    """
    methods = content.get("method")
    if not isinstance(methods, dict):  # refused later, in a sentence of its own
        return
    if "control_of" not in former.given and not set(former.config.control_of or ()) <= methods.keys():
        content["control_of"] = None
    if "until" not in former.given and former.config.until is not None:
        first, second = pair_of(former.config.until, former.methods)
        if not {name.partition("@")[0].partition("+")[0] for name in (first, second)} <= methods.keys():
            content["until_from"] = str(former.path)


def refuse_foreign(config: RunConfig, former: Former) -> None:
    """Raise UserError where a function that only the run folder names is neither a library's of networks nor in the user's files."""
    for part in ("model", "data", "method", "control"):
        ours, theirs = (_settings(one, part) for one in (config, former.config))
        for key, name in dotted_names(theirs, part):
            inherited = not any(f"{key}.".startswith(f"{given}.") for given in former.given)
            if inherited and (key, name) in dotted_names(ours, part) and not _is_known(name):
                raise UserError(
                    f"{former.path / 'run.yaml'} names {printable(key)}={printable(name)}, which is neither evalkit's nor in a file of "
                    "yours: a run folder may come from others; give the key as an override if you trust it"
                )


def _settings(config: RunConfig, part: str) -> Any:
    """Return the settings of a part that may name functions."""
    if part == "model":
        return config.model.model_dump(include={"factory", "args", "score"})
    return {"_target_": config.data["_target_"]} if part == "data" else getattr(config, part)


def _is_known(name: str) -> bool:
    """Return whether a dotted name is of `LIBRARIES` or of the user's own files, or leads nowhere; nothing is imported."""
    if f"{name}.".startswith(tuple(f"{library}." for library in LIBRARIES)):
        return True
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        return False
    loaded = sys.modules.get(top)
    spec = getattr(loaded, "__spec__", None) if loaded is not None else find_spec(top)
    places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
    return spec is None or any(place is not None and _users(Path(place)) for place in places)


def _users(path: Path) -> bool:
    return is_users(path) or (path.is_dir() and any(map(is_users, path.rglob("*.py"))))


def identity_settings(config: RunConfig) -> dict[str, Any]:
    """Return the settings that decide whether a run is the same but for its methods, as far as a configuration tells."""
    ends = config.until is not None
    return {
        "model": {**config.model.in_identity(), **config.model.model_dump(mode="json", include={*_FILES, "seed"})},
        "data": config.data,
        "protocol": config.protocol.model_dump(mode="json"),
        **config.model_dump(mode="json", include={"target", "images", "sample", "limit", "precision", "decode"}),
        **config.measures_in_identity(),
        "seed": config.seed if config.sample is not None or ends else None,
        **({key: getattr(config, key) for key in ("until", "until_metric", "until_point", "images_per_shard")} if ends else {}),
    }
