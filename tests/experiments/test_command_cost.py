"""What a command took is its own, whatever the process that measures it holds."""

import subprocess
import sys

import command_cost
import numpy as np


def test_memory_is_that_of_the_command(tmp_path):
    held = np.ones(2**27)  # 1 GiB
    small = command_cost.measured([sys.executable, "-c", "pass"], subprocess.DEVNULL)
    large = command_cost.measured([sys.executable, "-c", "held = b'1' * 2**28"], subprocess.DEVNULL)
    assert small.mebibytes < 100 and 256 <= large.mebibytes < 400 and held[0] == 1
    assert small.code == 0 and small.processor_seconds > 0


def test_output_folder_and_exit_code(tmp_path):
    with (tmp_path / "log").open("w") as log:
        code = "import os; print(os.getcwd(), os.environ['HERE']); raise SystemExit(7)"
        cost = command_cost.measured([sys.executable, "-c", code], log, log, tmp_path, {"HERE": "there"})
    assert cost.code == 7 and (tmp_path / "log").read_text().split() == [str(tmp_path), "there"]
    assert command_cost.measured([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], subprocess.DEVNULL).code == -9
