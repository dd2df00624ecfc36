"""Compare two workers on one machine with one: seconds of the whole command, and whether the tables are the same.

    python experiments/cost/speedup.py IMAGES --json results/speedup.json        (IMAGES: a folder of at least --limit pictures)

Every worker has one thread. `speedup` excludes the time to start (the same command again, when nothing is left to do);
`ceiling` is the limit of the machine: two processes of plain passes through the same network compared with one. Everything
is repeated in turn; the figures are the median, the lowest and the highest.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from evalkit.bench import timing
from evalkit.cli.script import run_script
from evalkit.runs.folder import RunFolder

SHARD = 8
"""Images in a shard and in a batch."""
PLAIN = """
import sys, time, torch
from evalkit.bench import timing
subject = timing.bench_network(sys.argv[1], [], int(sys.argv[3]), 1)
subject.forward()
sys.stdin.readline()
started = time.perf_counter()
for _ in range(int(sys.argv[2])):
    subject.forward()
print(time.perf_counter() - started)
"""


def main(
    images: Path,
    model: Annotated[str, typer.Option(help="A compute-bound network.")] = "resnet50",
    limit: Annotated[int, typer.Option(help="Images.")] = 96,
    workers: Annotated[int, typer.Option(help="Worker processes.")] = 2,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure each command in turn and print the ratios."""
    if limit % (SHARD * workers):
        raise typer.BadParameter(f"--limit must be a multiple of {SHARD * workers}, so that every worker has the same number of shards")
    ratios: dict[str, list[float]] = {"speedup": [], "speedup_with_start": [], "ceiling": []}
    identical = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as scratch:
            took, starts, tables = {}, {}, {}
            for count in (1, workers):
                out = Path(scratch) / str(count)
                command = [sys.executable, "-m", "evalkit", "run", f"model={model}", "model.weights=null", "data=image_folder"]
                command += [f"data.root={images}", "method=[grad_cam,ablation_cam]", "protocol.top_percent=20", f"limit={limit}"]
                command += [f"batch_size={SHARD}", f"shard_size={SHARD}", "workers=0", f"devices={count}", "device=cpu", f"out={out}"]
                took[count], starts[count] = seconds(command), seconds(command)
                tables[count] = RunFolder(out).rows()
        ratios["speedup"].append((took[1] - starts[1]) / (took[workers] - starts[workers]))
        ratios["speedup_with_start"].append(took[1] / took[workers])
        ratios["ceiling"].append(workers * plain(model, 1) / plain(model, workers))
        identical.append(tables[1].equals(tables[workers]))
    figures = {
        "model": model,
        "images": int(tables[1]["index"].nunique()),
        "workers": workers,
        "repeats": repeats,
        **{name: statistics.median(values) for name, values in ratios.items()},
        **{f"{name}_{end.__name__}": end(values) for name, values in ratios.items() for end in (min, max)},
        "seconds_one": took[1],
        "tables_identical": all(identical),
        **timing.machine(),
        "threads": 1,
        "cores": os.cpu_count(),
    }
    print(json.dumps(figures, indent=2))
    timing.write(figures, json_file)


def seconds(command: list[str]) -> float:
    """Return the seconds that a command takes."""
    started = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def plain(model: str, processes: int, passes: int = 12) -> float:
    """Return the seconds of the slowest of several processes that make their passes at the same time."""
    command = [sys.executable, "-c", PLAIN, model, str(passes), str(SHARD)]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    time.sleep(20)  # until all have loaded the network and wait
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return max(float(process.communicate()[0]) for process in started)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_script(main)
