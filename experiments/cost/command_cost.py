"""Time and memory of a command: seconds by the clock and of the processors, and the largest memory of any of its processes."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

STARTER = """
import json, os, sys
_, status, used = os.wait4(os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ), 0)
cost = {"code": os.waitstatus_to_exitcode(status), "processor_seconds": used.ru_utime + used.ru_stime, "mebibytes": used.ru_maxrss / 1024}
open(sys.argv[1], "w").write(json.dumps(cost))
"""
"""A small process that starts the command: the kernel counts the memory of the process that starts another one as the other's too."""


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    code: int
    """Exit code, negative for a signal."""
    seconds: float
    processor_seconds: float
    mebibytes: float
    """Largest resident memory of the command or one of the processes it waited for, whichever had more."""


def measured(
    command: Sequence[str],
    output: IO[str] | int,
    errors: IO[str] | int | None = None,
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Cost:
    """Run a command, whose first word is a path, in a folder, and return what it took; `errors` are shown unless they have a place."""
    with tempfile.TemporaryDirectory() as scratch:
        said, started = Path(scratch) / "cost.json", time.perf_counter()
        starter = [sys.executable, "-S", "-c", STARTER, str(said), *command]
        subprocess.run(starter, cwd=folder, env=env, stdout=output, stderr=errors, check=True)
        return Cost(seconds=time.perf_counter() - started, **json.loads(said.read_text()))
