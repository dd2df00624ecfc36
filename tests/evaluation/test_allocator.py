import subprocess
import sys

import pytest

TOUCH = """
import resource
import torch
from evalkit.evaluation.allocator import keep_freed_memory
told = {keep} and keep_freed_memory()
for _ in range(10):  # until the holes that alignment leaves have grown together
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(2**24)
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_tensors_are_reused_instead_of_mapped_again():
    answers = [
        subprocess.run([sys.executable, "-c", TOUCH.format(keep=keep)], capture_output=True, text=True, check=True).stdout.split()
        for keep in (True, False)
    ]
    if answers[0][0] != "True":
        pytest.skip("no glibc")
    kept, mapped = (int(faults) for _, faults in answers)
    assert kept < mapped / 10
