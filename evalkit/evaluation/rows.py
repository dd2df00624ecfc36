"""Rows of the two tables (`evalkit.evaluation.columns`): the values common to a batch, and one function per table.

Columns stay on the device until the end of the shard: each transfer to the host makes the host wait.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from evalkit.evaluation.columns import MAPS, ROWS
from evalkit.evaluation.targets import Target
from evalkit.point import Point
from evalkit.probe import Probe
from evalkit.scores import confidence_and_logit, scored

Columns = dict[str, Any]
"""Columns of equal length n by name: tensors (n,) or (n,P) on any device, lists, or None for a column without values."""

FINITE, DEGENERATE = "finite", "degenerate"
"""The columns from which a row's status is derived."""


@dataclass(frozen=True)
class BatchFacts:
    """The values common to the rows of all methods, one entry for each explained target."""

    columns: Columns
    targets: Tensor
    finite: Tensor
    """Whether the logits of the unperturbed image define the target's scores (n,), see `evalkit.scores.scored`."""
    output: str
    """What the logits stand for: "softmax", "sigmoid", "binary" or "raw", see `confidence_and_logit`."""


@dataclass(frozen=True)
class MapFacts:
    """The values common to the rows of one method's maps, each (n,)."""

    method: str
    positive: Tensor
    """Fraction of pixels above 0."""
    finite: Tensor
    degenerate: Tensor
    """Whether the map is constant."""


def batch_facts(targets: Sequence[Target], image_ids: Sequence[str], probe: Probe, output: str) -> BatchFacts:
    """Describe the explained targets, one per row of the probe, with their scores on the unperturbed images."""
    confidence, logit = confidence_and_logit(probe.logits, probe.targets, output)
    columns = {
        "index": [target.position for target in targets],
        "image_id": list(image_ids),
        "label": [target.label for target in targets],
        "predicted": probe.logits.argmax(1),
        "target": probe.targets,
        "target_name": [target.name for target in targets],
        "prob_full": confidence,
        "logit_full": logit,
    }
    return BatchFacts(columns, probe.targets, scored(probe.logits, probe.targets), output)


def map_facts(batch: BatchFacts, method: str, upsampled: Tensor) -> MapFacts:
    """Describe one method's maps at the image's size (n,H,W)."""
    flat = upsampled.flatten(1)
    positive = (flat > 0).double().mean(1)
    return MapFacts(method, positive, flat.isfinite().all(1) & batch.finite, flat.amax(1) == flat.amin(1))


def map_rows(batch: BatchFacts, maps: MapFacts, low: Tensor, measured: Mapping[str, Tensor], *, store: bool) -> Columns:
    """Return the rows of `MAPS` for one method, from its raw maps (n,h,w) and their measures, each (n,)."""
    values, n = low.flatten(1), len(low)
    return {
        **{key: batch.columns[key] for key in ("index", "image_id", "label", "target", "target_name")},
        "method": [maps.method] * n,
        "height": [low.shape[1]] * n,
        "width": [low.shape[2]] * n,
        "minimum": values.amin(1).float(),
        "maximum": values.amax(1).float(),
        "zero_fraction": (values == 0).double().mean(1),
        **measured,
        "map": values.float() if store else None,
        FINITE: maps.finite,
        DEGENERATE: maps.degenerate,
    }


def score_rows(batch: BatchFacts, maps: MapFacts, point: Point, mask: Tensor, gap: Tensor, logits: Tensor) -> Columns:
    """Return the rows of `ROWS` for one method and point, from the mask (n,H,W), gap (n,), and logits on the perturbed images (n,C)."""
    confidence, logit = confidence_and_logit(logits, batch.targets, batch.output)
    n = len(mask)
    return {
        **batch.columns,
        "method": [maps.method] * n,
        "select": [point.select] * n,
        "top_percent": [point.top_percent] * n,
        "fill": [point.fill] * n,
        "kept_fraction": mask.double().mean((1, 2)),
        "positive_fraction": maps.positive,
        "rank_gap": gap.double(),
        "prob_masked": confidence,
        "logit_masked": logit,
        FINITE: maps.finite & scored(logits, batch.targets),
        DEGENERATE: maps.degenerate,
    }


@dataclass
class ShardRows:
    """The rows of one shard, collected batch by batch."""

    scores: list[Columns] = field(default_factory=list)
    maps: list[Columns] = field(default_factory=list)
    left_out: int = 0
    """Number of images left out by images=correct, or because none of their labels is in the class map."""

    def add_unreadable(
        self, position: int, image_id: str, label: int | None, methods: Sequence[str], points: Sequence[Point], reason: str
    ) -> None:
        """Add the rows of an image that could not be read, without scores."""
        common = {"index": [position], "image_id": [image_id], "label": [label], "status": ["error"]}
        for method in methods:
            self.maps.append({**common, "method": [method]})
            for p in points:
                point = {"select": [p.select], "top_percent": [p.top_percent], "fill": [p.fill]}
                self.scores.append({**common, **point, "method": [method], "error": [reason]})

    def extend(self, later: "ShardRows") -> None:
        """Add the rows of further images."""
        self.scores += later.scores
        self.maps += later.maps
        self.left_out += later.left_out

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """Return both tables (`ROWS`, `MAPS`), ordered by index; rows of one index keep the order in which they were added."""
        return _table(self.scores, ROWS), _table(self.maps, MAPS)


def _table(parts: Sequence[Columns], schema: pa.Schema) -> pa.Table:
    tables = []
    for columns in _on_host(parts):
        n = len(columns["index"])
        if FINITE in columns:
            columns["status"] = np.where(~columns[FINITE], "nonfinite", np.where(columns[DEGENERATE], "degenerate", "ok")).tolist()
        if columns.get("map") is not None:
            columns["map"] = list(columns["map"])
        values = {name: columns.get(name) for name in schema.names}
        arrays = {name: pa.array([None] * n if column is None else column, type=schema.field(name).type) for name, column in values.items()}
        tables.append(pa.table(arrays, schema=schema))
    if not tables:
        return schema.empty_table()
    return pa.concat_tables(tables).sort_by([("index", "ascending")]).combine_chunks()


def _on_host(parts: Sequence[Columns]) -> list[Columns]:
    """Return the parts with numpy arrays for tensors. Tensors of one dtype and shape are moved at once: each move waits for the device."""
    alike: dict[tuple[object, ...], list[tuple[int, str, Tensor]]] = defaultdict(list)
    moved = [dict(columns) for columns in parts]
    for number, columns in enumerate(parts):
        for name, value in columns.items():
            if isinstance(value, Tensor) and value.device.type == "cpu":
                moved[number][name] = value.numpy()
            elif isinstance(value, Tensor):
                alike[value.dtype, value.shape[1:], value.device].append((number, name, value))
    for tensors in alike.values():
        arrays = torch.cat([tensor for _, _, tensor in tensors]).cpu().numpy()
        ends = np.cumsum([len(tensor) for _, _, tensor in tensors])
        for (number, name, _), array in zip(tensors, np.split(arrays, ends[:-1]), strict=True):
            moved[number][name] = array
    return moved
