"""Control versions of methods: a method's maps, post-processed without any information about the network (`+control=[...]`)."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from evalkit.control_names import PLUS, under
from evalkit.errors import UserError
from evalkit.evaluation.apply import CALLED, load_functions
from evalkit.evaluation.at_layers import Method, function_of
from evalkit.layer_names import AT, method_of
from evalkit.methods import controls, postprocess
from evalkit.probe import Probe

Control = Callable[[Tensor, Probe], Tensor]


@dataclass(frozen=True)
class ControlVersion:
    """A control applied to a method's maps, as a function of the method's probe."""

    method: Control
    """The control; called as the functions of methods are, it stands for what the configuration names."""
    base: Method
    base_name: str
    """The name of the base method's rows."""
    control: str
    """The control's name in the configuration."""
    maps: Tensor | None = None
    """The base method's raw maps (N,h,w), where they are there already."""

    def __call__(self, probe: Probe) -> Tensor:
        """Return the raw maps (N,h,w)."""
        return self.method(self.base(probe).detach().float() if self.maps is None else self.maps, probe)

    def of(self, maps: Mapping[str, Tensor]) -> "ControlVersion":
        """Return this version of maps that were computed for one probe, by the names of rows."""
        return replace(self, maps=maps[self.base_name].clone())  # since a user's control may write into it


def load_controls(chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, Control]:
    """Return each control's function with its parameters, those of evalkit tried on a map of zeros.

    Raises UserError where a `_target_` cannot be found or called, is a function of the probe alone, or refuses a parameter.
    """
    loaded = load_functions("control", chosen, ["maps", "a probe"])
    for name, function in loaded.items():
        given = function_of(function)[0]
        if next(iter(inspect.signature(given).parameters)) == "probe":
            raise UserError(f"control {name}: {getattr(given, '__name__', given)} takes the probe first, as methods do; {CALLED}")
        if getattr(given, "__module__", "") == postprocess.__name__:
            try:
                function(torch.zeros(1, 2, 2), cast(Probe, SimpleNamespace(images=torch.zeros(1, 1, 2, 2), indices=torch.zeros(1))))
            except UserError as reason:
                raise UserError(f"control.{name}.{reason}") from reason
    return loaded


def with_controls(methods: Mapping[str, Method], chosen: Mapping[str, Control], of: Sequence[str] | None) -> dict[str, Method]:
    """Return the methods, by the names of their rows, and behind them every control version: `grad_cam+blurred`.

    `of` names the configured methods that get control versions; None stands for all that look at the network, which the controls
    of `evalkit.methods.controls` do not. Raises UserError where there is none, or a name would be ambiguous.
    """
    if not chosen:
        return dict(methods)
    for name in map(method_of, methods):
        if PLUS in name:
            raise UserError(f"method {name}: '{PLUS}' stands between a method and its control; choose another name")
    for name in chosen:
        if PLUS in name or AT in name:
            raise UserError(f"control {name}: '{PLUS}' and '{AT}' stand between a method, its control and its layer; choose another name")
    bases = {
        name: method
        for name, method in methods.items()
        if (method_of(name) in of if of is not None else getattr(function_of(method)[0], "__module__", "") != controls.__name__)
    }
    if not bases:
        raise UserError(
            "+control changes the maps of methods, and every chosen method is a control itself: add one, or name it in control_of"
        )
    versions = {
        under(name, control): ControlVersion(function, method, name, control)
        for name, method in bases.items()
        for control, function in chosen.items()
    }
    return {**methods, **versions}
