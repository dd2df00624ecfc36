"""Measures of the maps themselves, independent of the protocol: complexity, localisation where there are boxes, and those of `measures`."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from evalkit import protocol
from evalkit.data.boxes import Box, to_input
from evalkit.evaluation import localisation
from evalkit.evaluation.apply import Method, apply_method
from evalkit.evaluation.complexity import coherency, complexity
from evalkit.evaluation.sanity import spearman
from evalkit.evaluation.session import Session
from evalkit.evaluation.single_deletion import patch_drops, patch_sums, rank_correlation
from evalkit.evaluation.stability import change, noisy
from evalkit.evaluation.targets import Target
from evalkit.probe import Probe
from evalkit.scores import confidence_and_logit, scored


class Measures:
    """The measures of one batch: one probe, its targets, and the regions that all methods share."""

    def __init__(self, session: Session, probe: Probe, targets: Sequence[Target]) -> None:
        self.session, self.probe = session, probe
        own, others = (torch.stack(regions) for regions in zip(*(_regions(session, target) for target in targets), strict=True))
        self.boxed = bool((own | others).any())  # before the transfer: on the device it would make the host wait
        if self.boxed:
            self.own, self.others = (regions.to(probe.images.device, non_blocking=True) for regions in (own, others))

    def of(self, name: str, method: Method, ranking: protocol.Ranking) -> dict[str, Tensor]:
        """Return each measure (n,) of one method's upsampled maps; those that need boxes only where the batch has some."""
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
            masked = protocol.perturb(self.probe.images, protocol.soft_mask(maps), torch.zeros_like(self.probe.images[:1]))
            second = apply_method(name, method, self.probe.again(masked))
            measured["coherency"] = coherency(maps, protocol.upsample(second, (maps.shape[1], maps.shape[2])))
        if "single_deletion" in self.session.config.measures:
            sums = patch_sums(maps, self.session.config.single_deletion.grid)
            measured["single_deletion"] = rank_correlation(sums, self.patch_drops)
        return measured

    def repeated(self, low: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return the measures (n,) of each method that explain other images or networks, from its raw maps (n,h,w).

        Methods explain one probe after the other, so that they share what it computes and one is in memory at a time.
        """
        names = list(low)
        changes: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}
        for again in self._noisy_probes():
            for name in names:
                changes[name].append(change(low[name], apply_method(name, self.session.methods[name], again)))
        measured: list[dict[str, Tensor]] = [{} for _ in names]
        for columns, name in zip(measured, names, strict=True):
            if changes[name]:
                distances, rho = (torch.stack(values) for values in zip(*changes[name], strict=True))
                columns.update(max_sensitivity=distances.amax(0), stability=rho.mean(0))
        alike: dict[tuple[str, str], list[Tensor]] = {}
        for network in self.session.random:
            other = Probe(network.net, self.probe.images, self.probe.targets, self.probe.indices, byte_budget=self.probe.byte_budget)
            for name in names:
                maps = apply_method(name, network.methods[name], other)
                alike.setdefault((name, network.column), []).append(torch.from_numpy(spearman(low[name], maps)))
        for (name, column), draws in alike.items():
            measured[names.index(name)][column] = torch.stack(draws).mean(0)
        return measured

    def _noisy_probes(self) -> Iterator[Probe]:
        """Yield probes of the noisy copies; none where stability is not measured."""
        settings = self.session.config.stability
        for copy in range(settings.copies if "stability" in self.session.config.measures else 0):
            yield self.probe.again(noisy(self.probe.images, self.probe.indices, copy, settings.radius))

    @cached_property
    def patch_drops(self) -> Tensor:
        """What each patch costs (n,grid*grid), shared by all methods: one forward pass for each patch."""
        settings, probe, net = self.session.config.single_deletion, self.probe, self.session.model.net

        def score(logits: Tensor) -> Tensor:
            confidence, logit = confidence_and_logit(logits, probe.targets, self.session.config.model.output)
            value = logit if confidence is None or settings.score == "logit" else confidence
            return torch.where(scored(logits, probe.targets), value, torch.nan)

        filler = protocol.filling(probe.images, settings.fill, net.mean)
        return patch_drops(probe.images, filler, settings.grid, score(probe.logits), lambda images: score(net(images)))


def _share(regions: Tensor) -> Tensor:
    """Return the regions' shares of their images (n,); nan where a region is empty."""
    share = regions.double().mean((1, 2))
    return torch.where(share > 0, share, torch.nan)


def _regions(session: Session, target: Target) -> tuple[Tensor, Tensor]:
    """Return the masks (H,W) of the explained class's boxes, and of the other classes' boxes outside of these."""
    own: list[Box] = []
    others: list[Box] = []
    for box in session.source.boxes(target.position):
        cropped = to_input(box, session.model.preprocess)
        outputs = session.model.classes.outputs_of(box.key) if box.key is not None else (target.label,)
        if cropped is not None and outputs:  # classes without an output of the model are left out
            (own if target.output in outputs else others).append(cropped)
    own_region = localisation.region(own, *session.size)
    return own_region, localisation.region(others, *session.size) & ~own_region
