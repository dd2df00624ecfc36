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
from evalkit.models.state_dicts import Fit, State, best_fit, holds_unread, part_fits, rank, state_dicts
from evalkit.models.weights_file import Unread, by_hand, type_name, whole_network

log = logging.getLogger(__name__)

_HEAD_ARGUMENTS = ("num_classes", "n_classes", "nb_classes", "num_labels", "classes", "num_outputs", "out_features")


def fit(module: nn.Module, content: Any, config: ModelConfig) -> None:
    """Find the state dict in the content of a checkpoint, load it into a module, and log where it was and what was changed of it.

    Of several state dicts that fit, the trained weights are preferred to their average (EMA). A prefix of all keys, as wrappers add
    it, is removed or added where the keys then are those of the network. The keys under one prefix suffice where the others are those
    of losses and metrics (`_is_beside`). Raises UserError where nothing fits, with what differs.
    """
    file, own = Path(str(config.weights)), module.state_dict()
    found = sorted(state_dicts(content), key=lambda item: rank(item[0]))
    if not found:
        raise _without_state_dict(content, file)
    fits = [best_fit(entry, state, own) for entry, state in found]
    exact = [each for each in fits if each.exact]
    closest = max(fits, key=lambda each: each.matching)  # the first of equal ones
    parts = [] if exact else [part for entry, state in found for part in part_fits(entry, state, own)]
    if parts:
        fitting = sorted((part for part in parts if part.exact), key=lambda part: rank(part.place))
        exact = [part for part in fitting if all(_is_beside(name, value, part, fitting) for name, value in part.left.items())]
        closest = closest if closest.matching or fitting else max([closest, *parts], key=lambda each: each.matching)
    chosen = exact[0] if exact else closest
    if exact[1:]:
        _refuse_equals(exact, config)
    given = chosen.state if exact else dict(found)[chosen.entry]  # the network's own hooks may know other names
    if any(map(holds_unread, given.values())):
        raise _misfit(chosen, config, _differences(chosen, own))
    if chosen.exact and (problem := _other_kind(given, own)):
        raise _misfit(chosen, config, problem)
    try:
        module.load_state_dict({**given, **chosen.filled} if exact and chosen.filled else given)
    except Exception as reason:  # besides torch, `_load_from_state_dict` and `set_extra_state` of a user may raise anything
        differences = (
            _refusal(reason) if chosen.exact else _differences(chosen, own) + (_head(chosen, own, config) or _part(chosen, module, parts))
        )
        raise _misfit(chosen, config, differences) from reason
    _tell(exact or [chosen], own, config)


def _is_beside(name: str, value: Any, part: Fit, fitting: list[Fit]) -> bool:
    """Return whether a key may be left out beside the part that fits: it is of a further network that fits, of a loss or of a metric.

    Losses and metrics are modules of their own with numbers, vectors and counts. Matrices and kernels may be a head on top of the
    part, and a tensor of the outer module itself a normalisation in front of it: without them the network would be another one.
    """
    if any(name.startswith(other.part) for other in fitting if other.entry == part.entry):
        return True
    return "." in name and isinstance(value, Tensor) and (value.ndim < 2 or not (value.is_floating_point() or value.is_complex()))


def _refuse_equals(exact: list[Fit], config: ModelConfig) -> None:
    """Raise UserError where nothing says which of several state dicts is meant."""
    first, second = (rank(each.place) for each in exact[:2])
    if first == 2 or (exact[0].part and first == second):
        names = ", ".join(map(_name, exact))
        raise UserError(f"model.weights={config.weights} holds several state dicts that fit ({names}): save the one you mean alone")


def _tell(exact: list[Fit], own: State, config: ModelConfig) -> None:
    """Log in one line from where the weights were read, what of their keys was removed, which were left out, and which types change."""
    chosen = exact[0]
    words = [f"read from {'/'.join(chosen.entry) or 'the top level'}"] if chosen.entry or exact[1:] else []
    if exact[1:]:
        words.append(f"though {' and '.join(map(_name, exact[1:]))} would fit too")
    if chosen.removed:
        words.append(f"prefix {' and '.join(chosen.removed)} removed")
    if chosen.added:
        words.append(f"prefix {chosen.added} added")
    if chosen.left:
        words.append(f"left out {_by_module(list(chosen.left))}")
    pairs = [(value, own.get(name)) for name, value in chosen.state.items()]
    casts = {
        f"{str(theirs.dtype).removeprefix('torch.')} to {str(ours.dtype).removeprefix('torch.')}"
        for theirs, ours in pairs
        if isinstance(theirs, Tensor) and isinstance(ours, Tensor) and ours.is_floating_point() and theirs.dtype != ours.dtype
    }
    if casts:
        words.append(f"cast from {' and from '.join(sorted(casts))}")
    if words:
        log.log(logging.WARNING if exact[1:] or chosen.part else logging.INFO, "weights of %s: %s", config.weights, ", ".join(words))


def _name(fit: Fit) -> str:
    return "/".join(fit.place) or "the top level"


def _by_module(names: list[str]) -> str:
    """Return all modules to which keys belong, with the number of their keys where there are several."""
    modules: dict[str, list[str]] = {}
    for name in names:
        modules.setdefault(name.partition(".")[0], []).append(name)
    return ", ".join(own[0] if len(own) == 1 else f"{module}.* ({len(own)} keys)" for module, own in modules.items())


def _misfit(tried: Fit, config: ModelConfig, differences: str) -> UserError:
    entry = f", entry {'/'.join(tried.entry)}," if tried.entry else ""
    without = f" without the prefix {' and '.join(tried.removed)}" if tried.removed and tried.matching else ""
    if any(map(holds_unread, tried.state.values())):
        differences += f"; {by_hand(Path(str(config.weights)), ''.join(f'[{key!r}]' for key in tried.entry))}"
    return UserError(f"model.weights={config.weights}{entry} does not fit {config.factory}{without}: {differences}")


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


def _part(tried: Fit, module: nn.Module, parts: list[Fit]) -> str:
    """Return a hint where the state dict is that of a part of the network, or where the network's is a part of it."""
    own = module.state_dict()
    for name, child in module.named_children():
        if own.keys() != child.state_dict().keys() and best_fit((), tried.state, child.state_dict()).exact:
            return f"; it fits the network's part '{name}': load it there in the factory, with model.weights=null"
    fitting = [part for part in parts if part.exact and part.entry == tried.entry]
    if not fitting:
        return ""
    beside = _by_module([name for name, value in fitting[0].left.items() if not _is_beside(name, value, fitting[0], fitting)])
    return f"; its keys that begin with '{fitting[0].part}' fit: save those alone, if the network does not need {beside}"


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
