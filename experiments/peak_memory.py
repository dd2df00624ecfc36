"""Peak memory of a run's main process against the number of images: it should not grow.

    python experiments/peak_memory.py IMAGES --json results/peak_memory.json

The folder's pictures are linked again and again until there are enough. The decoding processes are not counted.
"""

import itertools
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from evalkit import timing


def main(
    images: Path,
    counts: Annotated[list[int], typer.Option("--count", help="Images.")] = [200, 5000],  # noqa: B006
    size: Annotated[int, typer.Option(help="Side of the network's input, in pixels.")] = 96,
    model: Annotated[str, typer.Option(help="The network; random weights.")] = "mobilenet_v3_small",
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Run, wait, ask the kernel."""
    figures = {"model": model, "size": size, **timing.machine()}
    files = sorted(file for file in images.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "pictures"
        folder.mkdir()
        for number, file in zip(range(max(counts)), itertools.cycle(files), strict=False):
            (folder / f"{number:06d}{file.suffix}").symlink_to(file.resolve())
        for count in counts:
            command = [sys.executable, "-m", "evalkit", "run", f"model={model}", "model.weights=null", f"model.resize=[{size},{size}]"]
            command += ["model.crop=null", "data=image_folder", f"data.root={folder}", f"limit={count}", "workers=1", "device=cpu"]
            command += ["method=[grad_cam,ablation_cam]", "protocol.top_percent=20", "maps=store", f"out={scratch}/{count}"]
            process = os.posix_spawn(sys.executable, command, os.environ)
            _, status, used = os.wait4(process, 0)
            assert status == 0
            figures[f"peak_mebibytes_{count}_images"] = round(used.ru_maxrss / 1024)
            print(f"{count} images: {used.ru_maxrss / 1024:.0f} MiB", flush=True)
    figures["ratio"] = figures[f"peak_mebibytes_{max(counts)}_images"] / figures[f"peak_mebibytes_{min(counts)}_images"]
    print(json.dumps(figures, indent=2))
    timing.write(figures, json_file)


if __name__ == "__main__":
    typer.run(main)
