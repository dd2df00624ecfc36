"""Arrays of numpy as images."""

import io
import pickle

import numpy as np
import pytest
import torch
from builders import fresh

from evalkit.data.arrays import array_folder, read_array
from evalkit.data.decode import Misfit, Preprocess, UnreadableImage
from evalkit.data.sources import ListedClass, image_folder
from evalkit.errors import UserError


def content(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def both(tmp_path, array: np.ndarray, *settings, **options) -> torch.Tensor:
    """The same array from a file and from bytes, as of a remote store."""
    (tmp_path / "a.npy").write_bytes(content(array))
    from_file, from_bytes = (read_array(source, *settings, **options) for source in (tmp_path / "a.npy", content(array)))
    assert torch.equal(from_file, from_bytes) and from_file.is_contiguous()
    return from_file


def test_values_of_every_type(tmp_path):
    values = fresh().integers(0, 256, (5, 7, 9), dtype=np.uint8)
    assert both(tmp_path, values).dtype == torch.uint8 and np.array_equal(both(tmp_path, values).numpy(), values)
    deep = fresh().integers(0, 65536, (5, 7, 9), dtype=np.uint16)
    assert np.array_equal(np.rint(both(tmp_path, deep).double().numpy() * 65535), deep)
    assert np.array_equal(np.rint(both(tmp_path, deep.astype(">u2")).double().numpy() * 65535), deep)
    for kind in (np.float16, np.float32, np.float64, ">f4"):
        floats = fresh().random((5, 7, 9)).astype(kind)
        assert np.array_equal(both(tmp_path, floats).numpy(), floats.astype(np.float32))
    assert torch.equal(both(tmp_path, np.asfortranarray(values)), both(tmp_path, values))


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_a_range_becomes_the_unit_range_and_is_clipped(tmp_path, kind):
    low, high = (10, 200) if kind == np.uint8 else (10, 3000)
    values = (fresh().random((2, 30, 40)) * (high + 50)).astype(kind)
    found = both(tmp_path, values, (low, high))
    expected = np.array([min(max((float(v) - low) / (high - low), 0), 1) for v in values.flat]).reshape(values.shape)
    assert found.dtype == torch.float32 and np.abs(found.double().numpy() - expected).max() < 1e-7


def test_height_and_width_alone_are_one_channel_and_channels_may_be_last(tmp_path):
    values = fresh().integers(0, 256, (7, 9), dtype=np.uint8)
    assert np.array_equal(both(tmp_path, values).numpy(), values[None])
    bands = fresh().integers(0, 256, (7, 9, 5), dtype=np.uint8)
    found = both(tmp_path, bands, channels_last=True)
    assert found.shape == (5, 7, 9) and all(np.array_equal(found[i].numpy(), bands[..., i]) for i in range(5))
    assert both(tmp_path, values, channels_last=True).shape == (1, 7, 9)
    with pytest.raises(Misfit, match=r"its array \(7, 9, 5\) has 7 channels, and model.channels=5; .*set data.channels_last=true"):
        Preprocess(None, None, channels=5)(both(tmp_path, bands))
    with pytest.raises(Misfit, match=r"its array \(1, 7, 9\) has 1 channel, and model.channels=3$"):
        Preprocess(None, None)(both(tmp_path, values))


def test_resizing_a_constant_keeps_it_and_uint8_stays(tmp_path):
    eight = both(tmp_path, np.full((5, 20, 30), 77, np.uint8))
    found = Preprocess([13, 8], None, channels=5)(eight)
    assert found.dtype == torch.uint8 and found.shape == (5, 13, 8) and bool((found == 77).all())
    floats = Preprocess([13, 8], None, channels=5)(both(tmp_path, np.full((5, 20, 30), 0.25)))
    assert torch.allclose(floats, torch.tensor(0.25))


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros(5), r"has the shape \(5,\): \(channels, height, width\) or \(height, width\) is needed"),
        (np.zeros((1, 2, 3, 4)), "has the shape"),
        (np.zeros((3, 0, 4)), "has the shape"),
        (np.zeros((3, 4, 4), dtype=bool), "holds bool: whole numbers or floats"),
        (np.zeros((3, 4, 4), dtype=complex), "holds complex128"),
        (np.full((3, 4, 4), np.nan), "values that are not finite"),
        (np.full((3, 4, 4), 2.5), r"holds float64 from 2.5 to 2.5, of which no white level is known: set data.value_range=\[low,high\]"),
        (np.full((3, 4, 4), -7, dtype=np.int16), "holds int16 from -7 to -7"),
    ],
)
def test_arrays_that_are_no_images(tmp_path, array, says):
    with pytest.raises(UnreadableImage, match=says):
        read_array(content(array))
    (tmp_path / "a.npy").write_bytes(content(array))
    with pytest.raises(UnreadableImage, match=says):
        read_array(tmp_path / "a.npy")


class Harmful:
    def __reduce__(self):
        return (pytest.fail, ("the file's code ran",))


def test_files_that_are_no_arrays(tmp_path):
    archive = io.BytesIO()
    np.savez(archive, a=np.zeros((2, 2)))
    whole = content(fresh().random((3, 40, 40)))
    objects = content(np.array([[Harmful()]], dtype=object), allow_pickle=True)
    for number, wrong in enumerate((b"", b"hello", whole[:20], whole[:-7], archive.getvalue(), pickle.dumps(Harmful()), objects)):
        file = tmp_path / f"{number}.npy"
        file.write_bytes(wrong)
        for source in (file, wrong):
            with pytest.raises(UnreadableImage, match="not an array of numpy"):
                read_array(source)
    with pytest.raises(UnreadableImage, match="No such file"):
        read_array(tmp_path / "absent.npy")


@pytest.fixture
def scenes(tmp_path):
    for name in "ab":
        (tmp_path / "scenes" / name).mkdir(parents=True)
        for i in range(2):
            np.save(tmp_path / "scenes" / name / f"{i}.npy", fresh().integers(0, 100, (5, 6, 8)).astype(np.int16))
    return tmp_path / "scenes"


def test_class_folders_and_lists(scenes, tmp_path):
    (scenes / "a" / "preview.png").write_bytes(b"")
    source = array_folder(str(scenes), value_range=[0, 100])
    assert [source.image_id(i) for i in range(len(source))] == ["a/0.npy", "a/1.npy", "b/0.npy", "b/1.npy"]
    assert source.class_keys(2) == ("b",)
    assert np.allclose(source.load(3).numpy() * 100, np.load(scenes / "b" / "1.npy"), atol=1e-5)
    (tmp_path / "l.csv").write_text("file,class\nb/1.npy,x\n")
    assert array_folder(str(scenes), str(tmp_path / "l.csv")).class_keys(0) == (ListedClass("x", None),)


def test_how_values_are_read_belongs_to_the_fingerprint(scenes):
    prints = {array_folder(str(scenes), **options).fingerprint for options in ({}, {"value_range": [0, 9]}, {"channels_last": True})}
    assert len(prints) == 3
    before = array_folder(str(scenes)).fingerprint
    np.save(scenes / "a" / "0.npy", np.zeros((9, 9)))
    assert array_folder(str(scenes)).fingerprint != before


@pytest.mark.parametrize("given", [5, "0,1", [1], [1, 0], [0, 0], [0, float("inf")], ["a", "b"], [True, 2]])
def test_ranges_that_are_none(scenes, given):
    with pytest.raises(UserError, match=r"data\.value_range=.* must be two numbers, the lower one first"):
        array_folder(str(scenes), value_range=given)


def test_the_other_source_is_named(scenes, folder):
    with pytest.raises(UserError, match=r"no images in .*it holds a/0\.npy: set data=arrays"):
        image_folder(str(scenes))
    with pytest.raises(UserError, match=r"no images in .*expected files ending in \.npy"):
        array_folder(str(folder))
