"""Every kind of picture that a folder may hold."""

import numpy as np
import pytest
import torch
from builders import encoded, fresh
from PIL import Image
from torchvision.models import VGG16_Weights

from evalkit.data.decode import Preprocess, UnreadableImage, decode


@pytest.mark.parametrize(
    ("mode", "channels", "form"), [("L", 1, "JPEG"), ("RGB", 3, "JPEG"), ("RGBA", 4, "PNG"), ("CMYK", 4, "JPEG"), ("LA", 2, "PNG")]
)
def test_modes(mode, channels, form):
    array = np.random.default_rng(0).integers(0, 256, (24, 32, channels), dtype=np.uint8)
    image = Image.frombytes(mode, (32, 24), array.tobytes())
    found = decode(encoded(image, form))
    assert found.mode == "RGB" and found.size == (32, 24)


def test_palette_and_bilevel():
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    for image in (rgb.convert("P"), rgb.convert("1")):
        assert np.array_equal(np.asarray(decode(encoded(image))), np.asarray(image.convert("RGB")))


def test_sixteen_bit_grey_is_scaled_not_clipped():
    grey = Image.fromarray(np.linspace(0, 65535, 24 * 32).reshape(24, 32).astype(np.uint16))
    found = np.asarray(decode(encoded(grey)))
    assert found[..., 0].max() == 255 and 120 < found.mean() < 135


def test_values_without_a_known_white_are_refused():
    for array in (fresh().random((24, 32), dtype=np.float32), np.arange(24 * 32, dtype=np.int32).reshape(24, 32)):
        with pytest.raises(UnreadableImage, match="no known white"):
            decode(encoded(Image.fromarray(array), "TIFF"))


def test_exif_rotation_is_not_applied():
    image = Image.new("RGB", (32, 24))
    tag = Image.Exif()
    tag[0x0112] = 6
    assert decode(encoded(image, "JPEG", exif=tag.tobytes())).size == (32, 24)


def test_unreadable(tmp_path):
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")
    with pytest.raises(UnreadableImage, match="truncated"):
        decode(whole[: len(whole) // 2])
    with pytest.raises(UnreadableImage, match="the file is empty"):
        decode(b"")
    with pytest.raises(UnreadableImage, match="not an image"):
        decode(b"hello")
    with pytest.raises(UnreadableImage, match="No such file"):
        decode(tmp_path / "absent.png")
    with pytest.raises(UnreadableImage):
        decode(np.random.default_rng(1).bytes(200))


@pytest.mark.parametrize("size", [(500, 375), (256, 256), (97, 301), (1, 1)])
def test_preprocessing_equals_torchvisions(size):
    """Against the transform that torchvision ships with its weights, before its normalisation."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    theirs = VGG16_Weights.IMAGENET1K_V1.transforms()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (theirs.mean, theirs.std))
    ours = Preprocess(256, 224)(image)
    assert ours.dtype == torch.uint8
    assert torch.allclose((ours.float() / 255 - mean) / std, theirs(image), atol=1e-6)


def test_whole_image_resize_without_crop():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    for name, kind in (("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)):
        found = Preprocess([25, 20], None, name)(image)
        assert np.array_equal(found.permute(1, 2, 0).numpy(), np.asarray(image.resize((20, 25), kind)))
    assert Preprocess(None, None)(image).shape == (3, 40, 60)
