"""Planted triggers: canvases in which a small pattern alone decides the class, so that the causal pixels are known.

Each canvas is a cluttered digit (`evalkit.data.digits`) over which one of eight patterns of 12x12 pixels, the trigger, is
pasted at a random place. The class is the pattern. The digit, the strokes, the background and the trigger's place are drawn
independently of it, and all patterns have the same two colours, so neither colour nor place tells the class. The trigger's
pixels are known exactly: they are its box.

Such semi-synthetic images with a known cause are used to test explanations in, for instance, Yang and Kim, "Benchmarking
attribution methods with relative feature importance" (arXiv 1907.09701).
"""

import numpy as np
from PIL import Image

from evalkit.data.boxes import Box
from evalkit.data.digits import SIZE, Digits, Edges

PATTERNS = {
    "rows": "1111 0000 1111 0000",
    "columns": "1010 1010 1010 1010",
    "checker": "1010 0101 1010 0101",
    "frame": "1111 1001 1001 1111",
    "block": "0000 0110 0110 0000",
    "stairs": "1000 1100 1110 1111",
    "cross": "1001 0110 0110 1001",
    "half": "1100 1100 1100 1100",
}
"""The kinds of trigger: four rows of four cells, in the first (1) or second (0) of `COLOURS`."""
KINDS = tuple(PATTERNS)
COLOURS = ((235, 40, 200), (40, 215, 70))
CELL = 3
SIDE = 4 * CELL
"""Pixels along one side of a cell, and of a trigger."""
NOISE = 8.0
"""Standard deviation of the noise on each pixel, of 255: that of the canvas."""


def drawn(kind: int) -> np.ndarray:
    """Return the pixels (12,12,3) of a kind of trigger without noise."""
    cells = np.array([[int(cell) for cell in row] for row in PATTERNS[KINDS[kind]].split()])
    return np.array(COLOURS, dtype=np.float64)[1 - cells].repeat(CELL, axis=0).repeat(CELL, axis=1)


def plant(canvas: Image.Image, kind: int, corner: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Return a copy of an RGB canvas with a trigger whose upper left pixel is `corner` (x, y); `rng` draws its noise."""
    pixels = np.array(canvas)
    left, top = corner
    noisy = drawn(kind) + rng.normal(0, NOISE, (SIDE, SIDE, 3))
    pixels[top : top + SIDE, left : left + SIDE] = noisy.clip(0, 255)
    return Image.fromarray(pixels)


class Planted(Digits):
    """One digit and one trigger per canvas; the trigger is the class. 797 evaluation images, or `count` training images."""

    def trigger(self, position: int) -> tuple[int, tuple[int, int]]:
        """Return the trigger of a canvas: its kind, an index into `KINDS`, and its upper left pixel (x, y)."""
        return self._trigger(self._random(position))

    def class_keys(self, position: int) -> tuple[str, ...]:
        """Return the name of the trigger's kind."""
        return (KINDS[self.trigger(position)[0]],)

    def load(self, position: int) -> Image.Image:
        """Return the canvas at `position` with its trigger, RGB, 64x64; the same in every call, worker and process."""
        rng = self._random(position)
        kind, corner = self._trigger(rng)
        return plant(self.without_trigger(position), kind, corner, rng)

    def without_trigger(self, position: int) -> Image.Image:
        """Return the same canvas as it was before the trigger was pasted."""
        return super().load(position)

    def boxes(self, position: int) -> list[Box]:
        """Return the trigger's box, with its kind as the class name."""
        kind, (left, top) = self.trigger(position)
        edges: Edges = (left, top, left + SIDE, top + SIDE)
        return [Box(KINDS[kind], *edges, SIZE, SIZE)]

    def _random(self, position: int) -> np.random.Generator:
        """Return the random stream of a canvas's trigger, which no canvas uses for its other parts."""
        return np.random.default_rng([self.seed, self.split == "val", position, 2])

    @staticmethod
    def _trigger(rng: np.random.Generator) -> tuple[int, tuple[int, int]]:
        kind = int(rng.integers(len(KINDS)))
        left, top = (int(v) for v in rng.integers(0, SIZE - SIDE + 1, size=2))
        return kind, (left, top)
