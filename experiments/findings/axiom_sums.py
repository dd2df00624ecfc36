"""What each method shares out in the unit of the score, before its ReLU, to be compared with the score's change (completeness)."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from evalkit import methods
from evalkit.analysis.stats import bootstrap
from evalkit.probe import Probe


def _grad_cam(probe: Probe) -> Tensor:
    return (probe.gradients.mean((2, 3)) * probe.activations.sum((2, 3))).sum(1)


def _grad_cam_pp(probe: Probe) -> Tensor:
    g, total = probe.gradients, probe.activations.sum((2, 3), keepdim=True)
    weights = torch.where(g > 0, g / (2 + g * total), 0).sum((2, 3))
    return (weights * total[:, :, 0, 0]).sum(1)


def _hires_cam(probe: Probe) -> Tensor:
    return (probe.gradients * probe.activations).sum((1, 2, 3))


SUMS: dict[str, Callable[[Probe], Tensor]] = {
    "cam": lambda probe: methods.cam(probe).mean((1, 2)),
    "grad_cam": _grad_cam,
    "grad_cam_pp": _grad_cam_pp,
    "xgrad_cam": _hires_cam,  # sum_k w_k sum(A_k), w_k = sum(g A) / sum(A)
    "hires_cam": _hires_cam,
    "layer_cam": lambda probe: (probe.gradients.relu() * probe.activations).sum((1, 2, 3)),
    "ablation_cam": lambda probe: probe.drops.sum(1),
    "spatial_ablation": lambda probe: methods.spatial_ablation(probe).sum((1, 2)),
    "integrated_gradients": lambda probe: methods.integrated_gradients(probe, batch_size=8).sum((1, 2)),
}
"""Sums (N,): of the drops for Ablation-CAM, of the pooled map for CAM, of the cells or pixels for the others.

Further methods have no such unit.
"""


def change(probe: Probe, name: str) -> Tensor:
    """Return the score's change (N,) from a method's baseline: all channels zero, or for integrated gradients the black image."""
    with torch.no_grad():
        if name == "integrated_gradients":
            nothing = probe.net(torch.zeros_like(probe.images))
        else:
            nothing = probe.net.head(torch.zeros_like(probe.activations), probe.context)
    return probe.scores - nothing.gather(1, probe.targets[:, None])[:, 0]


def completeness(about: dict[str, Any], probes: Sequence[Probe], names: Iterable[str]) -> list[dict[str, Any]]:
    """Return the rows `share` and `gap` (see axioms.py) of each method over all images of the probes."""
    rows = []
    for name in names:
        shared = torch.cat([SUMS[name](probe).double() for probe in probes])
        changes = torch.cat([change(probe, name).double() for probe in probes])
        ratios = {"share": (shared, changes), "gap": ((shared - changes).abs(), changes.abs())}
        found = bootstrap({measure: (100 * above.numpy()[None], below.numpy()[None]) for measure, (above, below) in ratios.items()})
        for measure, interval in found.items():
            numbers = {"value": interval.value[0], "low": interval.low[0], "high": interval.high[0], "n": len(shared)}
            rows.append({**about, "axiom": "completeness", "method": name, "measure": measure, **numbers})
    return rows
