"""Composition of overrides into configurations by Hydra, and their validation by pydantic."""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from evalkit.config import like
from evalkit.config.choices import GROUPS, choices
from evalkit.config.overrides import parse, parse_one, swept
from evalkit.config.schema import Former, Job, RunConfig
from evalkit.config.sentences import composition_error, refusal, shown
from evalkit.config.spelling import has_marks, settle, settle_call, swept_name, unmarked
from evalkit.config.yaml_files import search_path
from evalkit.errors import UserError, did_you_mean, nearest
from evalkit.imports import find
from evalkit.models.settings import ModelConfig

log = logging.getLogger(__name__)
CONFIG = "config"
"""The file of conf/ that all others are composed into."""
_MEASURED_WITH = {f"model.{key}" for key in ("factory", "args", "weights", "classes", "class_map")}
"""Keys on which a preset's published top-1 depends."""


Sizes = Callable[[RunConfig], tuple[int, int]]
"""A function that returns height and width of the images of a configuration."""


def compose_jobs(overrides: Sequence[str], *, multirun: bool = False, conf: Path | None = None, size: Sizes | None = None) -> list[Job]:
    """Compose and validate the jobs of a command line: one, or with `multirun` (or an experiment that sweeps) one per combination.

    `conf` is a folder of further yaml files with the layout of conf/; `like=FOLDER` among the overrides is a run folder that all other
    settings are taken from. `size` is asked only where a layer is to be proposed; without it,
    images whose size the configuration does not fix count as 224 x 224. Raises UserError.
    """
    _refuse_duplicate_names(conf)
    extra = [search_path(conf)] if conf is not None else []
    overrides, former_path = like.take(overrides)
    base = CONFIG if former_path is None else like.NAME
    former = None if former_path is None else _former(former_path, extra)
    parsed, order = _split_added("method", parse(overrides), conf)
    parsed, controls = _split_added("control", parsed, conf)
    orders = {"method": order, "control": controls}
    _check_names(parsed, conf)
    _check_keys(parsed, extra, base)
    fixed = [o.input_line for o in parsed if not o.is_sweep_override() and o.input_line]
    sweeps = {o.key_or_group: swept(o) for o in parsed if o.is_sweep_override()}
    if sweeps and not multirun:
        raise UserError(
            f"several values for {', '.join(sweeps)} need -m (multirun); a list of one run is written in brackets, as in 'method=[a,b]', "
            "and a comma of a name between quotes, as in 'out=\"a,b\"'"
        )
    hydra = _compose([*fixed, *extra], base, with_hydra=True).hydra
    if str(hydra.mode) == "RunMode.MULTIRUN":
        overridden = {o.key_or_group for o in parsed}
        for key, values in hydra.sweeper.params.items():
            if key not in overridden:
                sweep = parse_one(f"{key}={values}")
                sweeps[key] = swept(sweep) if sweep.is_sweep_override() else [str(values)]
    if former is not None:
        former = replace(former, given=frozenset(o.key_or_group for o in parsed))
    return [_job([*fixed, *combination], combination, extra, orders, size, former) for combination in _combinations(sweeps)]


def _former(text: str, extra: list[str]) -> Former:
    """Return the run that `like=` names, whose settings Hydra then composes with. Raises UserError."""
    path = like.run_folder(text)
    like.store(path)
    try:
        config, _ = validated(_content(_compose(extra, like.NAME)))
    except UserError as reason:
        raise UserError(f"{path / 'run.yaml'} does not fit this version: {reason}") from reason
    return Former(path, config, like.methods_of(path), frozenset())


def _split_added(group: str, parsed: list[Override], conf: Path | None) -> tuple[list[Override], list[str]]:
    """Remove methods or controls without a yaml file, which +GROUP.NAME.* adds, from GROUP=[...]; return also the original order."""
    added = {o.key_or_group.split(".")[1] for o in parsed if o.is_add() and o.key_or_group.startswith(f"{group}.")}
    added -= set(choices(group, conf))
    order: list[str] = []
    for i, override in enumerate(parsed):
        chosen = None if override.is_sweep_override() else override.value()
        if override.key_or_group == group and isinstance(chosen, list) and added & set(map(str, chosen)):
            order = [str(name) for name in chosen]
            parsed[i] = parse_one(f"{group}=[{','.join(name for name in order if name not in added)}]")
    return parsed, order


def _refuse_duplicate_names(conf: Path | None) -> None:
    """Raise UserError where a file of `conf` has the name of one of evalkit's, which Hydra would silently prefer."""
    for group in GROUPS if conf is not None else ():
        duplicates = sorted(set(choices(group)) & set(choices(group, conf, own=True)))
        if duplicates:
            raise UserError(f"{conf}/{group}/{duplicates[0]}.yaml has the name of one of evalkit's own files; choose another name")


def _combinations(sweeps: dict[str, list[str]]) -> Iterator[list[str]]:
    for values in itertools.product(*sweeps.values()):
        yield [f"{key}={value}" for key, value in zip(sweeps, values, strict=True)]


def _job(
    overrides: list[str], folder: list[str], extra: list[str], orders: dict[str, list[str]], size: Sizes | None, former: Former | None
) -> Job:
    composed = _compose([*overrides, *extra], CONFIG if former is None else like.NAME)
    for group, order in orders.items():
        if order:
            composed[group] = {name: composed[group][name] for name in dict.fromkeys([*order, *composed[group]])}
    given = _content(composed)
    if former is not None:
        like.adapt(given, former)
    if _replaces_what_was_measured(overrides):
        given["model"] |= {"expected_top1": None, "expected_top1_source": None}
    config, content = validated(given)
    if former is not None:
        like.refuse_foreign(config, former)
    _check_size(config.model, overrides)
    remark = ""
    if "auto" in config.model.layers:
        proposed, remark = _proposed(config.model, None if size is None else size(config))
        config = config.model_copy(update={"model": proposed})
        content["model"]["layer"] = config.model.layer if isinstance(config.model.layer, str) else list(config.model.layer)
    config.question()
    if folder:
        name = ",".join(swept_name(one, RunConfig) for one in folder).replace("/", "_")
        config = config.model_copy(update={"out": config.out / name})
        content["out"] = str(config.out)
    return Job(config, OmegaConf.to_yaml(OmegaConf.create(content)), remark, former)


def _proposed(model: ModelConfig, size: tuple[int, int] | None) -> tuple[ModelConfig, str]:
    """Return the settings with the proposed layer in place of `auto`, and the reason in words.

    Raises UserError where there is none, or it is named already.
    """
    from evalkit.models import zoo  # noqa: PLC0415 - imports torch, which is not needed for a named layer

    proposal = zoo.proposed_layer(model, size)
    proposed = proposal.layer
    if proposed in model.layers:
        raise UserError(f"model.layer={shown(model.layer)} names '{proposed}' twice, since auto is that layer: leave auto out")
    layers = tuple(proposed if layer == "auto" else layer for layer in model.layers)
    settings = model.model_copy(update={"layer": layers if len(layers) > 1 else proposed})
    return settings, f"model.layer={proposed}: {proposal.reason}"


def validated(given: dict[str, Any]) -> tuple[RunConfig, dict[str, Any]]:
    """Return the typed configuration and its settings without marks (see `spelling`). Raises UserError for a value that does not fit."""
    content = _settled(given)
    try:
        return RunConfig.model_validate(content), content
    except ValidationError as reason:
        raise refusal(reason, RunConfig, given) from reason


def _replaces_what_was_measured(overrides: list[str]) -> bool:
    """Return whether overrides give other weights, classes or another network than a preset's top-1 was measured with, and no top-1."""
    keys = {override.lstrip("+~").partition("=")[0] for override in overrides}
    replaced = any(".".join(key.split(".")[:2]) in _MEASURED_WITH for key in keys)
    return replaced and "model.expected_top1" not in keys


def _check_size(model: ModelConfig, overrides: list[str]) -> None:
    """Say what a preset's crop makes of the user's resize. Raises UserError where the crop is larger than the image."""
    if model.resize is None or model.crop is None:
        return
    side, given = min(model.resize) if isinstance(model.resize, tuple) else model.resize, shown(model.resize)
    if model.crop > side:
        raise UserError(
            f"model.crop={model.crop} is larger than model.resize={given}, so that images would have a black border: "
            f"set model.crop={side}, or model.crop=null for the whole image"
        )
    keys = {override.lstrip("+").partition("=")[0] for override in overrides}
    if "model.resize" in keys and "model.crop" not in keys:
        log.warning(
            "after model.resize=%s, model.crop=%d of the preset remains: the network sees the central %dx%d pixels; "
            "set model.crop=null for the whole image", given, model.crop, model.crop, model.crop,
        )  # fmt: skip


def _content(composed: DictConfig) -> dict[str, Any]:
    """Return a composed configuration as nested dicts, interpolations resolved. Raises UserError where a value is missing."""
    try:
        missing = sorted(OmegaConf.missing_keys(composed))
        if missing:
            raise UserError(f"{missing[0]} is not set: add {missing[0]}=...")
        content: dict[str, Any] = OmegaConf.to_container(composed, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as reason:
        raise composition_error(reason) from reason
    for group in ("method", "control"):
        chosen = content.get(group)
        invalid = [(key, value) for key, value in chosen.items() if not isinstance(value, dict)] if isinstance(chosen, dict) else []
        if invalid:
            raise UserError(
                f"{group}.{invalid[0][0]} is not a {group}: a file of conf/{group} begins with the line '# @package {group}.NAME'"
            )
    return content


def _settled(given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings without marks (see `spelling`), those of functions by the types of their parameters."""
    content: dict[str, Any] = settle(given, RunConfig)
    if isinstance(content.get("model"), dict):  # conf/model_settings.yaml comes first, and a reader of run.yaml looks for the name there
        found = content["model"]
        content["model"] = {**{key: found[key] for key in ModelConfig.model_fields if key in found}, **found}
    data, model = (value if isinstance(value, dict) else {} for value in map(given.get, ("data", "model")))
    if data:
        names = settle({key: data[key] for key in ("name", "_target_") if key in data}, dict[str, str])
        content["data"] = {**_by_function(data, data.get("_target_"), "data._target_"), **names}
    for group in ("method", "control"):
        chosen = given.get(group)
        for name, settings in chosen.items() if isinstance(chosen, dict) else ():
            if isinstance(settings, dict):
                content[group][name] = _by_function(settings, settings.get("_target_"), f"{group}.{name}._target_")
    if isinstance(model.get("args"), dict):
        content["model"]["args"] = _by_function(model["args"], model.get("factory"), "model.factory")
    return content


def _by_function(settings: dict[str, Any], target: object, key: str) -> dict[str, Any]:
    """Return the settings of a function without marks; it is imported only where there are marks."""
    if not has_marks(settings):
        return settings
    return settle_call(settings, find(unmarked(target), key)) if isinstance(target, str) else settle(settings, Any)


def _compose(overrides: list[str], base: str = CONFIG, with_hydra: bool = False) -> DictConfig:
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("evalkit.conf", version_base="1.3"):
            return compose(base, overrides=overrides, return_hydra_config=with_hydra)
    except MissingConfigException as reason:  # an experiment may name a network of torchvision or timm
        group, _, name = str(reason.missing_cfg_file).partition("/")
        if group not in GROUPS:
            raise composition_error(reason) from reason
        _refuse_unless_library(group, name, choices(group))
    except yaml.YAMLError as reason:
        raise UserError(f"a configuration file is not valid yaml: {' '.join(str(reason).split())}") from reason
    except (HydraException, OmegaConfBaseException, TypeError, ValueError) as reason:  # as for 'method=[{}]' and 'model=null'
        raise composition_error(reason) from reason
    return _compose(overrides, base, with_hydra)


def _check_names(parsed: list[Override], conf: Path | None) -> None:
    for override in parsed:
        if override.key_or_group in GROUPS and not override.is_delete():
            known = choices(override.key_or_group, conf)
            values = swept(override) if override.is_sweep_override() else [override.value()]
            for value in values:
                for name in value if isinstance(value, list) else [value]:
                    if isinstance(name, str) and name not in known and not name.startswith("["):
                        other = conf / override.key_or_group / f"{name}.yml" if conf is not None else None
                        if other is not None and other.is_file():
                            raise UserError(f"{other} is not read, since only files ending in .yaml are: call it {name}.yaml")
                        _refuse_unless_library(override.key_or_group, name, known)


def _refuse_unless_library(group: str, name: str, known: list[str]) -> None:
    """Raise UserError unless the name, which has no yaml file, is a network of torchvision or timm."""
    if group == "model":
        from evalkit.models import catalogue  # noqa: PLC0415 - imports torch, which other groups do not need

        if _register_library_network(name):
            return
        own = name.removesuffix(".py").replace("/", ".")
        if name.endswith(".py") or ("." in name and "/" not in name and find_spec(name.partition(".")[0]) is not None):
            factory = f"{own}.Net, Net being what builds it" if name.endswith(".py") else own
            raise UserError(f"no model '{name}': a network of your own is model=custom model.factory={factory}")
        raise UserError(f"no model '{name}'{catalogue.elsewhere(name, [*known, *catalogue.names()])}")
    raise UserError(f"no {group} '{name}'{did_you_mean(name, known)}")


def _register_library_network(name: str) -> bool:
    """Make the settings of a torchvision or timm network available to Hydra like a file of conf/model; return False if there is none."""
    from evalkit.models import catalogue  # noqa: PLC0415

    entry = catalogue.entry(name)
    if entry is not None:
        folder, _, file = f"model/{name}".rpartition("/")
        ConfigStore.instance().store(group=folder, name=file, node=entry, package="model")
    return entry is not None


def _check_keys(parsed: list[Override], extra: list[str], base: str) -> None:
    groups = [o.input_line for o in parsed if o.key_or_group in GROUPS and not o.is_sweep_override() and o.input_line]
    added = [o.input_line for o in parsed if o.is_add() and o.input_line]
    known = _keys(_compose([*groups, *added, *extra], base))
    for override in parsed:
        key = override.key_or_group
        if not override.is_add() and not override.is_delete() and key not in known and key not in GROUPS and not key.startswith("hydra"):
            group, method, *_ = [*key.split("."), ""]
            if group == "method" and f"method.{method}" in known:
                raise _unknown_switch(key, method, known)
            if group == "method" and method in choices("method"):
                raise UserError(f"'{key}' is set, but {method} is not among the chosen methods: add it to method=[...]")
            if group == "control" and method in choices("control") and f"control.{method}" not in known:
                raise UserError(f"'{key}' is set, but {method} is not among the chosen controls: add it to +control=[...]")
            raise UserError(f"no key '{key}' in the configuration{did_you_mean(key, known)}")


def _unknown_switch(key: str, method: str, known: set[str]) -> UserError:
    """Return the error of a key that a chosen method does not have."""
    own = f"method.{method}."
    name, switches = key.removeprefix(own), sorted(each.removeprefix(own) for each in known - {f"{own}_target_"} if each.startswith(own))
    if name.rstrip("s") in ("layer", "target_layer"):
        return UserError(
            f"'{key}' is set, but a method has no layer of its own: all of them explain model.layer, and model.layer=[a,b] explains several"
        )
    if method not in choices("method"):
        return UserError(f"no key '{key}' in the configuration: a further argument of {method} needs a plus, as in +{key}=...")
    near = nearest(name, switches)
    takes = f"{method} takes {', '.join(switches) or 'no settings'}"
    return UserError(f"'{key}' is set, but {method} takes no '{name}'" + (f"; did you mean '{near}'? " if near else ": ") + takes)


def _keys(config: DictConfig, prefix: str = "") -> set[str]:
    keys = set()
    for key in map(str, config):
        keys.add(f"{prefix}{key}")
        value = None if OmegaConf.is_missing(config, key) else config._get_node(key)
        if isinstance(value, DictConfig) and not value._is_none():
            keys |= _keys(value, f"{prefix}{key}.")
    return keys
