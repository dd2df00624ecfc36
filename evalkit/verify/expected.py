"""What the tables of a run must hold whatever its scores are: known from its settings and data, without the network's outputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from evalkit.point import Point


class ImageFacts(NamedTuple):
    """What a data source says of an image."""

    image_id: str
    labels: tuple[int, ...] | None
    """The outputs that stand for the image's labels; None where a streamed source does not know them beforehand."""


@dataclass(frozen=True)
class Expected:
    """The facts that each shard is compared with."""

    positions: Sequence[int]
    """Positions in the data set of the run's images, in its order."""
    shard_size: int
    methods: Sequence[str]
    """The names in the rows, control versions included."""
    points: Sequence[Point]
    pixels: int
    """Height times width of the network's images."""
    target: str | Sequence[int]
    """"predicted", "label", or the classes that are explained for every image."""
    only_correct: bool
    """Whether images that the network gets wrong are left out."""
    output: str
    """model.output: softmax, sigmoid, binary or raw."""
    image: Callable[[int], ImageFacts]
    """The facts of the image at a position."""

    def of_shard(self, shard: int) -> Sequence[int]:
        """Return the positions of a shard."""
        return self.positions[shard * self.shard_size : (shard + 1) * self.shard_size]

    def kept_fraction(self, point: Point) -> float | None:
        """Return the share of the pixels that a point keeps; None under "soft", which keeps a part of each."""
        if point.top_percent is None:
            return None
        kept = round(point.top_percent / 100 * self.pixels)
        return (self.pixels - kept if point.select == "remove_top" else kept) / self.pixels
