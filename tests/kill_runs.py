"""Kill runs at random moments, resume them, and compare the table with that of an undisturbed run.

    python tests/kill_runs.py --kills 20 --workers 1 --workers 2 --workers 3      (make soak)

A run is killed after it has published a shard and before its last: by SIGKILL, SIGTERM or SIGINT; the command, one of its
workers, or all of its processes at once. The same command is given again immediately, beside workers that may not have
noticed yet. Prints what was done and exits with 1 if any table differs in any bit.
"""

import collections
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from evalkit.runs.folder import RunFolder

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
RUN = ["model=digits_fc", "data=digits", "limit=240", "shard_size=4", "batch_size=3", "method=[ablation_cam,grad_cam,random]"]


def main(
    kills: Annotated[int, typer.Option(help="Kills for each number of workers.")] = 20,
    workers: Annotated[list[int], typer.Option(help="Worker processes of the runs that are killed.")] = [1, 2, 3],  # noqa: B006
    seed: Annotated[int | None, typer.Option(help="Of the moments and victims; another one each time where not given.")] = None,
) -> None:
    """Kill, resume, compare."""
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        undisturbed = start(Path(name) / "undisturbed", 1)
        if undisturbed.wait():
            raise SystemExit("the undisturbed run failed")
        reference = RunFolder(Path(name) / "undisturbed").rows()
        faults = 0
        for count in workers:
            faults += soak(Path(name) / f"workers-{count}", count, kills, rng, reference)
    print(f"seed {seed}: {faults} tables differ")
    raise SystemExit(1 if faults else 0)


def soak(folder: Path, workers: int, kills: int, rng: random.Random, reference: pd.DataFrame) -> int:
    """Kill runs of so many workers so often; returns how many tables differ."""
    tally: collections.Counter[str] = collections.Counter()
    while tally["kills"] < kills:
        out = folder / str(tally["runs"])
        tally["runs"] += 1
        while True:
            process = start(out, workers)
            before = published(out)
            wanted = before + 1 + rng.randrange(4)
            while process.poll() is None and published(out) < wanted:
                time.sleep(0.005)
            if process.poll() is None and tally["kills"] < kills:
                time.sleep(rng.random() * 0.1)
                tally[kill(process.pid, out, rng)] += 1
                tally["kills"] += 1
            if process.wait() == 0:
                break
        missing = RunFolder(out).missing()
        same = not missing and RunFolder(out).rows().equals(reference)
        tally["identical" if same else "different"] += 1
    how = ", ".join(f"{what} {tally[what]}" for what in sorted(tally) if what.startswith("SIG"))
    print(f"{workers} workers: {tally['kills']} kills ({how}) of {tally['runs']} runs, {tally['identical']} tables identical", flush=True)
    return tally["different"]


def start(out: Path, workers: int) -> subprocess.Popen[bytes]:
    """The command, in a process group of its own."""
    command = [sys.executable, "-m", "evalkit", "run", *RUN, "workers=0", f"devices={workers}", f"out={out}"]
    where = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True, env=where, preexec_fn=heed_interrupts)  # noqa: PLW1509


def heed_interrupts() -> None:
    """Which a shell has its background jobs ignore, and their children with them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def published(out: Path) -> int:
    """Finished shards."""
    return len(list(out.glob("rows/shard-*.parquet")))


def kill(pid: int, out: Path, rng: random.Random) -> str:
    """Send one signal to the command, to one of its workers, or to all of them; returns what was done."""
    how, whom = rng.choice(SIGNALS), rng.choice(["the command", "a worker", "all"])
    claimants = {int(text.split()[1]) for file in out.glob("claims/*") if (text := read(file))}
    alive = [claimant for claimant in claimants if Path(f"/proc/{claimant}").exists()]
    try:
        if whom == "all":
            os.killpg(pid, how)
        else:
            os.kill(rng.choice(alive) if whom == "a worker" and alive else pid, how)
    except ProcessLookupError:
        return "too late"
    return f"{how.name} to {whom}"


def read(file: Path) -> str:
    """A claim, which may be withdrawn meanwhile."""
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""


if __name__ == "__main__":
    typer.run(main)
