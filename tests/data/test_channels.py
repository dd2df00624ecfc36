"""Pictures with the channels that a network takes, and with all their bits."""

import numpy as np
import pytest
import torch
from builders import encoded, fresh
from PIL import Image

from evalkit.data.decode import Misfit, Preprocess, UnreadableImage, read_picture, stacked, with_channels

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB")


def drawn(mode: str) -> Image.Image:
    rgba = Image.fromarray(fresh().integers(0, 256, (24, 32, 4), dtype=np.uint8), "RGBA")
    return rgba if mode == "RGBA" else rgba.convert("RGB").convert(mode)


def grey16(height: int = 24, width: int = 32) -> np.ndarray:
    return fresh().integers(0, 65536, (height, width), dtype=np.uint16)


@pytest.mark.parametrize("mode", MODES)
def test_grey_is_the_weighted_sum_of_rgb(mode):
    image = drawn(mode)
    found = Preprocess(None, None, channels=1)(image)
    rgb = np.asarray(image.convert("RGB")).astype(np.float64)
    assert found.dtype == torch.uint8 and found.shape == (1, 24, 32)
    assert np.abs(found[0].numpy() - rgb @ (0.299, 0.587, 0.114)).max() <= 0.51


def test_grey_pictures_stay_what_they_are():
    array = fresh().integers(0, 256, (24, 32), dtype=np.uint8)
    for form in ("PNG", "TIFF"):
        assert np.array_equal(Preprocess(None, None, channels=1)(read_picture(encoded(Image.fromarray(array), form)))[0].numpy(), array)


@pytest.mark.parametrize("mode", MODES)
def test_rgb_is_that_of_pillow(mode):
    image = drawn(mode)
    assert np.array_equal(Preprocess(None, None)(image).permute(1, 2, 0).numpy(), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", MODES)
def test_rgba_keeps_opacity_or_is_opaque(mode):
    image = drawn(mode)
    found = Preprocess(None, None, channels=4)(image)
    assert found.shape == (4, 24, 32)
    assert np.array_equal(
        found[:3].permute(1, 2, 0).numpy(), np.asarray(image)[..., :3] if mode == "RGBA" else np.asarray(image.convert("RGB"))
    )
    assert np.array_equal(found[3].numpy(), np.asarray(image)[..., 3]) if mode == "RGBA" else bool((found[3] == 255).all())


def test_a_transparent_colour_of_a_palette():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    found = Preprocess(None, None, channels=4)(read_picture(encoded(image, transparency=1)))
    assert found[:, 0, 0].tolist() == [40, 50, 60, 0]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_lose_nothing(form):
    array = grey16()
    picture = read_picture(encoded(Image.fromarray(array), form))
    found = Preprocess(None, None, channels=1)(picture)
    assert found.dtype == torch.float32 and np.array_equal(np.rint(found[0].double().numpy() * 65535), array)
    assert np.abs(found[0].double().numpy() - array.astype(np.float64) / 65535).max() < 1e-7
    rgba = Preprocess(None, None, channels=4)(picture)
    assert torch.equal(rgba[:3], found.expand(3, -1, -1)) and bool((rgba[3] == 1).all())
    rgb = Preprocess(None, None)(picture)
    assert rgb.dtype == torch.uint8 and np.array_equal(rgb[0].numpy(), array >> 8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_sixteen_bits_are_resized_as_pillow_resizes_floats(interpolation):
    """A float picture is Pillow's own way without rounding to 8 bits; bicubic values outside [0,1] are clipped."""
    array = np.where(fresh().random((37, 53)) < 0.5, 0, 65535).astype(np.uint16)
    found = Preprocess([19, 61], None, interpolation, 1)(read_picture(encoded(Image.fromarray(array))))
    floats = Image.fromarray((array / 65535).astype(np.float32))
    kind = Image.Resampling.BILINEAR if interpolation == "bilinear" else Image.Resampling.BICUBIC
    expected = np.asarray(floats.resize((61, 19), kind)).clip(0, 1)
    assert found.shape == (1, 19, 61) and np.abs(found[0].numpy() - expected).max() < 1e-5
    assert float(found.min()) >= 0 and float(found.max()) <= 1


def test_crop_of_sixteen_bits():
    array = grey16(40, 30)
    found = Preprocess(None, 20, channels=1)(Image.fromarray(array))
    assert np.array_equal(np.rint(found[0].numpy() * 65535), array[10:30, 5:25])


def test_the_first_page_of_a_tiff():
    pages = [Image.fromarray(grey16()) for _ in range(3)]
    found = read_picture(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    assert np.array_equal(np.asarray(found), np.asarray(pages[0]))


def test_floats_in_the_unit_range_are_grey():
    array = fresh().random((24, 32), dtype=np.float32)
    assert np.array_equal(Preprocess(None, None, channels=1)(read_picture(encoded(Image.fromarray(array), "TIFF")))[0].numpy(), array)
    for wrong in (array + 1, array - 1, np.full_like(array, np.nan)):
        with pytest.raises(Misfit, match=r"floats outside \[0,1\] have no known white level; divide them"):
            with_channels(Image.fromarray(wrong), 1)
    for channels in (3, 4):
        with pytest.raises(Misfit, match="no known white level"):
            with_channels(Image.fromarray(array), channels)
    with pytest.raises(Misfit, match="no known white level"):
        with_channels(Image.fromarray(np.arange(24, dtype=np.int32).reshape(4, 6)), 1)


@pytest.mark.parametrize("channels", [2, 5])
def test_a_picture_has_no_other_channels(channels):
    with pytest.raises(Misfit, match=rf"a picture has 1, 3 or 4 channels, and model\.channels={channels}: save arrays"):
        with_channels(drawn("RGB"), channels)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_what_pillow_cannot_convert_is_unreadable(channels):
    with pytest.raises(UnreadableImage, match="not supported"):
        with_channels(Image.new("La", (4, 4)), channels)


def test_a_batch_loses_nothing():
    eight, sixteen = (
        torch.from_numpy(fresh().integers(0, 256, (1, 4, 4), dtype=np.uint8)),
        torch.from_numpy(grey16(4, 4) / 65535)[None].float(),
    )
    assert stacked([eight, eight]).dtype == torch.uint8
    both = stacked([eight, sixteen])
    assert both.dtype == torch.float32 and torch.equal(both[1], sixteen) and torch.equal(both[0], eight.float() / 255)
