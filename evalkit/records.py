"""What one shard has measured so far, and its two tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from evalkit.probe import Probe
from evalkit.protocol import Point
from evalkit.store import MAPS, ROWS
from evalkit.targets import Item

FINITE, DEGENERATE = "finite", "degenerate"
"""Columns of which a row's status is made."""


@dataclass
class ShardRecords:
    """Rows and maps of one shard, gathered batch by batch. What was measured stays on the device until the shard's end."""

    store_maps: bool
    output: str = "softmax"
    """What makes confidences of logits: softmax or sigmoid."""
    skipped: int = 0
    """Images left out by images=correct, or for want of a label that the class map knows."""
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
            "predicted": probe.logits.argmax(1),
            "target": probe.targets,
            "target_name": [item.name for item in items],
            "prob_full": self._full[0],
            "logit_full": self._full[1],
        }

    def map(self, method: str, low: Tensor, upsampled: Tensor, measured: Mapping[str, Tensor]) -> None:
        """One method's raw maps (n,h,w) and (n,H,W), and what was measured of them, each (n,)."""
        flat, values = upsampled.flatten(1), low.flatten(1)
        self._positive = (flat > 0).double().mean(1)
        self._finite = flat.isfinite().all(1) & self._full_finite
        self._degenerate = flat.amax(1) == flat.amin(1)
        n = len(values)
        self._map_rows.append(
            {
                **{key: self._common[key] for key in ("index", "image_id", "label", "target", "target_name")},
                "method": [method] * n,
                "height": [low.shape[1]] * n,
                "width": [low.shape[2]] * n,
                "minimum": values.amin(1).float(),
                "maximum": values.amax(1).float(),
                "zero_fraction": (values == 0).double().mean(1),
                **measured,
                "map": values.float() if self.store_maps else [None] * n,
                FINITE: self._finite,
                DEGENERATE: self._degenerate,
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
                "kept_fraction": mask.double().mean((1, 2)),
                "positive_fraction": self._positive,
                "rank_gap": gap.double(),
                "prob_masked": masked[0],
                "logit_masked": masked[1],
                "error": [None] * n,
                FINITE: self._finite & logits.isfinite().all(1),
                DEGENERATE: self._degenerate,
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

    def extend(self, later: "ShardRecords") -> None:
        """Take over what was measured of further images."""
        self._rows += later._rows
        self._map_rows += later._map_rows
        self.skipped += later.skipped

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """Rows and maps, each in the order of index, method, point as they were measured."""
        return _table(self._rows, ROWS), _table(self._map_rows, MAPS)

    def metadata(self) -> dict[str, Any]:
        """For the shard's file."""
        return {"maps_stored": self.store_maps, "left_out": self.skipped}


def confidence_and_logit(logits: Tensor, targets: Tensor, output: str = "softmax") -> tuple[Tensor, Tensor]:
    """Logits (n,C), targets (n,) -> the target's confidence, by softmax or sigmoid, and its logit, both float64 (n,).

    The softmax is computed in float64: in float32 it is exactly 1 on most easy images, which alone moves increase
    and win by several points.
    """
    wide = logits.double()
    chosen = targets[:, None]
    confidence = (wide.sigmoid() if output == "sigmoid" else wide.softmax(1)).gather(1, chosen)[:, 0]
    return confidence, wide.gather(1, chosen)[:, 0]


def _table(parts: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    tables = []
    for part in parts:
        n = len(part["index"])
        columns = {name: values.cpu().numpy() if isinstance(values, Tensor) else values for name, values in part.items()}
        if FINITE in columns:
            columns["status"] = np.where(~columns[FINITE], "nonfinite", np.where(columns[DEGENERATE], "degenerate", "ok")).tolist()
        columns["map"] = list(columns.get("map", [None] * n))
        tables.append(
            pa.table({name: pa.array(columns.get(name, [None] * n), type=schema.field(name).type) for name in schema.names}, schema=schema)
        )
    if not tables:
        return schema.empty_table()
    return pa.concat_tables(tables).sort_by([("index", "ascending")]).combine_chunks()
