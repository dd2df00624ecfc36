"""State dicts as training scripts leave them: found in a checkpoint, renamed where wrappers have changed their keys, and loaded."""

import inspect
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn, strided
from torch.nn.parameter import is_lazy

from evalkit.errors import UserError, first_line
from evalkit.imports import find
from evalkit.models.copies import COMPILED
from evalkit.models.settings import ModelConfig
from evalkit.models.weights_file import Unread, by_hand, type_name, whole_network

log = logging.getLogger(__name__)

_PLAIN = ("model", "state_dict", "model_state_dict", "net", "network", "weights", "params", "module")
_AVERAGED = ("ema", "model_ema", "state_dict_ema", "ema_state_dict", "params_ema", "ema_model", "module_ema")
_HEAD_ARGUMENTS = ("num_classes", "n_classes", "nb_classes", "num_labels", "classes", "num_outputs", "out_features")

State = Mapping[str, Any]
Entry = tuple[str, ...]
"""The keys under which a state dict lies in a checkpoint; empty for the whole."""


@dataclass(frozen=True)
class _Fit:
    """A state dict with keys as in the network, and where it differs from the network's own."""

    entry: Entry
    state: State
    filled: State
    """What the state dict lacks but determines."""
    missing: list[str]
    unexpected: list[str]
    misshapen: list[str]

    @property
    def exact(self) -> bool:
        return not (self.missing or self.unexpected or self.misshapen)

    @property
    def matching(self) -> int:
        return len(self.state) - len(self.unexpected) - len(self.misshapen)


def fit(module: nn.Module, content: Any, config: ModelConfig) -> None:
    """Find the state dict in the content of a checkpoint and load it into a module.

    Of several state dicts that fit, the trained weights are preferred to their average (EMA). A prefix of all keys, as wrappers add
    it, is removed or added where the keys then are those of the network. Raises UserError where nothing fits, with what differs.
    """
    file, own = Path(str(config.weights)), module.state_dict()
    found = sorted(_state_dicts(content), key=lambda item: _rank(item[0]))
    if not found:
        raise UserError(_without_state_dict(content, file))
    fits = [_best(entry, state, own) for entry, state in found]
    exact = [each for each in fits if each.exact]
    chosen = exact[0] if exact else max(fits, key=lambda each: each.matching)  # the first of equal ones
    if exact[1:]:
        _say_which(exact, config)
    given = chosen.state if exact else dict(found)[chosen.entry]  # the network's own hooks may know other names
    if any(map(_holds_unread, given.values())):
        raise UserError(_differences(chosen, own, config))
    try:
        module.load_state_dict({**given, **chosen.filled} if exact and chosen.filled else given)
    except Exception as reason:  # besides torch, `_load_from_state_dict` and `set_extra_state` of a user may raise anything
        if chosen.exact:
            raise UserError(_refusal(reason, config)) from reason
        raise UserError(_differences(chosen, own, config) + _part(chosen, module)) from reason


def _state_dicts(content: Any, entry: Entry = ()) -> Iterator[tuple[Entry, State]]:
    """Yield all mappings from names to tensors, down to the second level."""
    if isinstance(content, list | tuple) and not entry:
        content = {str(place): value for place, value in enumerate(content)}
    if not isinstance(content, Mapping):
        return
    if any(isinstance(value, Tensor) for value in content.values()) and all(isinstance(key, str) for key in content):
        yield entry, content
    if len(entry) < 2:
        for key, value in content.items():
            yield from _state_dicts(value, (*entry, str(key)))


def _rank(entry: Entry) -> int:
    """Return 0 for entries that name the trained weights, 1 for their average, and 2 for names that are not known."""
    return max((0 if key in _PLAIN else 1 if key in _AVERAGED else 2 for key in entry), default=0)


def _say_which(exact: list[_Fit], config: ModelConfig) -> None:
    names = ["/".join(each.entry) or "the top level" for each in exact]
    if _rank(exact[0].entry) == 2:
        raise UserError(
            f"model.weights={config.weights} holds several state dicts that fit ({', '.join(names)}): save the one you mean alone"
        )
    log.warning("%s: weights are read from %s, though %s would fit too", config.weights, names[0], " and ".join(names[1:]))


def _best(entry: Entry, state: State, own: State) -> _Fit:
    """Return the first renaming under which a state dict is the network's own, or the one with which most of it matches."""
    own_names = {_without(name, (COMPILED,)): name for name in own} | {name: name for name in own}
    best: _Fit | None = None
    for names in _renamings(list(state), list(own)):
        renamed = {own_names.get(new, new): state[old] for old, new in names.items()}
        if len(renamed) < len(names):
            continue
        this = _compare(entry, state if list(renamed) == list(state) else renamed, own)
        if this.exact:
            return this
        best = this if best is None or this.matching > best.matching else best
    assert best is not None
    return best


def _renamings(names: list[str], own: list[str]) -> Iterator[dict[str, str]]:
    """Yield new names for a state dict's keys: as they are, then without and with the prefixes that wrappers add.

    torch.compile and DataParallel may wrap a part of a network, so the names that they add are removed from within keys too. An
    averaged model (torch.optim.swa_utils) has a count beside its weights.
    """
    if "n_averaged" in names and "n_averaged" not in own and all(name.startswith("module.") for name in names if name != "n_averaged"):
        names = [name for name in names if name != "n_averaged"]
    for wrappers in ((), (COMPILED,), (COMPILED, "module")):
        short = [_without(name, wrappers) for name in names]
        while len(set(short)) == len(names):
            for prefix in ("", *_common_prefixes(own)):
                yield {old: prefix + new for old, new in zip(names, short, strict=True)}
            prefixes = _common_prefixes(short)
            if not prefixes:
                break
            short = [name.removeprefix(prefixes[0]) for name in short]


def _without(name: str, parts: tuple[str, ...]) -> str:
    return ".".join(part for part in name.split(".") if part not in parts)


def _common_prefixes(names: list[str]) -> list[str]:
    """Return the prefixes, the shortest first, that all names share: `module.` and `module.net.`."""
    paths = [name.split(".")[:-1] for name in names]
    shared = 0
    while paths and all(len(path) > shared and path[shared] == paths[0][shared] for path in paths):
        shared += 1
    return [".".join(paths[0][: length + 1]) + "." for length in range(shared)]


def _compare(entry: Entry, state: State, own: State) -> _Fit:
    """Compare a state dict with the network's own.

    What it may lack is the second name of a tensor that has two, since safetensors keeps only one, and BatchNorm's count of batches,
    which old versions of torch did not save and no result depends on.
    """
    missing = [name for name in own if name not in state]
    places = {_place(own[name]): name for name in own if name in state} if missing else {}
    filled = {name: own[name] for name in missing if name.endswith("num_batches_tracked")}
    filled |= {name: state[places[place]] for name in missing if (place := _place(own[name])) in places}
    unexpected = [name for name in state if name not in own]
    misshapen = [name for name in state if name in own and not _same_shape(state[name], own[name])]
    return _Fit(entry, state, filled, [name for name in missing if name not in filled], unexpected, misshapen)


def _place(value: Any) -> object:
    """Return what two names of one tensor have in common."""
    if not isinstance(value, Tensor) or is_lazy(value) or not value.numel() or value.is_meta or value.layout != strided:
        return object()
    return value.data_ptr(), value.shape, value.stride()


def _same_shape(value: Any, own: Any) -> bool:
    if not isinstance(own, Tensor):
        return not _holds_unread(value)
    return isinstance(value, Tensor) and (is_lazy(own) or value.shape == own.shape or (value.shape == (1,) and own.shape == ()))


def _holds_unread(value: Any) -> bool:
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple | set) else ()
    return isinstance(value, Unread) or any(map(_holds_unread, inner))


# What is said where nothing fits


def _differences(tried: _Fit, own: State, config: ModelConfig) -> str:
    """Return in one sentence how a state dict differs from the network's."""
    entry = f", entry {'/'.join(tried.entry)}," if tried.entry else ""
    start = f"model.weights={config.weights}{entry} does not fit {config.factory}: "
    if not tried.matching and not tried.misshapen:
        return f"{start}none of its keys ({_some(list(tried.state))}) is one of the network's ({_some(list(own))})"
    parts = []
    if tried.missing:
        parts.append(f"it lacks {_keys(tried.missing)}")
    if tried.unexpected:
        parts.append(f"it has {_keys(tried.unexpected)} that the network has not")
    if tried.misshapen:
        pairs = [f"{name}: {_shape(tried.state[name])} instead of {_shape(own[name])}" for name in tried.misshapen]
        parts.append(f"{_counted(tried.misshapen)} of another shape or type ({_some(pairs)})")
    if any(_holds_unread(value) for value in tried.state.values()):
        place = "".join(f"[{key!r}]" for key in tried.entry)
        return f"{start}{', '.join(parts)}; {by_hand(Path(str(config.weights)), place)}"
    return start + ", ".join(parts) + _head(tried, own, config)


def _part(tried: _Fit, module: nn.Module) -> str:
    """Return a hint where the state dict is that of a part of the network, or where the network's is a part of it."""
    own = module.state_dict()
    for name, child in module.named_children():
        if own.keys() != child.state_dict().keys() and _best((), tried.state, child.state_dict()).exact:
            return f"; it fits the network's part '{name}': load it there in the factory, with model.weights=null"
    for prefix in dict.fromkeys(name.partition(".")[0] + "." for name in tried.state if "." in name):
        part = {name.removeprefix(prefix): value for name, value in tried.state.items() if name.startswith(prefix)}
        if _best((), part, own).exact:
            return f"; its keys that begin with '{prefix}' fit: save those alone"
    return ""


def _head(tried: _Fit, own: State, config: ModelConfig) -> str:
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


def _refusal(reason: Exception, config: ModelConfig) -> str:
    lines = [line.strip() for line in str(reason).splitlines() if line.strip()]
    said = lines[1] if lines[1:] and "Error(s) in loading" in lines[0] else f"{type(reason).__name__}: {first_line(reason)}"
    return f"model.weights={config.weights} does not fit {config.factory}: {said[:300]}"


def _without_state_dict(content: Any, file: Path) -> str:
    """Return the error of a checkpoint in which no mapping holds tensors."""
    entries = content if isinstance(content, Mapping) else {}
    for key, value in [("", content), *entries.items()]:
        if isinstance(value, Unread) and not type_name(value).startswith("numpy") and (key == "" or _rank((key,)) < 2):
            return whole_network(file, f"[{key!r}]" if key else "")
    if not isinstance(content, Mapping):
        return f"{file} holds no state dict, but a {type_name(content)}"
    if not content:
        return f"{file} holds an empty state dict: nothing was saved in it"
    kinds = [f"{key}: {type_name(value)}" for key, value in content.items()]
    return f"{file} holds no state dict, which maps names to tensors, but {_some(kinds)}"


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
