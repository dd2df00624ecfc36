"""A checkpoint's state dict is loaded into a network, or an error says how the two differ."""

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn, strided

from evalkit.errors import UserError, first_line
from evalkit.imports import find
from evalkit.models.settings import ModelConfig
from evalkit.models.state_dicts import Fit, State, best_fit, holds_unread, rank, state_dicts
from evalkit.models.weights_file import Unread, by_hand, type_name, whole_network

log = logging.getLogger(__name__)

_HEAD_ARGUMENTS = ("num_classes", "n_classes", "nb_classes", "num_labels", "classes", "num_outputs", "out_features")


def fit(module: nn.Module, content: Any, config: ModelConfig) -> None:
    """Find the state dict in the content of a checkpoint and load it into a module.

    Of several state dicts that fit, the trained weights are preferred to their average (EMA). A prefix of all keys, as wrappers add
    it, is removed or added where the keys then are those of the network. Raises UserError where nothing fits, with what differs.
    """
    file, own = Path(str(config.weights)), module.state_dict()
    found = sorted(state_dicts(content), key=lambda item: rank(item[0]))
    if not found:
        raise _without_state_dict(content, file)
    fits = [best_fit(entry, state, own) for entry, state in found]
    exact = [each for each in fits if each.exact]
    chosen = exact[0] if exact else max(fits, key=lambda each: each.matching)  # the first of equal ones
    if exact[1:]:
        _say_which(exact, config)
    given = chosen.state if exact else dict(found)[chosen.entry]  # the network's own hooks may know other names
    if any(map(holds_unread, given.values())):
        raise _misfit(chosen, config, _differences(chosen, own))
    if chosen.exact and (problem := _other_kind(given, own)):
        raise _misfit(chosen, config, problem)
    try:
        module.load_state_dict({**given, **chosen.filled} if exact and chosen.filled else given)
    except Exception as reason:  # besides torch, `_load_from_state_dict` and `set_extra_state` of a user may raise anything
        differences = (
            _refusal(reason) if chosen.exact else _differences(chosen, own) + (_head(chosen, own, config) or _part(chosen, module))
        )
        raise _misfit(chosen, config, differences) from reason


def _say_which(exact: list[Fit], config: ModelConfig) -> None:
    names = ["/".join(each.entry) or "the top level" for each in exact]
    if rank(exact[0].entry) == 2:
        raise UserError(
            f"model.weights={config.weights} holds several state dicts that fit ({', '.join(names)}): save the one you mean alone"
        )
    log.warning("%s: weights are read from %s, though %s would fit too", config.weights, names[0], " and ".join(names[1:]))


def _misfit(tried: Fit, config: ModelConfig, differences: str) -> UserError:
    entry = f", entry {'/'.join(tried.entry)}," if tried.entry else ""
    if any(map(holds_unread, tried.state.values())):
        differences += f"; {by_hand(Path(str(config.weights)), ''.join(f'[{key!r}]' for key in tried.entry))}"
    return UserError(f"model.weights={config.weights}{entry} does not fit {config.factory}: {differences}")


def _differences(tried: Fit, own: State) -> str:
    """Return in words how a state dict differs from the network's."""
    if not tried.matching and not tried.misshapen:
        return f"none of its keys ({_some(list(tried.state))}) is one of the network's ({_some(list(own))})"
    parts = []
    if tried.missing:
        parts.append(f"it lacks {_keys(tried.missing)}")
    if tried.unexpected:
        parts.append(f"it has {_keys(tried.unexpected)} that the network has not")
    if tried.misshapen:
        pairs = [f"{name}: {_shape(tried.state[name])} instead of {_shape(own[name])}" for name in tried.misshapen]
        parts.append(f"{_counted(tried.misshapen)} of another shape or type ({_some(pairs)})")
    return ", ".join(parts)


def _part(tried: Fit, module: nn.Module) -> str:
    """Return a hint where the state dict is that of a part of the network, or where the network's is a part of it."""
    own = module.state_dict()
    for name, child in module.named_children():
        if own.keys() != child.state_dict().keys() and best_fit((), tried.state, child.state_dict()).exact:
            return f"; it fits the network's part '{name}': load it there in the factory, with model.weights=null"
    for prefix in dict.fromkeys(name.partition(".")[0] + "." for name in tried.state if "." in name):
        part = {name.removeprefix(prefix): value for name, value in tried.state.items() if name.startswith(prefix)}
        if best_fit((), part, own).exact:
            return f"; its keys that begin with '{prefix}' fit: save those alone"
    return ""


def _head(tried: Fit, own: State, config: ModelConfig) -> str:
    """Return a hint at the number of classes where only the last layer differs, and only in its number of outputs."""
    theirs, ours = ([state[name] for name in tried.misshapen] for state in (tried.state, own))
    only_shapes = not tried.missing and not tried.unexpected and all(isinstance(value, Tensor) and value.ndim for value in theirs)
    if not only_shapes or not any(tried.misshapen) or list(own)[-1] not in tried.misshapen:
        return ""
    outputs = {(len(value), len(mine)) for value, mine in zip(theirs, ours, strict=True)}
    if len(outputs) > 1 or any(value.shape[1:] != mine.shape[1:] for value, mine in zip(theirs, ours, strict=True)):
        return ""
    number, known = len(theirs[0]), inspect.signature(find(config.factory, "model.factory")).parameters
    names = [name for name in _HEAD_ARGUMENTS if name in config.args or name in known]
    if not names and any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        names = ["num_classes"]
    plus = "" if names and names[0] in config.args else "+"
    setting = f"set {plus}model.args.{names[0]}={number}" if names else f"let the factory build {number}"
    return f"; these weights have {number} outputs: {setting}"


def _other_kind(state: State, own: State) -> str:
    """Return in words which tensor is of a kind that copying into the network's plain one fails for, or would lose part of it."""
    for name, value in state.items():
        mine = own.get(name)
        if not isinstance(value, Tensor) or not isinstance(mine, Tensor):
            continue
        if value.is_quantized and not mine.is_quantized:
            return f"{name} is quantised: save the state dict of the network before quantisation, or {name}.dequantize()"
        if value.layout != strided and mine.layout == strided:
            return f"{name} is sparse: save {name}.to_dense()"
        if value.is_complex() and not mine.is_complex():
            return f"{name} is complex and the network's is real: its imaginary part would be lost"
    return ""


def _refusal(reason: Exception) -> str:
    lines = [line.strip() for line in str(reason).splitlines() if line.strip()]
    return lines[1][:300] if lines[1:] and "Error(s) in loading" in lines[0] else f"{type(reason).__name__}: {first_line(reason)}"


def _without_state_dict(content: Any, file: Path) -> UserError:
    """Return the error of a checkpoint in which no mapping holds tensors."""
    entries = content if isinstance(content, Mapping) else {}
    for key, value in [("", content), *entries.items()]:
        if isinstance(value, Unread) and not type_name(value).startswith("numpy") and (key == "" or rank((key,)) < 2):
            return whole_network(file, f"[{key!r}]" if key else "")
    if not isinstance(content, Mapping):
        return UserError(f"{file} holds no state dict, but a {type_name(content)}")
    if not content:
        return UserError(f"{file} holds an empty state dict: nothing was saved in it")
    kinds = [f"{key}: {type_name(value)}" for key, value in content.items()]
    wanted = "save model.state_dict() alone, its values as tensors"
    return UserError(f"{file} holds no state dict, which maps names to tensors, but {_some(kinds)}: {wanted}")


def _shape(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type_name(value)
    return "a number" if not value.ndim else "x".join(map(str, value.shape))


def _counted(names: list[str]) -> str:
    return f"{len(names)} key{'s' * (len(names) != 1)}"


def _keys(names: list[str]) -> str:
    return f"{_counted(names)} ({_some(names)})"


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f", ... {len(names) - 4} more" if names[4:] else "")
