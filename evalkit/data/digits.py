"""Cluttered digits: the embedded data set, composed on the fly from real handwriting.

scikit-learn carries 1,797 handwritten digits of 8x8 pixels (UCI, "Optical Recognition of Handwritten Digits",
E. Alpaydin and C. Kaynak, 1998). Each is enlarged, coloured and placed somewhere on a 64x64 canvas among
distractor strokes, in the manner of "cluttered MNIST" (Mnih et al., NeurIPS 2014). Training and evaluation draw
from disjoint originals, and evaluation uses each of its originals once, so its images are independent.
"""

import hashlib
from functools import cached_property

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from sklearn.datasets import load_digits

from evalkit.data.boxes import Box
from evalkit.errors import UserError

SIZE = 64
EVALUATION_ORIGINALS = 797
CLASSES = tuple(str(digit) for digit in range(10))


def originals(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The handwritten digits of one split: ink (M,8,8) in 0..16 and labels (M,); `split` is "train" or "val"."""
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    chosen = order[:EVALUATION_ORIGINALS] if split == "val" else order[EVALUATION_ORIGINALS:]
    return bunch.images[chosen], bunch.target[chosen]


def compose(ink: np.ndarray, rng: np.random.Generator) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """One canvas around one digit.

    `ink` is (8,8) in 0..16. Returns an RGB image of 64x64 and the digit's box (x1, y1, x2, y2) in its pixels.
    """
    canvas = _background(rng)
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(7, 12))):
        _stroke(draw, rng)
    side = int(rng.integers(22, 33))
    digit = Image.fromarray((ink * (255 / 16)).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    left, top = (int(v) for v in rng.integers(0, SIZE - side + 1, size=2))
    canvas.paste(_bright(rng), (left, top, left + side, top + side), digit)
    noisy = np.asarray(canvas, dtype=np.float64) + rng.normal(0, 8, (SIZE, SIZE, 3))
    x1, y1, x2, y2 = digit.point(lambda v: 255 if v > 64 else 0).getbbox() or (0, 0, side, side)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), (left + x1, top + y1, left + x2, top + y2)


def _background(rng: np.random.Generator) -> Image.Image:
    coarse = rng.integers(0, 110, size=(4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BILINEAR).filter(ImageFilter.BoxBlur(2))


def _stroke(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    x, y = rng.integers(0, SIZE, size=2)
    length, angle = rng.uniform(6, 16), rng.uniform(0, 2 * np.pi)
    bend = rng.normal(0, 0.8)
    points = [(float(x), float(y))]
    for step in range(3):
        points.append(
            (
                points[-1][0] + length / 3 * np.cos(angle + bend * step),
                points[-1][1] + length / 3 * np.sin(angle + bend * step),
            )
        )
    draw.line(points, fill=_bright(rng), width=int(rng.integers(2, 4)), joint="curve")


def _bright(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in rng.integers(120, 256, size=3))
    return red, green, blue


class Digits:
    """The evaluation split (797 images) or the training split (`count` images, originals reused) as a source."""

    def __init__(self, split: str = "val", seed: int = 0, count: int | None = None) -> None:
        if split not in ("train", "val"):
            raise UserError(f"data.split={split}: the digits have the splits 'train' and 'val'")
        self.split, self.seed = split, seed
        self.ink, self.targets = originals(split)
        self.count = len(self.ink) if count is None else count

    def __len__(self) -> int:
        return self.count

    def image_id(self, position: int) -> str:
        """A name that says where the image comes from."""
        return f"{self.split}/{self.seed}/{position:05d}"

    def class_keys(self, position: int) -> tuple[str]:
        """The digit's name, "0" to "9"."""
        return (CLASSES[self.targets[position % len(self.ink)]],)

    def load(self, position: int) -> Image.Image:
        """The canvas at `position`, RGB, 64x64; the same for every call, worker and process."""
        return self._compose(position)[0]

    def box(self, position: int) -> tuple[int, int, int, int]:
        """The digit's box (x1, y1, x2, y2) in pixels."""
        return self._compose(position)[1]

    def boxes(self, position: int) -> list[Box]:
        """The digit's box, named: an image has one."""
        x1, y1, x2, y2 = self.box(position)
        return [Box(self.class_keys(position)[0], x1, y1, x2, y2, SIZE, SIZE)]

    def _compose(self, position: int) -> tuple[Image.Image, tuple[int, int, int, int]]:
        rng = np.random.default_rng([self.seed, self.split == "val", position])
        return compose(self.ink[position % len(self.ink)], rng)

    @cached_property
    def fingerprint(self) -> str:
        """Hash over the first canvases and what generates the rest: it changes when a library draws differently."""
        digest = hashlib.sha256(f"{self.split} {self.seed} {self.count}".encode())
        digest.update(self.ink.tobytes())
        for position in range(min(8, self.count)):
            digest.update(self.load(position).tobytes())
        return digest.hexdigest()
