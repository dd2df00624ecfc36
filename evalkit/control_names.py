"""Names of control versions of methods: `grad_cam+blurred` is grad_cam blurred, `grad_cam+blurred@features.29` at one layer."""

from collections.abc import Iterable

from evalkit.layer_names import at, layer_of, method_of

PLUS = "+"


def under(method: str, control: str) -> str:
    """Return the name of a method's control version; what says a layer stays last."""
    named = f"{method_of(method)}{PLUS}{control}"
    return at(named, layer_of(method)) if layer_of(method) else named


def control_of(name: str) -> str:
    """Return the control of a control version; empty for the name of a method."""
    return method_of(name).partition(PLUS)[2]


def base_of(name: str) -> str:
    """Return the method of a control version, with its layer where the name has one."""
    base = method_of(name).partition(PLUS)[0]
    return at(base, layer_of(name)) if layer_of(name) else base


def versions(methods: Iterable[str]) -> dict[str, str]:
    """Return the method of each control version among the names, by its name; a name with a plus whose method is not there is a method."""
    known = dict.fromkeys(methods)
    return {name: base_of(name) for name in known if control_of(name) and base_of(name) in known}
