"""What is measured of a map itself, whatever the protocol: complexity, coherency and, where boxes are known, localisation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from evalkit import localisation, protocol
from evalkit.complexity import coherency, complexity
from evalkit.data.boxes import Box, to_input
from evalkit.probe import Probe
from evalkit.session import Method, Session, apply_method
from evalkit.targets import Item


class Measures:
    """The measures of one batch: one probe, its items, and the regions that all methods share."""

    def __init__(self, session: Session, probe: Probe, items: Sequence[Item]) -> None:
        self.session, self.probe = session, probe
        found = [_regions(session, item) for item in items]
        self.own, self.others = (torch.stack(regions).to(probe.images.device) for regions in zip(*found, strict=True))

    def of(self, name: str, method: Method, ranking: protocol.Ranking) -> dict[str, Tensor]:
        """Each measure (n,) of one method's upsampled maps; those that need boxes only where the batch has some."""
        maps = ranking.maps
        measured = {"complexity": complexity(maps)}
        if self.own.any():
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
            again = Probe(self.probe.net, seen, self.probe.targets, self.probe.indices)
            second = protocol.upsample(apply_method(name, method, again), (maps.shape[1], maps.shape[2]))
            measured["coherency"] = coherency(maps, second)
        return measured


def _share(regions: Tensor) -> Tensor:
    """Of the image (n,); nan where there is no region."""
    share = regions.double().mean((1, 2))
    return torch.where(share > 0, share, torch.nan)


def _regions(session: Session, item: Item) -> tuple[Tensor, Tensor]:
    """Masks (H,W) of the explained class's boxes, and of the other classes' where these are not."""
    own: list[Box] = []
    others: list[Box] = []
    for box in session.source.boxes(item.position):
        shown = to_input(box, session.model.preprocess)
        outputs = session.model.classes.outputs_of(box.key) if box.key is not None else (item.label,)
        if shown is not None and outputs:  # what the model has no output for is no other class either
            (own if item.target in outputs else others).append(shown)
    mine = localisation.region(own, *session.size)
    return mine, localisation.region(others, *session.size) & ~mine
