"""Many small pictures in one: the filters of a convolution, the channels of a layer."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes

WHITE = 255


def mosaic(tiles: np.ndarray, columns: int, gap: int, below: int = 0) -> np.ndarray:
    """Lay pictures (n,h,w,3), uint8, row by row on white; returns (H,W,3).

    `gap` pixels lie between neighbours, `below` more pixels under each row, for labels. Picture i begins at
    y = (i // columns) * (h + gap + below) and x = (i % columns) * (w + gap).
    """
    n, h, w, _ = tiles.shape
    rows = -(-n // columns)
    across = min(n, columns)
    laid = np.full((rows * (h + gap + below) - gap, across * (w + gap) - gap, 3), WHITE, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = (i // columns) * (h + gap + below), (i % columns) * (w + gap)
        laid[y : y + h, x : x + w] = tile
    return laid


def heat_tiles(maps: np.ndarray, colours: str) -> np.ndarray:
    """Colour maps (n,h,w), each scaled from its least value to its greatest; returns (n,h,w,3), uint8.

    A constant map gets the lowest colour.
    """
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    scaled = (maps - low) / np.where(high > low, high - low, 1)
    coloured: np.ndarray = colormaps[colours](scaled, bytes=True)
    return coloured[..., :3]


def show(ax: Axes, picture: np.ndarray) -> None:
    """Show a mosaic, pixel by pixel, without a frame."""
    ax.imshow(picture, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
