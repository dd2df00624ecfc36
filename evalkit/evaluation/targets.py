"""The choice of the classes that are explained for each image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import torch
from torch import Tensor

from evalkit.ablation import BYTE_BUDGET
from evalkit.data.sources import ClassKey, shows_nothing
from evalkit.errors import UserError
from evalkit.evaluation.session import Session
from evalkit.probe import Probe


@dataclass(frozen=True)
class Target:
    """One class that is explained for one image."""

    position: int
    """The image's place in the data set."""
    label: int | None
    """The output that stands for the image's label; of several labels the explained one if it is among them, else the first."""
    output: int
    """The explained class."""
    name: str
    """The class's name: the data set's under target=label, else the model's."""


def explained(
    session: Session, images: Tensor, positions: Sequence[int], keys: Mapping[int, Sequence[ClassKey]], byte_budget: int = BYTE_BUDGET
) -> tuple[Probe | None, list[Target]]:
    """Choose the targets of images (n,channels,H,W), uint8 or in [0,1], and return a probe with one row per target; None without targets.

    An image has one target for each class that is explained for it. Left out are, under images=correct, images that the
    model gets wrong, and under target=label those without a label in the model's class map, and those that show nothing (`shows_nothing`).
    """
    net = session.model.net
    probe = Probe(net, images, indices=torch.tensor(positions), byte_budget=byte_budget)
    needed = session.targets == "predicted" or session.config.images == "correct"
    predicted: list[int] = probe.logits.argmax(1).tolist() if needed else [-1] * len(positions)
    scores = _Scores(probe)
    rows = [(i, target) for i, p in enumerate(positions) for target in _targets(session, scores, i, predicted[i], p, keys[p])]
    if not rows:
        return None, []
    at, targets = [i for i, _ in rows], [target for _, target in rows]
    if at != list(range(len(positions))):
        images = images[torch.tensor(at).to(images.device, non_blocking=True)]
    elif session.targets == "predicted":
        return probe, targets
    indices = torch.tensor([target.position for target in targets])
    return Probe(net, images, [target.output for target in targets], indices, byte_budget=byte_budget), targets


class _Scores:
    """Logits on the host, moved there at the first use; most runs do not need them."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    @cached_property
    def logits(self) -> Tensor:
        """The probe's logits (n,C)."""
        return self._probe.logits.cpu()

    def best(self, i: int, outputs: Sequence[int]) -> int:
        """Return the output with the highest score for image `i`; a label may stand for several."""
        return outputs[0] if len(outputs) == 1 else max(outputs, key=lambda output: float(self.logits[i, output]))


def _targets(session: Session, scores: _Scores, i: int, predicted: int, position: int, keys: Sequence[ClassKey]) -> list[Target]:
    classes = session.model.classes
    outputs = [classes.outputs_of(key) for key in keys]
    labels = list(chain(*outputs))
    if session.config.images == "correct" and predicted not in labels:
        return []
    if session.targets == "label":
        if not labels and not classes.map and not shows_nothing(session.source, position):
            called = f"it is called '{keys[0]}'" if keys else "it has none"  # only streamed data: others were checked beforehand
            raise UserError(
                f"target=label, but {session.source.image_id(position)} has no label among the model's classes ({called}); "
                "name them alike, or give model.class_map"
            )
        best = {scores.best(i, choices): str(key) for key, choices in zip(reversed(keys), reversed(outputs), strict=True) if choices}
        return [Target(position, output, output, name) for output, name in reversed(best.items())]
    label = next(iter(labels), None)
    chosen = session.targets if isinstance(session.targets, list) else [predicted]
    return [Target(position, output if output in labels else label, output, classes.name(output)) for output in chosen]
