"""Batches never cross a shard's end, keep their order, and set broken images apart."""

import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

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


SCRIPT = """
import time
from evalkit.data.decode import Preprocess
from evalkit.data.loader import batches
from evalkit.data.sources import image_folder
held = batches(image_folder({folder!r}), Preprocess(None, None), (600, 600), [(0, range(64))], 8, 2, pin=False)
next(held)
print("going", flush=True)
"""


@pytest.fixture
def large(tmp_path):
    """Images that fill the decoders' pipes where nobody empties them."""
    for i in range(64):
        Image.new("RGB", (600, 600)).save(tmp_path / f"{i}.png")
    return str(tmp_path)


def test_an_error_in_the_middle_does_not_wait_for_the_decoders(large):
    code = SCRIPT.format(folder=large) + "time.sleep(2); raise RuntimeError('halfway')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1 and ended.stderr.strip().endswith("RuntimeError: halfway")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_decoders_end_with_their_parent_also_while_they_wait_for_it(large, how):
    code = SCRIPT.format(folder=large) + "time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None and process.stdout.readline() == "going\n"
    time.sleep(2)
    os.kill(process.pid, how)
    process.wait(timeout=60)
    ended = time.monotonic() + 60
    while time.monotonic() < ended:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.2)
    else:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail("decoders are left")
