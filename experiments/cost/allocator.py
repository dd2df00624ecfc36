"""Compare the time of a forward pass on the CPU where glibc keeps freed memory with its default, in turns in one process.

python experiments/cost/allocator.py --json results/allocator.json
"""

import ctypes
import statistics
from pathlib import Path
from typing import Annotated

import typer

from evalkit.bench import timing
from evalkit.cli.script import run_script
from evalkit.evaluation.allocator import keep_freed_memory


def by_default() -> None:
    """Set what glibc adapts to in a process that frees large tensors: blocks from 32 MiB are mapped, 64 MiB are kept at most."""
    for parameter, value in ((-4, 65536), (-3, 2**25), (-1, 2**26)):
        ctypes.CDLL(None).mallopt(parameter, value)


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="The figures.")] = None,
    model: Annotated[list[str], typer.Option(help="Networks.")] = ["mobilenet_v2", "resnet50"],  # noqa: B006
    repeats: Annotated[int, typer.Option(help="Measurements of each.")] = 5,
) -> None:
    """Print the median time by default divided by the median time with memory kept, for batches of 1, 8 and 32 images."""
    figures: dict[str, float | int] = {"repeats": repeats}
    for name in model:
        for batch_size in (1, 8, 32):
            subject = timing.bench_network(name, [], batch_size, None)

            def run(allocator: object, subject: timing.BenchNetwork = subject) -> None:
                allocator()  # type: ignore[operator]
                subject.forward()

            times = timing.take_turns({"default": lambda: run(by_default), "kept": lambda: run(keep_freed_memory)}, repeats)
            ratio = statistics.median(times["default"]) / statistics.median(times["kept"])
            figures[f"{name}_batch_{batch_size}"] = round(ratio, 3)
            print(f"{name}, batch {batch_size}: {ratio:.2f}", flush=True)
    timing.write(figures, json_file)


if __name__ == "__main__":
    run_script(main)
