"""Batches never cross a shard's end, keep their order, and set broken images apart."""

import subprocess
import sys

import pytest

from evalkit.data.decode import Preprocess
from evalkit.data.loader import batches
from evalkit.data.sources import image_folder


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches(folder, workers, batch_size):
    (folder / "b" / "0.png").write_bytes(b"")
    source = image_folder(str(folder))
    shards = {0: range(5), 2: range(8, 12)}
    seen: dict[int, list[int]] = {0: [], 2: []}
    for batch in batches(source, Preprocess([8, 8], None), (8, 8), shards.items(), batch_size, workers, pin=False):
        seen[batch.shard] += list(batch.keys)
        assert len(batch.keys) <= batch_size
        assert sorted([*batch.readable, *batch.errors]) == sorted(batch.keys)
        assert batch.images is None or batch.images.shape == (len(batch.readable), 3, 8, 8)
        assert batch.errors == ({4: "the file is empty"} if 4 in batch.keys else {})
        assert batch.last == (list(batch.keys)[-1] == shards[batch.shard][-1])
    assert seen == {0: list(range(5)), 2: list(range(8, 12))}


def test_an_error_in_the_middle_does_not_wait_for_the_workers(folder):
    code = f"""
from evalkit.data.decode import Preprocess
from evalkit.data.loader import batches
from evalkit.data.sources import image_folder
held = batches(image_folder({str(folder)!r}), Preprocess([8, 8], None), (8, 8), [(0, range(12))], 2, 2, pin=False)
next(held)
raise RuntimeError("halfway")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1 and ended.stderr.strip().endswith("RuntimeError: halfway")
