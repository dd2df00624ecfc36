"""The device's decoder, with the CPU as the device: torchvision's own JPEG decoder and resizing in place of nvJPEG's."""

import io

import numpy as np
import pytest
import torch
from builders import REAL, encoded, fresh, needs_real
from PIL import Image
from scipy.ndimage import gaussian_filter

from evalkit.config.compose import compose_jobs
from evalkit.data.decode import Preprocess, UnreadableImage, decode
from evalkit.data.digits import Digits
from evalkit.data.jpeg import DeviceDecoder, _is_plain, tried_decoder
from evalkit.data.loader import batches
from evalkit.data.sources import image_folder
from evalkit.errors import UserError
from evalkit.evaluation.session import open_session

CPU = torch.device("cpu")


def picture(mode: str = "RGB", height: int = 90, width: int = 120) -> Image.Image:
    smooth = gaussian_filter(fresh().random((height, width, 3)), (6, 6, 0))
    rgb = np.uint8((smooth - smooth.min()) / np.ptp(smooth) * 255)
    return Image.fromarray(rgb).convert(mode)


def by_pillow(content: bytes, preprocess: Preprocess) -> torch.Tensor | str:
    try:
        return preprocess(decode(content))
    except UnreadableImage as reason:
        return str(reason)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("resize", "crop"), [(64, 56), ((40, 50), None), (None, 80), (200, 224), (None, None)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_close_to_pillow(resize, crop, interpolation, mode):
    preprocess = Preprocess(resize, crop, interpolation)
    contents = [encoded(picture(mode), "JPEG", quality=90, progressive=progressive) for progressive in (False, True)]
    assert all(map(_is_plain, contents))
    for found, content in zip(DeviceDecoder(preprocess, CPU)(contents), contents, strict=True):
        expected = preprocess(decode(content))
        assert found.dtype == torch.uint8 and found.shape == expected.shape and found.is_contiguous()
        assert (found.int() - expected.int()).abs().max() <= 3


@needs_real
def test_real_photographs_are_close_to_pillow():
    preprocess = Preprocess(256, 224)
    contents = [file.read_bytes() for file in sorted((REAL / "imagenet_samples").rglob("*.[jJ][pP]*"))[:40]]
    assert len(contents) == 40
    for found, content in zip(DeviceDecoder(preprocess, CPU)(contents), contents, strict=True):
        assert (found.int() - preprocess(decode(content)).int()).abs().float().mean() < 0.5


def test_whatever_is_no_plain_jpeg_comes_out_as_from_pillow():
    whole = encoded(picture(), "JPEG")
    cmyk, png, rgb = encoded(picture("CMYK"), "JPEG"), encoded(picture()), encoded(picture(), "JPEG", keep_rgb=True)
    broken = bytearray(whole)
    broken[len(whole) // 2 : len(whole) // 2 + 200] = b"\xff\xc4" * 100  # tables in the middle of the data
    contents = [whole, cmyk, png, rgb, whole[: len(whole) // 2], b"", b"no image", b"\xff\xd8\xff\xd9", bytes(broken), whole]
    preprocess = Preprocess(64, 56)
    found = DeviceDecoder(preprocess, CPU)(contents)
    for content, image in list(zip(contents, found, strict=True))[1:-1]:
        expected = by_pillow(content, preprocess)
        if isinstance(expected, str):
            assert image == expected
        else:
            assert torch.equal(image, expected)
    assert torch.equal(found[0], found[-1])  # whatever lies between


def test_alone_and_in_a_batch():
    contents = [encoded(picture(height=60 + 7 * i), "JPEG") for i in range(5)]
    decoder = DeviceDecoder(Preprocess(48, 40), CPU)
    for content, image in zip(contents, decoder(contents), strict=True):
        assert torch.equal(decoder([content])[0], image)
    assert decoder([]) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_keeps_order_and_errors(tmp_path, workers):
    for i in range(7):
        (tmp_path / f"{i}.jpg").write_bytes(b"not an image" if i == 3 else encoded(picture(height=90 if i != 5 else 30), "JPEG"))
    (tmp_path / "labels.csv").write_text("file,wnid\n" + "".join(f"{i}.jpg,n{i:08d}\n" for i in range(8)))  # the last is missing
    source, preprocess = image_folder(str(tmp_path)), Preprocess(None, 56)
    source.paths[6] = "absent.jpg"
    plan = [(0, range(4)), (1, range(4, 7))]
    ways = [list(batches(source, read, (56, 56), plan, 3, workers, False)) for read in (preprocess, DeviceDecoder(preprocess, CPU))]
    for usual, device in zip(*ways, strict=True):
        assert (usual.shard, usual.last, usual.keys, usual.readable, usual.errors) == (
            device.shard, device.last, device.keys, device.readable, device.errors,
        )  # fmt: skip
        if usual.images is not None:
            assert (usual.images.int() - device.images.int()).abs().max() <= 3
    assert sum(len(batch.errors) for batch in ways[1]) >= 2


def test_refused_where_it_cannot_be(monkeypatch):
    with pytest.raises(UserError, match="decode=gpu needs a GPU, and this run computes on the CPU; use decode=pil"):
        open_session(compose_jobs(["decode=gpu", "device=cpu"])[0].config)
    monkeypatch.setattr("evalkit.evaluation.opening.pick_device", lambda name, rank: torch.device("cuda"))
    with pytest.raises(UserError, match="data=digits holds no encoded images"):
        open_session(compose_jobs(["decode=gpu"])[0].config)


def test_sources_without_files_load_as_before():
    buffer = io.BytesIO()
    Digits().load(0).save(buffer, "PNG")
    assert not hasattr(Digits(), "encoded")
    assert np.array_equal(np.asarray(decode(buffer.getvalue())), np.asarray(Digits().load(0)))


def test_a_decoder_is_tried_first(monkeypatch):
    preprocess = Preprocess(64, 56)
    assert tried_decoder(preprocess, CPU) == DeviceDecoder(preprocess, CPU)

    def missing(*_, **__):
        raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support")

    monkeypatch.setattr("torchvision.io.decode_jpeg", missing)
    with pytest.raises(UserError, match="this torchvision cannot decode JPEGs on cpu; use decode=pil"):
        tried_decoder(preprocess, CPU)


def test_out_of_memory_does_not_turn_to_pillow(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("torchvision.io.decode_jpeg", full)
    with pytest.raises(UserError, match="has no room to decode a batch; lower batch_size"):
        DeviceDecoder(Preprocess(64, 56), CPU)([encoded(picture(), "JPEG")])
