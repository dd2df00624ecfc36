"""Rehearse a run of 50,000 photographs: two workers, killed and resumed once, then tables, report, export and verify on the result.

    nice -n 5 python experiments/cost/rehearsal.py PICTURES... --scratch SCRATCH --json results/rehearsal.json

The photographs of the folders are linked repeatedly until there are enough, and decoded each time; the network is that of
random_network.py, so that decoding, masks, files and claims carry the load. Two processes run one command, each in a process group
of its own; both groups are killed (SIGKILL) when 40 % of the shards are finished, and the command is given again. SCRATCH keeps the run
folder. Ends with exit code 1 where a check fails.
"""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import random_network
import rehearsal_checks
import rehearsal_commands
import typer

from evalkit.bench import timing
from evalkit.cli.script import run_script
from evalkit.runs.folder import RunFolder

METHODS = ("grad_cam", "ablation_cam", "layer_cam", "centre")
THRESHOLDS = (20, 50)
WORKERS = 2
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


@dataclass
class Phase:
    """What was seen while two processes computed: finished shards by the clock, and the resident bytes of each process."""

    started: float = field(default_factory=time.time)
    shards: list[tuple[float, int]] = field(default_factory=list)
    """Seconds since the start, and the number of finished shards then."""
    resident: dict[int, list[int]] = field(default_factory=dict)
    """Bytes of each process, by its id, once a second."""
    load: list[float] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)
    seconds: float = 0.0

    def figures(self, shard_size: int, images: int) -> dict[str, Any]:
        """Return images a second between the first and the last shard that was finished, and the medians of memory."""
        new = [(second, number) for second, number in self.shards if number > self.shards[0][1]]
        per_second = None
        if new and new[-1][0] > new[0][0]:
            last = min(new[-1][1] * shard_size, images)
            per_second = round((last - new[0][1] * shard_size) / (new[-1][0] - new[0][0]), 1)
        return {
            "seconds": round(self.seconds, 1),
            "seconds_to_the_first_shard": round(new[0][0], 1) if new else None,
            "images_per_second": per_second,
            "exits": self.exits,
            "load_average": round(sum(self.load) / len(self.load), 1),
            "memory": [thirds(of) for of in self.resident.values()],
        }


def thirds(resident: list[int]) -> dict[str, Any]:
    """Return the median mebibytes of a process in the first and in the last third of its time, and the most."""
    third = max(1, len(resident) // 3)
    first, last = (round(median(part) / 2**20) for part in (resident[:third], resident[-third:]))
    return {"samples": len(resident), "first_third": first, "last_third": last, "most": round(max(resident) / 2**20)}


def main(
    pictures: list[Path],
    scratch: Annotated[Path, typer.Option(help="Folder for links, run folder and outputs.")],
    images: Annotated[int, typer.Option(min=2)] = 50_000,
    size: Annotated[int, typer.Option(help="Height and width to which photographs are resized.")] = 96,
    kill_at: Annotated[float, typer.Option(help="Share of the shards after which the workers are killed.")] = 0.4,
    subset: Annotated[int, typer.Option(help="Images of a second, undisturbed run.")] = 2000,
    sample: Annotated[str, typer.Option(help="What `evalkit verify` recomputes.")] = "0.2%",
    every: Annotated[float, typer.Option(help="Seconds between two looks at the processes.")] = 1.0,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Further settings of the run, such as batch_size=2.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
    again: Annotated[
        list[str] | None, typer.Option(help="Measure these commands alone on the run that is there; the other figures of --json stay.")
    ] = None,
) -> None:
    """Run, kill, resume, check, and print the figures."""
    scratch = scratch.resolve()
    if again and json_file is not None:
        figures: dict[str, Any] = json.loads(json_file.read_text())
    else:
        figures = rehearse(pictures, scratch, images, size, kill_at, subset, every, settings or [])
    figures["commands"] = figures.get("commands", {}) | rehearsal_commands.run(scratch / "run", scratch, sample, again)
    figures["agreement"] = rehearsal_commands.agreement(scratch)
    figures["checks"] |= {
        "the commands ended with exit code 0": all(one["exit"] == 0 for one in figures["commands"].values()),
        "tables, report and export agree": figures["agreement"]["agree"],
    }
    print(json.dumps(figures, indent=2))
    timing.write(figures, json_file)
    if not all(figures["checks"].values()):
        raise typer.Exit(1)


def rehearse(
    pictures: list[Path], scratch: Path, images: int, size: int, kill_at: float, subset: int, every: float, settings: list[str]
) -> dict[str, Any]:
    """Run on so many images, kill, resume, run on the first `subset` of them undisturbed; return figures and checks of the folders."""
    files = sorted(file.resolve() for folder in pictures for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    link(files, images, scratch)
    command = [*rehearsal_commands.evalkit("run"), "model=custom", "model.factory=random_network.strided", "model.layer='0'"]
    command += [f"model.resize=[{size},{size}]", f"model.classes={scratch / 'classes.txt'}", "data=image_folder"]
    command += [
        f"data.root={scratch / 'pictures'}",
        f"method=[{','.join(METHODS)}]",
        f"protocol.top_percent=[{','.join(map(str, THRESHOLDS))}]",
    ]
    command += ["maps=store", "device=cpu", "workers=0", *settings]
    path = scratch / "run"
    figures: dict[str, Any] = {"images": images, "photographs": len(files), "size": size, "methods": METHODS, "thresholds": THRESHOLDS}
    figures |= {"settings": settings, **timing.machine(), "threads": 1, "cores": os.cpu_count(), "python": sys.version.split()[0]}

    before = work([*command, f"out={path}"], path, scratch / "before", every, kill_at, images)
    folder = RunFolder(path)
    figures["before_the_kill"] = before.figures(folder.shard_size, images)
    figures["killed"] = killed = rehearsal_checks.after_a_kill(folder, before.started + before.seconds)
    after = work([*command, f"out={path}"], path, scratch / "after", every, None, images)
    said = [re.search(r"(\d+) images in ", log.read_text()) for log in sorted(scratch.glob("after-*.log"))]
    done = [int(found[1]) if found else 0 for found in said]
    figures["after_the_kill"] = after.figures(folder.shard_size, images)
    figures["after_the_kill"] |= {"images_by_worker": done, "images_computed_by_both": sum(done) - (images - killed["images_kept"])}

    undisturbed = [*command, f"out={scratch / 'subset'}", f"limit={subset}", f"devices={WORKERS}"]
    figures["subset"] = {"images": subset, **rehearsal_commands.timed(undisturbed, scratch / "subset.log")}
    contents = rehearsal_checks.contents(folder, METHODS, THRESHOLDS, len(files))
    figures["run"] = contents | rehearsal_checks.files(path)
    figures["subset"] |= rehearsal_checks.compare(RunFolder(scratch / "subset"), folder)
    figures["checks"] = {
        "both workers were killed": before.exits == [-signal.SIGKILL] * WORKERS and killed["shards_finished"] < contents["shards"],
        "both workers finished": after.exits == [0] * WORKERS,
        "every shard is there": not folder.missing() and len(folder.shards) == contents["shards"],
        "every image, method and threshold exactly once": contents["complete"],
        "no claim, part or other file is left": not figures["run"]["left_over"],
        "repeated photographs have equal scores": contents["repeats"]["largest_difference"] < rehearsal_checks.FLOAT_NOISE,
        "the undisturbed run has equal scores": figures["subset"]["largest_difference"] < rehearsal_checks.FLOAT_NOISE,
    }
    return figures


def link(files: list[Path], images: int, scratch: Path) -> None:
    """Link photograph i modulo their number as picture i, and write the lists of labels and classes: those of the photographs' folders."""
    folder = scratch / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    classes = {name: i % random_network.CLASSES for i, name in enumerate(sorted({file.parent.name for file in files}))}
    lines = ["file,class"]
    for number, file in zip(range(images), itertools.cycle(files), strict=False):
        name = f"{number:06d}{file.suffix}"
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(file)
        lines.append(f"{name},class {classes[file.parent.name]}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    (scratch / "classes.txt").write_text("".join(f"class {i}\n" for i in range(random_network.CLASSES)))


def work(command: list[str], run: Path, logs: Path, every: float, kill_at: float | None, images: int) -> Phase:
    """Run a command in two processes, each with its own process group, until they end or the share `kill_at` of the shards is finished."""
    phase, processes = Phase(), []

    def look() -> int:
        phase.shards.append((time.time() - phase.started, len(list((run / "rows").glob("shard-*.parquet")))))
        phase.load.append(os.getloadavg()[0])
        for number, size in resident({process.pid for process in processes}).items():
            phase.resident.setdefault(number, []).append(size)
        return phase.shards[-1][1]

    def kill() -> None:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)

    try:
        for worker in range(WORKERS):
            with Path(f"{logs}-{worker}.log").open("w") as log:
                processes.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
        while any(process.poll() is None for process in processes):
            finished = look()
            if kill_at is not None and finished and finished >= kill_at * images / RunFolder(run).shard_size:
                break
            time.sleep(every)
    finally:
        kill()
    phase.exits = [process.wait() for process in processes]
    phase.seconds = time.time() - phase.started
    look()
    return phase


def resident(groups: set[int]) -> dict[int, int]:
    """Return the resident bytes of each process of these process groups, by its id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            group = int((folder / "stat").read_text().rpartition(")")[2].split()[2])
            if group in groups:
                found[int(folder.name)] = int((folder / "statm").read_text().split()[1]) * PAGE
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
    return {number: size for number, size in found.items() if size}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each worker of a machine with few cores has one
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    run_script(main)
