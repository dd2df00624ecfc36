"""Load methods from their configuration, and apply them with checks."""

import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evalkit.control_names import PLUS
from evalkit.errors import UserError, cause
from evalkit.evaluation.at_layers import Method, function_of
from evalkit.imports import arguments_refused, failure, find
from evalkit.probe import Probe


def load_methods(chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, Method]:
    """Return each method's function with its parameters. Raises UserError where a `_target_` cannot be found or called."""
    return load_functions("method", chosen, ["a probe"])


CALLED = "a control is called with maps and probe"


def load_functions(group: str, chosen: Mapping[str, Mapping[str, Any]], given: Sequence[str]) -> dict[str, Callable[..., Tensor]]:
    """Return the functions of a configuration group with their parameters; `given` says what each is called with, by position.

    Raises UserError where a `_target_` cannot be found or called.
    """
    loaded: dict[str, Callable[..., Tensor]] = {}
    for name, settings in chosen.items():
        function = find(str(settings["_target_"]), f"{group}.{name}._target_")
        parameters = {key: value for key, value in settings.items() if not key.startswith("_")}
        try:
            inspect.signature(function).bind(*given, **parameters)
        except (TypeError, ValueError) as reason:
            raise UserError(f"{group} {name} cannot be called with {', '.join(given)} and {parameters}: {reason}") from reason
        loaded[name] = partial(function, **parameters)
    return loaded


def apply_method(name: str, method: Method, probe: Probe) -> Tensor:
    """Return a method's raw maps (N,h,w). Raises UserError for any error, for another shape, and for writing into the probe."""
    built_in = str(getattr(function_of(method)[0], "__module__", "")).startswith("evalkit.")
    try:
        with arguments_refused():
            low = method(probe)
    except (UserError, torch.OutOfMemoryError):
        raise
    except SystemExit as reason:
        raise UserError(f"method {name} failed: {failure(reason)}") from reason
    except Exception as reason:  # a user's method may raise anything; the message names the place
        place = traceback.extract_tb(reason.__traceback__)[-1]
        called = f"; {CALLED}" if PLUS in name else ""
        raise UserError(f"method {name} failed with {cause(reason)} ({Path(place.filename).name}, line {place.lineno}){called}") from reason
    written = probe.written(by_value=not built_in)
    if written:
        raise UserError(f"method {name} writes into the probe's {written[0]}, which all methods share; let it work on a clone")
    fits = isinstance(low, Tensor) and low.dim() == 3 and len(low) == len(probe.images) and low.numel()
    if not fits or low.is_complex() or low.layout != torch.strided:
        kind = f"{low.dtype} {tuple(low.shape)}" if isinstance(low, Tensor) else type(low).__name__
        kind += f", {low.layout}" if isinstance(low, Tensor) and low.layout != torch.strided else ""
        kind += ": wrap it in torch.from_numpy" if type(low).__module__ == "numpy" else ""
        raise UserError(f"method {name} must return maps ({len(probe.images)}, h, w), one per image; it returned {kind}")
    return low.detach().to(probe.images.device, torch.float32)  # as they are stored and ranked
