"""The identity of a run: the facts that two runs must share to be the same run."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evalkit.control_names import versions
from evalkit.layer_names import method_of


@dataclass(frozen=True)
class Identity:
    """The facts that determine a run's numbers, and only those: no batch size, device, worker count or output path."""

    facts: Mapping[str, Any]
    earlier: "Identity | None" = None
    """The identity of the same run as versions recorded it that hashed one file of a user's code; None where it is the same."""

    @property
    def versions(self) -> "list[Identity]":
        """This identity, then the one that earlier versions recorded."""
        return [self, *([] if self.earlier is None else [self.earlier])]

    def as_recorded(self, other: "Identity") -> "Identity":
        """Return the one of `versions` that another identity, read from a run folder, is compared with: the nearer one."""
        return min(self.versions, key=lambda version: len(version.difference(other)))

    @property
    def hash(self) -> str:
        """Hash of the facts, 16 hexadecimal digits, the same on every machine."""
        return hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:16]

    def difference(self, other: "Identity") -> list[str]:
        """Return `key: theirs -> ours` for every fact that differs; "theirs" is `other`. `method` names those that only one has."""
        ours, theirs = _flatten(self.facts), _flatten(other.facts)
        facts = [key for key in self._changed(other) if self._both_have(other, key)]
        names = [f"method: {_names(other)} -> {_names(self)}"] if self._methods ^ other._methods else []
        if facts and _configured(self) == _configured(other):  # at other layers, the same methods have other names
            names = []
        return names + [f"{key}: {theirs.get(key)} -> {ours.get(key)}" for key in facts]

    @property
    def _methods(self) -> set[str]:
        methods = self.facts.get("method")
        return set(methods) if isinstance(methods, Mapping) else set()

    def _changed(self, other: "Identity") -> list[str]:
        ours, theirs = _flatten(self.facts), _flatten(other.facts)
        return sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))

    def _both_have(self, other: "Identity", key: str) -> bool:
        """Return whether a key speaks of a method of both, as `method.grad_cam.power` and `code.method.mine` may, or of none at all."""
        first, _, rest = key.removeprefix("code.").partition(".")
        if first != "method":
            return True
        if key.startswith("code."):  # a method has the same code at all layers
            return rest.partition(".")[0] in map(method_of, self._methods & other._methods)
        named = [name for name in self._methods | other._methods if f"{rest}.".startswith(f"{name}.")]  # layers have dots in their names
        return max(named, key=len, default="") in self._methods & other._methods

    def way_out(self, other: "Identity", path: str) -> str:
        """Return what to do in words, where the folder `path` holds the run `other` instead of this one."""
        changed, elsewhere = self._changed(other), "choose another folder with out=, or remove that one"
        groups = {key.partition(".")[0] for key in changed}
        if groups <= {"method", "code"}:
            edited = [key for key in changed if self._both_have(other, key)]
            added = [name for name in self.facts.get("method", ()) if name not in other._methods]
            altered = versions(self.facts.get("method", ()))
            new = dict.fromkeys(method_of(name) for name in added if name not in altered)
            if edited:
                return f"a folder holds one version of {', '.join(edited)}: undo the change, or {elsewhere}"
            if new:
                return (
                    f"compute the new methods into another folder ('method=[{','.join(new)}]' out={path}-2) "
                    f"and give evalkit tables both: evalkit tables {path} {path}-2"
                )
            if added:
                return (
                    "control versions need their methods in the same run: choose another folder with out=; "
                    f"maps_from={path} spares computing its maps again, if it was run with maps=store"
                )
            return f"evalkit tables {path} shows what it holds, these methods and others; to have these alone, {elsewhere}"
        if groups == {"protocol"}:
            return f"{elsewhere}; maps_from={path} spares computing its maps again, if it was run with maps=store"
        if changed == ["model.weights_hash"]:
            return f"the weights are others than before: give the former ones, or {elsewhere}"
        if changed == ["data.fingerprint"]:
            return f"the images or their labels are others than before: restore them, or {elsewhere}"
        return elsewhere


def _names(identity: Identity) -> str:
    return ", ".join(identity.facts.get("method", ())) or "none"


def _configured(identity: Identity) -> set[str]:
    return set(map(method_of, identity.facts.get("method", ())))


def _flatten(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
