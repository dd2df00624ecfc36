"""Measure the peak memory of a run's main process for more images, methods and channels, which should make no difference.

    python experiments/cost/peak_memory.py IMAGES --json results/peak_memory.json

The pictures of the folder are linked repeatedly until there are enough. The decoding processes are not counted.
"""

import itertools
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from torch import nn

from evalkit.bench import timing
from evalkit.cli.script import run_script
from evalkit.config.choices import choices

SIZE = 96
CLASSES = 10


def wide(channels: int) -> nn.Sequential:
    """Return a network with `channels` maps of 12x12, then two convolutions that mix them all, so that each ablation costs a pass."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, channels, 8, 8), nn.ReLU()),
        nn.Conv2d(channels, 64, 3), nn.ReLU(), nn.Conv2d(64, 256, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, CLASSES),
    )  # fmt: skip


def main(
    images: Path,
    counts: Annotated[list[int], typer.Option("--count", help="Images.")] = [200, 5000],  # noqa: B006
    channels: Annotated[list[int], typer.Option("--channels", help="Channels of the network `wide`.")] = [256, 4096],  # noqa: B006
    model: Annotated[str, typer.Option(help="Network for images and methods; random weights.")] = "mobilenet_v3_small",
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Start each run, wait, and read its peak memory from the kernel."""
    figures: dict[str, object] = {"model": model, "size": SIZE, **timing.machine()}
    files = sorted(file for file in images.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    # Not for this network (cam), too slow (two), of other libraries (two).
    left_out = {"cam", "ablated_input_cam", "score_cam", "pytorch_grad_cam", "torch_cam"}
    cams = [name for name in choices("method") if "cam" in name and name not in left_out]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "pictures"
        folder.mkdir()
        for number, file in zip(range(max(counts)), itertools.cycle(files), strict=False):
            (folder / f"{number:06d}{file.suffix}").symlink_to(file.resolve())
        classes = Path(scratch) / "classes.txt"
        classes.write_text("".join(f"class {i}\n" for i in range(CLASSES)))

        def measure(what: str, *overrides: str) -> None:
            command = [sys.executable, "-m", "evalkit", "run", f"model.resize=[{SIZE},{SIZE}]", "data=image_folder", f"data.root={folder}"]
            command += ["workers=1", "device=cpu", "protocol.top_percent=20", "maps=store", f"out={scratch}/{what}", *overrides]
            _, status, used = os.wait4(os.posix_spawn(sys.executable, command, os.environ), 0)
            if status:
                raise SystemExit(f"{what} failed")
            figures[f"peak_mebibytes_{what}"] = round(used.ru_maxrss / 1024)
            print(f"{what}: {used.ru_maxrss / 1024:.0f} MiB", flush=True)

        plain = [f"model={model}", "model.weights=null", "model.crop=null"]
        for count in counts:
            measure(f"{count}_images", *plain, f"limit={count}", "method=[grad_cam,ablation_cam]")
        for some in (["ablation_cam"], cams):
            measure(f"{len(some)}_methods", *plain, "limit=64", f"method=[{','.join(some)}]")
        for number in channels:
            custom = ["model=custom", "model.factory=peak_memory.wide", f"+model.args.channels={number}", "model.layer='0'"]
            measure(f"{number}_channels", *custom, f"model.classes={classes}", "limit=4", "method=[ablation_cam]")
    print(json.dumps(figures, indent=2))
    timing.write(figures, json_file)


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    run_script(main)
