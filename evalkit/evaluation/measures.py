"""What is measured of a map itself, whatever the protocol: complexity, coherency and, where boxes are known, localisation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from evalkit import protocol
from evalkit.data.boxes import Box, to_input
from evalkit.evaluation import localisation
from evalkit.evaluation.apply import Method, apply_method
from evalkit.evaluation.complexity import coherency, complexity
from evalkit.evaluation.session import Session
from evalkit.evaluation.targets import Target
from evalkit.probe import Probe


class Measures:
    """The measures of one batch: one probe, its targets, and the regions that all methods share."""

    def __init__(self, session: Session, probe: Probe, targets: Sequence[Target]) -> None:
        self.session, self.probe = session, probe
        own, others = (torch.stack(regions) for regions in zip(*(_regions(session, target) for target in targets), strict=True))
        self.boxed = bool(own.any())  # asked on the host, where the regions were made
        self.own, self.others = own.to(probe.images.device), others.to(probe.images.device)

    def of(self, name: str, method: Method, ranking: protocol.Ranking) -> dict[str, Tensor]:
        """Each measure (n,) of one method's upsampled maps; those that need boxes only where the batch has some."""
        maps = ranking.maps
        measured = {"complexity": complexity(maps)}
        if self.boxed:
            measured |= {
                "region_fraction": _share(self.own),
                "others_fraction": _share(self.others),
                "pointing": localisation.pointing_game(maps, self.own),
                "energy_inside": localisation.energy_inside(maps, self.own),
                "energy_others": localisation.energy_inside(maps, self.others),
                "best_iou": localisation.best_iou(ranking, self.own),
            }
        if "coherency" in self.session.config.measures:
            seen = protocol.perturb(self.probe.images, protocol.soft_mask(maps), torch.zeros_like(self.probe.images[:1]))
            again = self.probe.again(seen)
            second = protocol.upsample(apply_method(name, method, again), (maps.shape[1], maps.shape[2]))
            measured["coherency"] = coherency(maps, second)
        return measured


def _share(regions: Tensor) -> Tensor:
    """Of the image (n,); nan where there is no region."""
    share = regions.double().mean((1, 2))
    return torch.where(share > 0, share, torch.nan)


def _regions(session: Session, target: Target) -> tuple[Tensor, Tensor]:
    """Masks (H,W) of the explained class's boxes, and of the other classes' where these are not."""
    own: list[Box] = []
    others: list[Box] = []
    for box in session.source.boxes(target.position):
        shown = to_input(box, session.model.preprocess)
        outputs = session.model.classes.outputs_of(box.key) if box.key is not None else (target.label,)
        if shown is not None and outputs:  # what the model has no output for is no other class either
            (own if target.output in outputs else others).append(shown)
    mine = localisation.region(own, *session.size)
    return mine, localisation.region(others, *session.size) & ~mine
