"""Write a finished run of any size through the product's own store, with scores drawn at random.

    python experiments/cost/synthetic_run.py results/large --images 50000 --methods 27 --points 9

The values have the shape of a real run's: logits and confidences of a softmax, methods of different quality that err together on an
image, constant maps, a few images that cannot be read and a few scores that are not finite.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer

from evalkit.cli.script import run_script
from evalkit.evaluation.columns import MAPS, ROWS
from evalkit.point import Point
from evalkit.runs.folder import RunFolder, shard_count
from evalkit.runs.identity import Identity

CONTROLS = ("random", "constant", "centre", "edges")
CLASSES = 1000
SHARD = 512


def method_names(count: int) -> list[str]:
    """Return names of so many methods, the last four being controls where there is room for them."""
    controls = CONTROLS if count > 2 * len(CONTROLS) else ()
    return [*("ablation_cam", "grad_cam", *(f"method_{i:02d}" for i in range(count)))[: count - len(controls)], *controls]


def protocol_points(count: int) -> list[Point]:
    """Return so many thresholds of pixels kept in black, from 10 % on."""
    return [Point("keep_top", float(top), "black") for top in np.linspace(10, 90, count).round(3)]


def write(out: Path, images: int, methods: Sequence[str], points: Sequence[Point], seed: int = 0) -> None:
    """Write a run of so many images; those already there stay."""
    facts = {
        "model": {"name": "synthetic", "layer": "features", "weights_hash": "0" * 16},
        "data": {"name": "synthetic", "fingerprint": f"{seed:064d}"},
        "method": {name: {"_target_": f"evalkit.methods.{name}"} for name in methods},
        "protocol": {"points": [{"select": p.select, "top_percent": p.top_percent, "fill": p.fill} for p in points]},
        "target": "predicted", "images": "all", "sample": None, "limit": None, "code": {},
    }  # fmt: skip
    known = {"weights": "synthetic scores", "expected_top1": None, "expected_top1_source": None, "paper_table": None}
    folder = RunFolder(out)
    folder.create_or_resume(Identity(facts), {**known, "class_names": [str(i) for i in range(CLASSES)]}, "", images, SHARD)
    for shard in folder.missing():
        first, last = shard * SHARD, min(images, (shard + 1) * SHARD)
        rows, maps = _shard(np.arange(first, last), methods, points, np.random.default_rng([seed, shard]))
        about = {"code": "synthetic", "seconds": 1.0, "left_out": 0, "seconds_per_method": dict.fromkeys(methods, 0.1)}
        folder.write_shard(shard, rows, maps, {**about, "maps_stored": False})
    assert not folder.missing() and len(folder.shards) == shard_count(images, SHARD)


def _shard(index: np.ndarray, methods: Sequence[str], points: Sequence[Point], rng: np.random.Generator) -> tuple[pa.Table, pa.Table]:
    n, m, p = len(index), len(methods), len(points)
    label, predicted = rng.integers(CLASSES, size=(2, n))
    predicted = np.where(rng.random(n) < 0.7, label, predicted)
    full = np.float32(rng.normal(12, 4, n))
    certain = np.float32(rng.normal(2, 2, n))  # the logarithm of the odds of the predicted class
    quality = np.linspace(0.9, 0.3, m)[:, None]
    kept = np.array([point.top_percent / 100 for point in points])
    loss = rng.gamma(2, 2, (n, m, 1)) * (1 - quality * kept) + rng.normal(0, 1.5, (n, 1, 1)) + rng.normal(0, 0.3, (n, m, p))
    masked = np.float32(full[:, None, None] - loss)
    status = np.full((n, m, p), "ok", dtype=object)
    status[:, [i for i, name in enumerate(methods) if name == "constant"]] = "degenerate"
    status[rng.random((n, m)) < 0.002] = "degenerate"
    status[rng.random((n, m, p)) < 2e-6] = "nonfinite"
    unread = rng.random(n) < 0.0005
    status[unread] = "error"

    def rows(values: Any, over: str) -> np.ndarray:
        """Return values of images ("n"), methods ("m"), points ("p"), or of images and others, as one value a row."""
        values = np.asarray(values)
        shape = {"n": (n, 1, 1), "m": (1, m, 1), "p": (1, 1, p), "nm": (n, m, 1), "nmp": (n, m, p)}[over]
        return np.broadcast_to(values.reshape(shape), (n, m, p)).ravel()

    lost = rows(unread, "n")
    columns = {
        "index": rows(index, "n"),
        "image_id": rows(np.array([f"val/ILSVRC2012_val_{i:08d}.JPEG" for i in index], dtype=object), "n"),
        "label": rows(label, "n"),
        "predicted": rows(predicted, "n"),
        "target": rows(predicted, "n"),
        "target_name": rows(predicted.astype(str).astype(object), "n"),
        "method": rows(np.array(methods, dtype=object), "m"),
        "select": rows(np.array([point.select for point in points], dtype=object), "p"),
        "top_percent": rows([point.top_percent for point in points], "p"),
        "fill": rows(np.array([point.fill for point in points], dtype=object), "p"),
        "kept_fraction": rows(kept, "p"),
        "positive_fraction": rows(rng.random((n, m)), "nm"),
        "rank_gap": rows(np.float32(rng.random((n, m, p)) * 1e-4).astype(float), "nmp"),
        "prob_full": rows(_sigmoid(certain), "n"),
        "prob_masked": rows(_sigmoid(certain[:, None, None] - np.float32(loss)), "nmp"),
        "logit_full": rows(full.astype(float), "n"),
        "logit_masked": rows(masked.astype(float), "nmp"),
        "status": rows(status, "nmp"),
        "error": np.where(lost, "cannot identify image file", None),
    }
    blank = {"predicted", "target", "target_name", "kept_fraction", "positive_fraction", "rank_gap"}
    arrays = {
        name: pa.array(values, type=ROWS.field(name).type, mask=lost if name in blank or name.startswith(("prob", "logit")) else None)
        for name, values in columns.items()
    }
    table = pa.table(arrays, schema=ROWS)
    own = table.filter(pa.array(np.tile(np.arange(p) == 0, n * m)))
    measured = {"complexity": rng.random(n * m), "coherency": rng.random(n * m)}
    maps = {name: own[name].combine_chunks() for name in MAPS.names if name in own.column_names}
    sizes = {"height": 7, "width": 7, "minimum": 0.0, "maximum": 1.0, "zero_fraction": 0.1, **measured}
    arrays = {
        field.name: maps.get(
            field.name, pa.array(np.broadcast_to(sizes[field.name], n * m) if field.name in sizes else [None] * (n * m), field.type)
        )
        for field in MAPS
    }
    return table, pa.table(arrays, schema=MAPS)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def main(
    out: Path,
    images: Annotated[int, typer.Option(min=1)] = 50_000,
    methods: Annotated[int, typer.Option(min=1)] = 27,
    points: Annotated[int, typer.Option(min=1)] = 9,
    seed: int = 0,
) -> None:
    """Write the run folder OUT."""
    write(out, images, method_names(methods), protocol_points(points), seed)
    print(f"written: {out} ({images * methods * points:,} rows)")


if __name__ == "__main__":
    run_script(main)
