"""Test whether masks depend on the batch size.

    python experiments/correctness/batch_sizes.py batches model=mobilenet_v2 data=imagenet data.root=... sample=200

Runs the same configuration at batch sizes 1, 7 and 64 in fresh folders, rebuilds every mask from the stored float32
maps, prints each row whose mask differs from that of batch size 1 and whether its `rank_gap` is below 1e-5, and prints
the figures of the three tables side by side.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer

from evalkit import protocol
from evalkit.analysis.load import load_runs
from evalkit.analysis.summary import PAPER_METRICS, summarise
from evalkit.cli.script import run_script
from evalkit.config.compose import compose_jobs
from evalkit.config.schema import RunConfig
from evalkit.launch.run import run_job

SIZES = (1, 7, 64)


def masks(folder: Path, config: RunConfig, size: tuple[int, int]) -> dict[tuple[int, str, float], np.ndarray]:
    """Return (index, method, percent) -> packed mask, rebuilt from the maps of a run."""
    packed = {}
    for file in sorted((folder / "maps").glob("*.parquet")):
        for row in pd.read_parquet(file).itertuples():
            if row.map is None:
                continue
            low = torch.from_numpy(np.array(row.map)).view(1, row.height, row.width)
            ranking = protocol.Ranking(protocol.upsample(low, size))
            for percent in config.protocol.top_percent:
                packed[row.index, row.method, percent] = np.packbits(ranking.top(percent).numpy())
    return packed


def main(
    out: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
    overrides: Annotated[list[str], typer.Argument(help="The run.")],
    side: Annotated[int, typer.Option(help="Side of the model's input.")] = 224,
) -> None:
    """Compute three runs and compare their masks and tables."""
    tables, reference = {}, {}
    for batch_size in SIZES:
        folder = out / f"batch{batch_size}"
        (job,) = compose_jobs([*overrides, "maps=store", f"batch_size={batch_size}", f"out={folder}"])
        rows = run_job(job).rows().set_index(["index", "method", "top_percent"]).sort_index()
        current = masks(folder, job.config, (side, side))
        reference = reference or current
        differing = [key for key, mask in current.items() if not np.array_equal(mask, reference[key])]
        print(f"batch size {batch_size}: {len(differing)} of {len(current)} masks differ from those of batch size {SIZES[0]}")
        for key in differing:
            gap = float(rows.loc[key, "rank_gap"])
            swapped = int(np.unpackbits(current[key] ^ reference[key]).sum()) // 2
            print(f"  image {key[0]}, {key[1]}, top {key[2]:g} %: {swapped} pixels swapped, rank_gap {gap:.2e}, below 1e-5: {gap < 1e-5}")
        summary = summarise(load_runs([folder])[0])
        chosen = summary[summary.metric.isin(PAPER_METRICS)]
        tables[f"batch {batch_size}"] = chosen.set_index(["top_percent", "score", "metric", "method"]).value
    together = pd.DataFrame(tables)
    print(together.round(4).to_string())
    print("largest difference:", float((together.max(axis=1) - together.min(axis=1)).max()))


if __name__ == "__main__":
    run_script(main)
