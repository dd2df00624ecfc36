"""Names of methods in runs that explain several layers: `grad_cam@features.29` is grad_cam at the layer `features.29`."""

from collections.abc import Sequence

AT = "@"


def at(method: str, layer: str) -> str:
    """Return the name of a method at one layer, or of its fused maps where `layer` is "mean" or "max"."""
    return f"{method}{AT}{layer}"


def method_of(name: str) -> str:
    """Return the configured name of a method: the part before the `@`, or all of it."""
    return name.partition(AT)[0]


def layer_of(name: str) -> str:
    """Return the part behind the `@`; empty where there is none."""
    return name.partition(AT)[2]


def layers_in_words(layer: str | Sequence[str]) -> str:
    """Return `features.29` for one layer, `layers a, b` for several."""
    return layer if isinstance(layer, str) else f"layers {', '.join(layer)}"


def by_layer(names: Sequence[str]) -> dict[str, list[str]]:
    """Group the names of methods by their layers, those that do not depend on the layer last, under the empty name."""
    layers = dict.fromkeys(sorted(map(layer_of, names), key=lambda layer: not layer))
    return {layer: [name for name in names if layer_of(name) == layer] for layer in layers}
