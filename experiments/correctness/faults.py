"""Damage runs as failures on a cluster do, and record what happens and what a user sees.

    python experiments/correctness/faults.py --out results/faults.md          (about six minutes on two CPU cores)

Each fault starts from a copy of a finished run, or from the command itself; afterwards the same command runs again, and its
table is compared bit by bit with that of an undisturbed run.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from evalkit.cli.script import run_script
from evalkit.runs.folder import RunFolder

RUN = ["model=digits_fc", "data=digits", "limit=96", "shard_size=4", "batch_size=4", "method=[ablation_cam,grad_cam]", "workers=0"]


@dataclass(frozen=True)
class Outcome:
    """The exit code of a command and what it printed."""

    code: int
    text: str


def evalkit(*arguments: str, limits: Callable[[], None] | None = None, **environment: str) -> Outcome:
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "evalkit", *arguments]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "400", "NO_COLOR": "1", **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, preexec_fn=limits, timeout=300, check=False)
    if "Traceback" in done.stderr:
        return Outcome(done.returncode, "a traceback: " + done.stderr.strip().splitlines()[-1])
    return Outcome(done.returncode, brief([line for line in done.stderr.strip().splitlines() if line]))


def brief(lines: list[str]) -> str:
    """Join the lines, with only the first of several warnings."""
    warnings = [line for line in lines if line.startswith("WARNING")]
    others = [line for line in lines if line not in warnings]
    more = [f"({len(warnings) - 1} more)"] if len(warnings) > 1 else []
    return " / ".join([*warnings[:1], *more, *others])


def run(out: Path, *overrides: str, limits: Callable[[], None] | None = None) -> Outcome:
    """Run `RUN` into a folder."""
    return evalkit("run", *RUN, f"out={out}", *overrides, limits=limits)


def shard(out: Path, number: int = 1, kind: str = "rows") -> Path:
    """Return the path of a shard's file."""
    return out / kind / f"shard-{number:05d}.parquet"


def accept_interrupts() -> None:
    """Accept SIGINT, which a shell sets its background jobs to ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stopped(out: Path, how: signal.Signals, *overrides: str) -> Outcome:
    """Start the run and stop it after its first shard."""
    command = [sys.executable, "-m", "evalkit", "run", *RUN, f"out={out}", *overrides]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=variables, preexec_fn=accept_interrupts)  # noqa: PLW1509
    while process.poll() is None and not shard(out, 0).exists():
        time.sleep(0.002)
    process.send_signal(how)
    text = process.communicate()[1].strip().replace("\n", " / ")
    return Outcome(process.returncode, text)


def cut_short(out: Path) -> Outcome:
    """A file loses its end."""
    shard(out).write_bytes(shard(out).read_bytes()[:-100])
    return evalkit("tables", str(out))


def flipped(out: Path) -> Outcome:
    """One bit in the middle of a file changes."""
    content = bytearray(shard(out).read_bytes())
    content[len(content) // 2] ^= 1
    shard(out).write_bytes(content)
    return evalkit("tables", str(out))


def rewritten(out: Path) -> Outcome:
    """A score is edited by hand."""
    table = pd.read_parquet(shard(out))
    table.assign(prob_masked=1.0).to_parquet(shard(out))
    return evalkit("tables", str(out))


def misplaced(out: Path) -> Outcome:
    """One shard's files are copied over another's."""
    for kind in ("rows", "maps"):
        shutil.copy(shard(out, 2, kind), shard(out, 1, kind))
    return evalkit("tables", str(out))


def maps_gone(out: Path) -> Outcome:
    """The folder of maps is deleted."""
    shutil.rmtree(out / "maps")
    return evalkit("tables", str(out))


def record_damaged(out: Path) -> Outcome:
    """provenance.json is cut."""
    file = out / "provenance.json"
    file.write_text(file.read_text()[:200])
    return evalkit("tables", str(out))


def record_altered(out: Path) -> Outcome:
    """provenance.json says another number of images."""
    file = out / "provenance.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "images": 8}))
    return evalkit("tables", str(out))


def other_run(out: Path) -> Outcome:
    """The same folder for another threshold."""
    return run(out, "protocol.top_percent=50")


def clock(out: Path) -> Outcome:
    """All files are dated 1980, one shard is missing."""
    shard(out).unlink()
    for file in out.rglob("*"):
        os.utime(file, (315532800, 315532800))
    return run(out)


def stale(out: Path) -> Outcome:
    """A temporary file and claims of dead workers are left, one shard is missing."""
    shard(out).unlink()
    (out / "rows" / ".shard-00001.parquet.x.tmp").write_bytes(b"half a file")
    (out / "claims").mkdir(exist_ok=True)
    for number in range(6):
        (out / "claims" / f"shard-{number:05d}").write_text("process 1 on a machine that is gone")
    return run(out)


def full(out: Path) -> Outcome:
    """No file may grow beyond 4 kB."""
    shard(out).unlink()

    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    return run(out, limits=limits)


def read_only(out: Path) -> Outcome:
    """The folder cannot be written: a file has its name."""
    shutil.rmtree(out / "rows")
    (out / "rows").write_text("")
    outcome = run(out)
    (out / "rows").unlink()
    return outcome


def sigkill(out: Path) -> Outcome:
    """SIGKILL after the first shard."""
    shutil.rmtree(out)
    return stopped(out, signal.SIGKILL)


def sigterm(out: Path) -> Outcome:
    """SIGTERM after the first shard, as a scheduler sends it."""
    shutil.rmtree(out)
    return stopped(out, signal.SIGTERM)


def ctrl_c(out: Path) -> Outcome:
    """Ctrl-C after the first shard, two workers."""
    shutil.rmtree(out)
    return stopped(out, signal.SIGINT, "devices=2")


def twice(out: Path) -> Outcome:
    """The same command twice at the same time."""
    shutil.rmtree(out)
    command = [sys.executable, "-m", "evalkit", "run", *RUN, f"out={out}"]
    other = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    outcome = run(out)
    other.wait()
    return outcome


FAULTS = (
    sigkill, sigterm, ctrl_c, twice, cut_short, flipped, rewritten, misplaced, maps_gone, record_damaged, record_altered, stale, clock,
    full, read_only, other_run,
)  # fmt: skip


def main(out: Annotated[Path | None, typer.Option(help="The table, as markdown.")] = None) -> None:
    """Try every fault and print the table."""
    lines = ["| fault | exit code | what a user sees | the same command again | table |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        assert run(whole).code == 0
        reference = RunFolder(whole).rows()
        for fault in FAULTS:
            folder = Path(scratch) / fault.__name__
            shutil.copytree(whole, folder)
            outcome = fault(folder)
            again = run(folder)
            same = "identical" if RunFolder(folder).rows().equals(reference) else "DIFFERENT"
            cells = [(fault.__doc__ or "").strip(), str(outcome.code), outcome.text, again.text, same]
            lines.append("| " + " | ".join(cell.replace(scratch, "results").replace("|", "/") for cell in cells) + " |")
            print(lines[-1], flush=True)
    if out is not None:
        out.write_text("# Faults\n\n`python experiments/correctness/faults.py --out results/faults.md`\n\n" + "\n".join(lines) + "\n")
    raise SystemExit("DIFFERENT" in "".join(lines))


if __name__ == "__main__":
    run_script(main)
