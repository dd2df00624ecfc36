"""Out of memory: smaller parts, the same numbers."""

from itertools import chain

import pandas as pd
import pytest
import torch
from builders import finished_rows, tiny_overrides

from evalkit.errors import UserError
from evalkit.evaluation.batch_split import BatchSplitter
from evalkit.probe import Probe


@pytest.mark.parametrize("fits", [1, 2, 3, 7, 8])
def test_parts_that_fit(fits):
    tried = []

    def work(here: slice) -> list[int]:
        tried.append(here.stop - here.start)
        if tried[-1] > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return list(range(8))[here]

    fit = BatchSplitter()
    assert list(chain(*fit.parts(8, work))) == list(range(8))
    before = len(tried)
    assert list(chain(*fit.parts(8, work))) == list(range(8))
    assert max(tried[before:]) <= fits  # what failed once is not tried again


def test_one_image_fits_in_smaller_chunks(caplog, tiny_fc):
    images = torch.rand(3, 3, 16, 16)
    expected = Probe(tiny_fc, images).drops
    splitter = BatchSplitter(byte_budget=2**28)

    def work(part: slice) -> torch.Tensor:
        if splitter.byte_budget > 2**26:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return Probe(tiny_fc, images[part], byte_budget=splitter.byte_budget).drops

    assert torch.allclose(torch.cat(list(splitter.parts(3, work))), expected, atol=1e-6)
    assert splitter.byte_budget == 2**26 and "with one image: its ablated variants now take 64 MiB" in caplog.text


def test_nothing_fits():
    def work(_part: slice) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    with pytest.raises(UserError, match=r"a single image does not fit the device's memory \(CUDA out of memory\)"):
        list(BatchSplitter(byte_budget=2**28).parts(5, work))


def test_a_run_goes_on_with_smaller_parts(folder, tmp_path, caplog):
    base = [*tiny_overrides(folder, tmp_path / "small"), "+method.mine._target_=theirs.greedy_cam"]
    small = finished_rows([*base, "batch_size=2", "shard_size=12"])
    assert "out of memory" not in caplog.text
    large = finished_rows([*base, "batch_size=8", "shard_size=12", f"out={tmp_path / 'large'}"])
    assert "out of memory with 8 images at once: continuing with 4" in caplog.text and "with 4 images at once" in caplog.text
    pd.testing.assert_frame_equal(large, small)
