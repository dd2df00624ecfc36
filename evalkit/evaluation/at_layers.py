"""The methods of a run that explains several layers: each at each layer, and the fused maps, by the names of their rows."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from evalkit.errors import UserError
from evalkit.layer_names import AT, at
from evalkit.methods.layers import fuse, is_layer_free
from evalkit.models.split import SplitModel
from evalkit.probe import Probe

Method = Callable[[Probe], Tensor]


class AtLayer:
    """A method at one layer, as a function of a probe that is cut at any layer of the same network."""

    def __init__(self, method: Method, layer: str, net: SplitModel, *, keep: bool) -> None:
        self.method, self.layer, self.net = method, layer, net
        self._kept: WeakKeyDictionary[Probe, Tensor] | None = WeakKeyDictionary() if keep else None

    def __call__(self, probe: Probe) -> Tensor:
        """Return the raw maps (N,h,w); with `keep`, computed once for each probe. Raises UserError, which names the layer."""
        if self._kept is not None and probe in self._kept:
            return self._kept[probe]
        try:
            maps = self.method(probe.at(self.net))
        except UserError as reason:
            named = f"'{self.layer}'" in str(reason)
            raise UserError(str(reason) if named else f"{reason} (at layer '{self.layer}')") from reason
        if self._kept is not None:
            self._kept[probe] = maps
        return maps


class Fused:
    """The fused maps of a method at several layers (see `evalkit.methods.layers.fuse`)."""

    def __init__(self, parts: Sequence[AtLayer], how: str) -> None:
        self.method, self.parts, self.how = parts[0].method, parts, how

    def __call__(self, probe: Probe) -> Tensor:
        """Return the maps (N,H,W) at the image's size."""
        size = (probe.images.shape[2], probe.images.shape[3])
        return fuse([part(probe).detach().to(probe.images.device, torch.float32) for part in self.parts], size, self.how)


def at_layers(methods: Mapping[str, Method], layers: Sequence[str], nets: Sequence[SplitModel], how: str | None) -> dict[str, Method]:
    """Return the methods by the names of their rows.

    With one layer they are the methods themselves. With several, a method that depends on the layer appears as `method@layer` for
    each of them, and where `how` ("mean" or "max") is given as `method@how` too; one that is `layer_free` appears once, under its
    own name. The functions take the probe of the last layer. Raises UserError where two names would be the same.
    """
    if len(nets) == 1:
        return dict(methods)
    if how in layers:
        raise UserError(f"model.fuse={how} names its maps as those of layer '{how}': leave that layer or model.fuse out")
    named: dict[str, Method] = {}
    for name, method in methods.items():
        if AT in name:
            raise UserError(f"method {name}: with several layers, '{AT}' stands between a method and its layer; choose another name")
        function, parameters = function_of(method)
        if is_layer_free(function, **parameters):
            named[name] = method
            continue
        parts = [AtLayer(method, layer, net, keep=how is not None) for layer, net in zip(layers, nets, strict=True)]
        named |= {at(name, part.layer): part for part in parts}
        if how is not None:
            named[at(name, how)] = Fused(parts, how)
    return named


def function_of(method: Any) -> tuple[Any, Mapping[str, Any]]:
    """Return the function that the configuration names for a method, and its parameters."""
    inner = method if isinstance(method, partial) else getattr(method, "method", method)  # at a layer, or with a control
    return (inner.func, inner.keywords) if isinstance(inner, partial) else (inner, {})
