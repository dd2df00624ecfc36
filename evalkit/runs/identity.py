"""The identity of a run: the facts that two runs must share to be the same run."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
        """Return `key: theirs -> ours` for every fact that differs; "theirs" is `other`."""
        ours, theirs = _flatten(self.facts), _flatten(other.facts)
        keys = sorted(ours.keys() | theirs.keys())
        return [f"{key}: {theirs.get(key)} -> {ours.get(key)}" for key in keys if ours.get(key) != theirs.get(key)]


def _flatten(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
