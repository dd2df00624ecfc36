"""Which classes are explained of which images: the items of a batch, one row each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from evalkit.data.sources import ClassKey
from evalkit.errors import UserError
from evalkit.probe import Probe
from evalkit.session import Session


@dataclass(frozen=True)
class Item:
    """An image and the class that is explained of it."""

    position: int
    label: int | None
    """The output that the data set gives the image; of several the explained one where it is among them, else the first."""
    target: int
    name: str
    """The explained class, as the data set calls it under target=label, else as the model does."""


def explained(
    session: Session, images: Tensor, positions: Sequence[int], keys: Mapping[int, Sequence[ClassKey]]
) -> tuple[Probe | None, list[Item]]:
    """Images (n,3,H,W) in [0,1] -> their items and a probe of as many rows; None where nothing is left to explain.

    An image has one item for each class that is explained of it. Left out are images that the model gets wrong under
    images=correct, and under target=label those without a label that the model's class map knows.
    """
    probe = Probe(session.model.net, images, indices=torch.tensor(positions))
    needed = session.targets == "predicted" or session.config.images == "correct"
    predicted: list[int] = probe.logits.argmax(1).tolist() if needed else [-1] * len(positions)
    rows = [(i, item) for i, p in enumerate(positions) for item in _items(session, probe, i, predicted[i], p, keys[p])]
    if not rows:
        return None, []
    at, items = [i for i, _ in rows], [item for _, item in rows]
    if session.targets == "predicted" and len(rows) == len(positions):
        return probe, items
    return Probe(session.model.net, images[at], [item.target for item in items], torch.tensor([item.position for item in items])), items


def _items(session: Session, probe: Probe, i: int, predicted: int, position: int, keys: Sequence[ClassKey]) -> list[Item]:
    classes = session.model.classes
    outputs = [classes.outputs_of(key) for key in keys]
    labels = list(chain(*outputs))
    if session.config.images == "correct" and predicted not in labels:
        return []
    if session.targets == "label":
        if not labels and not classes.map:
            called = f"it is called '{keys[0]}'" if keys else "it has none"  # streamed data: others were checked beforehand
            raise UserError(
                f"target=label, but {session.source.image_id(position)} has no label among the model's classes ({called}); "
                "name them alike, or give model.class_map"
            )
        best = {_best(probe, i, known): str(key) for key, known in zip(reversed(keys), reversed(outputs), strict=True) if known}
        return [Item(position, target, target, name) for target, name in reversed(best.items())]
    label = next(iter(labels), None)
    targets = session.targets if isinstance(session.targets, list) else [predicted]
    return [Item(position, target if target in labels else label, target, classes.name(target)) for target in targets]


def _best(probe: Probe, i: int, outputs: Sequence[int]) -> int:
    """The output that scores best of those a label stands for."""
    return outputs[0] if len(outputs) == 1 else max(outputs, key=lambda output: float(probe.logits[i, output]))
