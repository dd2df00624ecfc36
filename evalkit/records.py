"""What one shard has measured so far, and its two tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from evalkit.probe import Probe
from evalkit.protocol import Point
from evalkit.store import MAPS, ROWS
from evalkit.targets import Item


@dataclass
class _Maps:
    low: Tensor
    finite: Tensor
    degenerate: Tensor
    positive: Tensor


@dataclass
class ShardRecords:
    """Rows and maps of one shard, gathered batch by batch."""

    store_maps: bool
    output: str = "softmax"
    """What makes confidences of logits: softmax or sigmoid."""
    skipped: int = 0
    """Images left out by images=correct, or for want of a label that the class map knows."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Per method, maps only; what methods share (gradients) falls to the first that asks."""
    _rows: list[dict[str, Any]] = field(default_factory=list)
    _map_rows: list[dict[str, Any]] = field(default_factory=list)

    def begin(self, items: Sequence[Item], image_ids: Sequence[str], probe: Probe) -> None:
        """Scores on the unperturbed images, one item a row of the probe."""
        self._targets = probe.targets
        self._full = confidence_and_logit(probe.logits, probe.targets, self.output)
        self._full_finite = probe.logits.isfinite().all(1)
        self._common = {
            "index": [item.position for item in items],
            "image_id": list(image_ids),
            "label": [item.label for item in items],
            "predicted": probe.logits.argmax(1).tolist(),
            "target": probe.targets.tolist(),
            "target_name": [item.name for item in items],
            "prob_full": self._full[0],
            "logit_full": self._full[1],
        }

    def map(self, method: str, low: Tensor, upsampled: Tensor, measured: Mapping[str, Tensor]) -> None:
        """One method's raw maps (n,h,w) and (n,H,W), and what was measured of them, each (n,)."""
        flat = upsampled.flatten(1)
        self._map = _Maps(
            low=low,
            finite=flat.isfinite().all(1),
            degenerate=flat.amax(1) == flat.amin(1),
            positive=(flat > 0).double().mean(1),
        )
        values = low.flatten(1)
        arrays = values.float().cpu().numpy()
        status = self._status(torch.zeros_like(values))
        n = len(values)
        self._map_rows.append(
            {
                **{key: self._common[key] for key in ("index", "image_id", "label", "target", "target_name")},
                "method": [method] * n,
                "status": status,
                "height": [low.shape[1]] * n,
                "width": [low.shape[2]] * n,
                "minimum": arrays.min(1),
                "maximum": arrays.max(1),
                "zero_fraction": (arrays == 0).mean(1),
                **{name: values.double().cpu().numpy() for name, values in measured.items()},
                "map": list(arrays) if self.store_maps else [None] * n,
            }
        )

    def score(self, method: str, point: Point, mask: Tensor, gap: Tensor, logits: Tensor) -> None:
        """Scores on the perturbed images: mask (n,H,W), gap (n,), logits (n,C)."""
        masked = confidence_and_logit(logits, self._targets, self.output)
        n = len(mask)
        self._rows.append(
            {
                **self._common,
                "method": [method] * n,
                "select": [point.select] * n,
                "top_percent": [point.top_percent] * n,
                "fill": [point.fill] * n,
                "kept_fraction": mask.double().mean((1, 2)).cpu().numpy(),
                "positive_fraction": self._map.positive.cpu().numpy(),
                "rank_gap": gap.double().cpu().numpy(),
                "prob_masked": masked[0],
                "logit_masked": masked[1],
                "status": self._status(logits),
                "error": [None] * n,
            }
        )

    def unreadable(self, position: int, name: str, label: int | None, methods: Sequence[str], points: Sequence[Point], reason: str) -> None:
        """One image that could not be read: it keeps its rows, without scores."""
        common = {"index": [position], "image_id": [name], "label": [label], "status": ["error"]}
        for method in methods:
            self._map_rows.append({**common, "method": [method]})
            for p in points:
                about = {"method": [method], "select": [p.select], "top_percent": [p.top_percent], "fill": [p.fill]}
                self._rows.append({**common, **about, "error": [reason]})

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """Rows and maps, each in the order of index, method, point as they were measured."""
        return _table(self._rows, ROWS), _table(self._map_rows, MAPS)

    def metadata(self) -> dict[str, Any]:
        """For the shard's file."""
        return {"maps_stored": self.store_maps, "seconds_per_method": self.seconds, "left_out": self.skipped}

    def _status(self, scores: Tensor) -> list[str]:
        finite = (self._map.finite & scores.isfinite().all(1) & self._full_finite).cpu().numpy()
        degenerate = self._map.degenerate.cpu().numpy()
        return np.where(~finite, "nonfinite", np.where(degenerate, "degenerate", "ok")).tolist()


def confidence_and_logit(logits: Tensor, targets: Tensor, output: str = "softmax") -> tuple[np.ndarray, np.ndarray]:
    """Logits (n,C), targets (n,) -> the target's confidence, by softmax or sigmoid, and its logit, both float64 (n,).

    The softmax is computed in float64: in float32 it is exactly 1 on most easy images, which alone moves increase
    and win by several points.
    """
    wide = logits.double()
    chosen = targets[:, None]
    confidence = (wide.sigmoid() if output == "sigmoid" else wide.softmax(1)).gather(1, chosen)[:, 0]
    return confidence.cpu().numpy(), wide.gather(1, chosen)[:, 0].cpu().numpy()


def _table(parts: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    tables = []
    for part in parts:
        n = len(part["index"])
        tables.append(
            pa.table({name: pa.array(part.get(name, [None] * n), type=schema.field(name).type) for name in schema.names}, schema=schema)
        )
    if not tables:
        return schema.empty_table()
    return pa.concat_tables(tables).sort_by([("index", "ascending")]).combine_chunks()
