"""What makes two runs the same run."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Identity:
    """What decides a run's numbers, and nothing else: no batch size, device, worker count or path of the output."""

    facts: Mapping[str, Any]

    @property
    def hash(self) -> str:
        """The same on every machine."""
        return hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:16]

    def difference(self, other: "Identity") -> list[str]:
        """`key: theirs -> ours` for every fact that differs."""
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
