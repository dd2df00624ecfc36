"""Comparison of a run's record with what its identity is here, by the kind of what differs."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evalkit.files import WEIGHTS_SUFFIXES
from evalkit.runs.identity import Identity
from evalkit.weights_origin import are_random

Kind = Literal["code", "weights", "data", "settings", "record"]
_NAME = re.compile(r"[\w.:/-]+")
"""The name of weights in a library."""
_OF_MODEL = ("class_names", "expected_top1", "expected_top1_source", "paper_table")
"""What the record holds of the model besides the identity, for the tables."""


@dataclass(frozen=True)
class RecordDifference:
    """A fact of the record that is another one here."""

    kind: Kind
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def record_differences(record: Mapping[str, Any], identity: Identity, known: Mapping[str, Any], images: int) -> list[RecordDifference]:
    """Return what differs between a run's record and this machine's view: its identity, `provenance` and number of images."""
    recorded = Identity(record["identity"])
    found = [RecordDifference(_kind(text), text) for text in identity.as_recorded(recorded).difference(recorded)]
    if record.get("identity_hash") != recorded.hash:
        found.append(RecordDifference("record", f"identity_hash is {record.get('identity_hash')}, and its identity has {recorded.hash}"))
    if record["images"] != images:
        found.append(RecordDifference("data", f"images: {record['images']} -> {images}"))
    if not _same_weights(str(record.get("weights")), str(known["weights"])):
        found.append(
            RecordDifference("weights", f"they are said to be {_short(record.get('weights'))}, and are {_short(known['weights'])}")
        )
    for key in _OF_MODEL:
        if record.get(key) != known[key]:
            found.append(RecordDifference("settings", f"{key}: {_short(record[key])} -> {_short(known[key])}"))
    return found


def _same_weights(recorded: str, here: str) -> bool:
    """Return whether the record says where the weights come from; a file given here may lie elsewhere, as its hash is compared."""
    if are_random(recorded) or are_random(here):
        return recorded.partition("(")[0] == here.partition("(")[0]
    named = recorded.endswith(WEIGHTS_SUFFIXES) or _NAME.fullmatch(recorded) is not None
    return recorded == here or (named and Path(here).is_file())


def _kind(text: str) -> Kind:
    key = text.partition(":")[0]
    if key.startswith("code."):
        return "code"
    if key == "model.weights_hash":
        return "weights"
    return "data" if key.startswith("data.") else "settings"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def circumstances(record: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return what may differ and does: evalkit's code, versions of libraries, device and processor, as `name: then -> here`."""
    return [f"{name}: {then} -> {now}" for name, then, now in _circumstances(record, here) if then != now]


def _circumstances(record: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    yield "evalkit's code", record.get("code"), here.get("code")
    ours, theirs = here.get("versions", {}), record.get("versions", {})
    for name in dict.fromkeys([*theirs, *ours]):
        yield name, theirs.get(name, "not installed"), ours.get(name, "not installed")
    yield "python", record.get("python"), here.get("python")
    yield "device", record.get("device"), here.get("device")
    hardware, machine = record.get("hardware", {}), here.get("hardware", {})
    for name in ("machine", "processor", "threads"):
        yield name, hardware.get(name), machine.get(name)
