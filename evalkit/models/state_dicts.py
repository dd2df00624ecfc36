"""State dicts in checkpoints: where they lie, and how their keys are renamed to be those of a network."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, strided
from torch.nn.parameter import is_lazy

from evalkit.models.copies import COMPILED
from evalkit.models.weights_file import Unread

_PLAIN = ("model", "state_dict", "model_state_dict", "net", "network", "weights", "params", "module", "checkpoint", "models")
_AVERAGED = ("ema", "model_ema", "state_dict_ema", "ema_state_dict", "params_ema", "ema_model", "module_ema")

COUNT = "n_averaged"
"""The number of averaged models, which torch.optim.swa_utils.AveragedModel keeps beside their weights."""

State = Mapping[str, Any]
Entry = tuple[str, ...]
"""The keys under which a state dict lies in a checkpoint; empty for the whole."""


@dataclass(frozen=True)
class Fit:
    """A state dict with keys as in the network, and where it differs from the network's own."""

    entry: Entry
    state: State
    filled: State
    """What the state dict lacks but determines."""
    missing: list[str]
    unexpected: list[str]
    misshapen: list[str]
    removed: Sequence[str] = ()
    """The prefixes, and the names of wrappers within keys, without which these are the network's."""
    added: str = ""
    """The prefix that the network's keys have and the state dict's have not."""
    part: str = ""
    """The prefix of the keys that are compared, where the state dict has others beside them; without a prefix that all keys have."""
    left: State = field(default_factory=dict)
    """Those other keys with their values, without a prefix that all keys have; or the count of an averaged model."""

    @property
    def place(self) -> Entry:
        """The keys under which the weights lie: the entry, and the prefix where they are a part of it."""
        return (*self.entry, self.part.removesuffix(".")) if self.part else self.entry

    @property
    def exact(self) -> bool:
        """Whether the state dict is all that the network has, and nothing else."""
        return not (self.missing or self.unexpected or self.misshapen)

    @property
    def matching(self) -> int:
        """The number of keys that the network has, with values of its shape."""
        return len(self.state) - len(self.unexpected) - len(self.misshapen)


def state_dicts(content: Any, entry: Entry = ()) -> Iterator[tuple[Entry, State]]:
    """Yield all mappings from names to tensors, down to the third level, those of optimizers excepted."""
    if isinstance(content, list | tuple) and not entry:
        content = {str(place): value for place, value in enumerate(content)}
    if not isinstance(content, Mapping) or "param_groups" in content:
        return
    if any(isinstance(value, Tensor) for value in content.values()) and all(isinstance(key, str) for key in content):
        yield entry, content
    if len(entry) < 3:
        for key, value in content.items():
            yield from state_dicts(value, (*entry, str(key)))


def rank(entry: Entry) -> int:
    """Return 0 for entries that name the trained weights, 1 for their average, and 2 for names that are not known."""
    return max((0 if key in _PLAIN else 1 if key in _AVERAGED else 2 for key in entry), default=0)


def best_fit(entry: Entry, state: State, own: State) -> Fit:
    """Return the first renaming under which a state dict is the network's own, or the one with which most of it matches."""
    own_names = {_without(name, (COMPILED,)): name for name in own} | {name: name for name in own}
    best: Fit | None = None
    for names, removed, added in _renamings(list(state), list(own)):
        renamed = {own_names.get(new, new): state[old] for old, new in names.items()}
        if len(renamed) < len(names):
            continue
        this = replace(_compare(entry, state if list(renamed) == list(state) else renamed, own), removed=removed, added=added)
        if COUNT in state and COUNT not in names:
            this = replace(this, left={COUNT: state[COUNT]})
        if this.exact:
            return this
        best = this if best is None or this.matching > best.matching else best
    assert best is not None
    return best


def part_fits(entry: Entry, state: State, own: State) -> Iterator[Fit]:
    """Yield the best fit of each part of a state dict: a training script's module may hold the network beside losses and metrics."""
    outer = ["", *_common_prefixes(list(state))][-1]
    state = {name.removeprefix(outer): value for name, value in state.items()}
    for prefix in dict.fromkeys(name.partition(".")[0] + "." for name in state if "." in name):
        inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        left = {name: value for name, value in state.items() if not name.startswith(prefix)}
        if left:
            this = best_fit(entry, inside, own)
            yield replace(this, part=prefix, left=left, removed=[*filter(None, [outer]), prefix, *this.removed])


def _renamings(names: list[str], own: list[str]) -> Iterator[tuple[dict[str, str], Sequence[str], str]]:
    """Yield new names for a state dict's keys, with what was removed and added: as they are, then without and with wrappers' prefixes.

    torch.compile and DataParallel may wrap a part of a network, so the names that they add are removed from within keys too. An
    averaged model (torch.optim.swa_utils) has a count beside its weights.
    """
    if COUNT in names and COUNT not in own and all(name.startswith("module.") for name in names if name != COUNT):
        names = [name for name in names if name != COUNT]
    for wrappers in ((), (COMPILED,), (COMPILED, "module")):
        short = [_without(name, wrappers) for name in names]
        removed = [f"{wrapper}." for wrapper in wrappers if any(wrapper in name.split(".") for name in names)]
        while len(set(short)) == len(names):
            for prefix in ("", *_common_prefixes(own)):
                yield {old: prefix + new for old, new in zip(names, short, strict=True)}, removed, prefix
            prefixes = _common_prefixes(short)
            if not prefixes:
                break
            short = [name.removeprefix(prefixes[0]) for name in short]
            removed = [*removed, prefixes[0]]


def _without(name: str, parts: tuple[str, ...]) -> str:
    return ".".join(part for part in name.split(".") if part not in parts)


def _common_prefixes(names: list[str]) -> list[str]:
    """Return the prefixes, the shortest first, that all names share: `module.` and `module.net.`."""
    paths = [name.split(".")[:-1] for name in names]
    shared = 0
    while paths and all(len(path) > shared and path[shared] == paths[0][shared] for path in paths):
        shared += 1
    return [".".join(paths[0][: length + 1]) + "." for length in range(shared)]


def _compare(entry: Entry, state: State, own: State) -> Fit:
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
    return Fit(entry, state, filled, [name for name in missing if name not in filled], unexpected, misshapen)


def _place(value: Any) -> object:
    """Return what two names of one tensor have in common."""
    if not isinstance(value, Tensor) or is_lazy(value) or not value.numel() or value.is_meta or value.layout != strided:
        return object()
    return value.data_ptr(), value.shape, value.stride()


def _same_shape(value: Any, own: Any) -> bool:
    if not isinstance(own, Tensor):
        return not holds_unread(value)
    return isinstance(value, Tensor) and (is_lazy(own) or value.shape == own.shape or (value.shape == (1,) and own.shape == ()))


def holds_unread(value: Any) -> bool:
    """Return whether a value is `Unread`, or a container with such a value."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple | set) else ()
    return isinstance(value, Unread) or any(map(holds_unread, inner))
