"""Cluttered digits: the embedded data sets, composed on the fly from real handwriting.

scikit-learn carries 1,797 handwritten digits of 8x8 pixels (UCI, "Optical Recognition of Handwritten Digits",
E. Alpaydin and C. Kaynak, 1998). Each is enlarged, coloured and placed somewhere on a 64x64 canvas among
distractor strokes, as in "cluttered MNIST" (Mnih et al., NeurIPS 2014). Training and evaluation use disjoint
originals, and evaluation uses each of its originals once, so its images are independent. A canvas holds one digit, or
two different ones where an image needs several labels.
"""

import hashlib
from abc import ABC, abstractmethod
from functools import cached_property
from itertools import combinations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from sklearn.datasets import load_digits

from evalkit.data.boxes import Box
from evalkit.errors import UserError, whole

SIZE = 64
EVALUATION_ORIGINALS = 797
CLASSES = tuple(str(digit) for digit in range(10))


def originals(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the handwritten digits of one split: ink (M,8,8) in 0..16 and labels (M,); `split` is "train" or "val"."""
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    chosen = order[:EVALUATION_ORIGINALS] if split == "val" else order[EVALUATION_ORIGINALS:]
    return bunch.images[chosen], bunch.target[chosen]


Edges = tuple[int, int, int, int]
"""The edges of a square or box in pixels: x1, y1, x2, y2."""


def compose(inks: np.ndarray, rng: np.random.Generator) -> tuple[Image.Image, list[Edges]]:
    """Compose one canvas with digits whose squares do not overlap.

    `inks` is (M,8,8) in 0..16; M is one or two, since a canvas has no room for more. Returns an RGB image of 64x64 and
    the digits' boxes in its pixels.
    """
    canvas = _background(rng)
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(7, 12))):
        _stroke(draw, rng)
    boxes = []
    for ink, (left, top, right, bottom) in zip(inks, _squares(len(inks), rng), strict=True):
        digit = Image.fromarray((ink * (255 / 16)).astype(np.uint8)).resize((right - left, bottom - top), Image.Resampling.BICUBIC)
        canvas.paste(_bright(rng), (left, top, right, bottom), digit)
        x1, y1, x2, y2 = digit.point(lambda v: 255 if v > 64 else 0).getbbox() or (0, 0, right - left, bottom - top)
        boxes.append((left + x1, top + y1, left + x2, top + y2))
    noisy = np.asarray(canvas, dtype=np.float64) + rng.normal(0, 8, (SIZE, SIZE, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), boxes


def _squares(count: int, rng: np.random.Generator) -> list[Edges]:
    """Draw the squares of the digits; all are drawn again until no two overlap."""
    while True:
        squares = []
        for _ in range(count):
            side = int(rng.integers(22, 33))
            left, top = (int(v) for v in rng.integers(0, SIZE - side + 1, size=2))
            squares.append((left, top, left + side, top + side))
        if not any(_overlap(*pair) for pair in combinations(squares, 2)):
            return squares


def _overlap(one: Edges, other: Edges) -> bool:
    return max(one[0], other[0]) < min(one[2], other[2]) and max(one[1], other[1]) < min(one[3], other[3])


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


class Canvases(ABC):
    """A source of `count` canvases of 64x64, composed from the originals of one split."""

    def __init__(self, split: str = "val", seed: int = 0, count: int | None = None) -> None:
        if split not in ("train", "val"):
            raise UserError(f"data.split={split}: the digits have the splits 'train' and 'val'")
        self.split, self.seed = split, whole(seed, "data.seed", least=0)
        self.ink, self.targets = originals(split)
        self.members = self._choose(count)
        """Indices of the originals that each canvas shows, (count,M)."""
        self.count = len(self.members)

    @abstractmethod
    def _choose(self, count: int | None) -> np.ndarray:
        """Return the members of `count` canvases; None means as many canvases as show each original once."""

    def __len__(self) -> int:
        return self.count

    def image_id(self, position: int) -> str:
        """Return the image's name: split, seed and position."""
        return f"{self.split}/{self.seed}/{position:05d}"

    def class_keys(self, position: int) -> tuple[str, ...]:
        """Return the digits' names, "0" to "9"."""
        return tuple(CLASSES[digit] for digit in self.targets[self.members[position]])

    def load(self, position: int) -> Image.Image:
        """Return the canvas at `position`, RGB, 64x64; the same in every call, worker and process."""
        return self._compose(position)[0]

    def boxes(self, position: int) -> list[Box]:
        """Return the digits' boxes with their class names."""
        edges = self._compose(position)[1]
        return [Box(key, *box, SIZE, SIZE) for key, box in zip(self.class_keys(position), edges, strict=True)]

    def _compose(self, position: int) -> tuple[Image.Image, list[Edges]]:
        rng = np.random.default_rng([self.seed, self.split == "val", position])
        return compose(self.ink[self.members[position]], rng)

    @cached_property
    def fingerprint(self) -> str:
        """Hash over the first canvases and the inputs of all others; it changes when a library draws differently."""
        digest = hashlib.sha256(f"{self.split} {self.seed} {self.count}".encode())
        digest.update(self.ink.tobytes())
        for position in range(min(8, self.count)):
            digest.update(self.load(position).tobytes())
        return digest.hexdigest()


class Digits(Canvases):
    """One digit per canvas: the evaluation split (797 images) or the training split (`count` images, originals reused)."""

    def _choose(self, count: int | None) -> np.ndarray:
        return np.arange(len(self.ink) if count is None else count)[:, None] % len(self.ink)

    def box(self, position: int) -> Edges:
        """Return the digit's box (x1, y1, x2, y2) in pixels."""
        return self._compose(position)[1][0]


class TwoDigits(Canvases):
    """Two different digits per canvas, hence two labels: 398 evaluation images, or `count` training images, originals reused."""

    def _choose(self, count: int | None) -> np.ndarray:
        """Draw rounds of random pairs. Each round uses each original in one pair, except one original where their number is odd."""
        half = len(self.ink) // 2
        count = half if count is None else count
        rng = np.random.default_rng([self.seed, self.split == "val", 0, 1])  # a random stream that no canvas uses
        return np.concatenate([self._pairs(half, rng) for _ in range(max(1, -(-count // half)))])[:count]

    def _pairs(self, half: int, rng: np.random.Generator) -> np.ndarray:
        """Draw pairs of originals of different classes, (half,2): while a pair has one class, it swaps its partner with a random pair."""
        pairs = rng.permutation(len(self.ink))[: 2 * half].reshape(half, 2)
        while (clashes := np.flatnonzero(self.targets[pairs[:, 0]] == self.targets[pairs[:, 1]])).size:
            for i, j in zip(clashes, rng.integers(half, size=clashes.size), strict=True):
                pairs[[i, j], 1] = pairs[[j, i], 1]
        return pairs
