"""Linear imputation of missing pixels, the fill of ROAD: a sparse linear system for each mask, solved directly in float64.

Rong, Leemann, Borisov, Kasneci and Kasneci, "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML 2022,
section 4: every missing pixel is the weighted mean of its neighbours, missing or not. The noise is added by `evalkit.protocol`.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import splu

from evalkit.errors import UserError

Pixels = NDArray[np.float64]
Mask = NDArray[np.bool_]

NOISE = 0.01
"""Standard deviation of ROAD's noise after normalisation, as in the authors' code, whose images are normalised."""

DIRECT, DIAGONAL = 1 / 6, 1 / 12
"""The weights of the neighbours that share a side and of those that share a corner; the eight sum to 1."""

_NEIGHBOURS = {(dy, dx): DIAGONAL if dy and dx else DIRECT for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx}


def neighbour_sum(values: Pixels) -> Pixels:
    """Return the weighted sum of each pixel's neighbours, those outside the image counting 0: (...,H,W) to (...,H,W)."""
    width = values.shape[-1]
    padded = np.pad(values, [*[(0, 0)] * (values.ndim - 2), (1, 1), (1, 1)])
    rows = padded[..., :-2, :] + padded[..., 2:, :]
    return DIRECT * (rows[..., 1:-1] + padded[..., 1:-1, :width] + padded[..., 1:-1, 2:]) + DIAGONAL * (rows[..., :width] + rows[..., 2:])


class Imputation:
    """The system of one mask (H,W): True where pixels are kept. It is factorised once, and serves any number of images.

    The missing pixels x solve, for each missing pixel i with its neighbours N(i) inside the image,

        sum over j in N(i) of w_ij (x_i - x_j) = 0,    w_ij = 1/6 (shared side) or 1/12 (shared corner),

    where x_j is the image's value if j is kept. So x_i is the weighted mean of its neighbours; at the border the weights of the existing
    ones are scaled to sum 1. The matrix is symmetric and positive definite as soon as one pixel is kept, and it is
    factorised without pivoting, after nested dissection of the grid.

    Raises UserError where no pixel is kept, since the solution is then not determined.
    """

    def __init__(self, kept: Mask) -> None:
        if not kept.any():
            raise UserError("linear imputation needs at least one pixel that is kept")
        self.kept = kept
        grid = _grid(*kept.shape)
        missing = np.append(~kept.ravel()[grid.order], False)  # at the end, what is outside the image
        at = np.where(missing, np.cumsum(missing, dtype=np.int32) - 1, -1)
        rows = np.flatnonzero(missing)
        columns = at[grid.columns[rows]]
        among = columns >= 0
        ends = np.append(0, np.cumsum(among.sum(1)))
        self._missing = grid.order[rows]
        matrix = csc_matrix((grid.entries[rows][among], columns[among], ends), shape=(len(rows), len(rows)))
        matrix.has_sorted_indices = True
        options = {"SymmetricMode": True}
        self._factors = splu(matrix, permc_spec="NATURAL", diag_pivot_thresh=0.0, options=options) if len(rows) else None

    def __call__(self, image: Pixels) -> Pixels:
        """Return an image (C,H,W), in any units, with its missing pixels imputed."""
        filled = np.array(image, dtype=np.float64)
        if self._factors is not None:
            known = neighbour_sum(np.where(self.kept, filled, 0)).reshape(len(filled), -1)
            filled.reshape(len(filled), -1)[:, self._missing] = self._factors.solve(known[:, self._missing].T).T
        return filled


@dataclass(frozen=True)
class _Grid:
    """The matrix of an image without kept pixels, in the order of elimination; row n stands for everything outside the image."""

    order: NDArray[np.int64]
    """The pixel eliminated first, second, ... (n,)."""
    columns: NDArray[np.int64]
    """In each row the pixel itself and its neighbours, by their place in this order, rising (n+1,9); n where there is none."""
    entries: Pixels
    """The matrix's entries in these columns (n+1,9)."""


@lru_cache(maxsize=4)
def _grid(height: int, width: int) -> _Grid:
    n = height * width
    order = np.concatenate(_dissected(np.arange(n).reshape(height, width)))
    place = np.full((height + 2, width + 2), n)
    place[1:-1, 1:-1].flat[order] = np.arange(n)
    total = neighbour_sum(np.ones((height, width)))
    columns, entries = np.full((n + 1, 9), n), np.zeros((n + 1, 9))
    for k, ((dy, dx), weight) in enumerate([((0, 0), 0.0), *_NEIGHBOURS.items()]):
        columns[:n, k] = place[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width].ravel()[order]
        entries[:n, k] = -weight if dy or dx else total.ravel()[order]
    rising = columns.argsort(axis=1, kind="stable")
    return _Grid(order, np.take_along_axis(columns, rising, 1), np.take_along_axis(entries, rising, 1))


def _dissected(pixels: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Order the pixels of a rectangle by nested dissection (George 1973): both halves, then the line that separates them."""
    if max(pixels.shape) <= 2:
        return [pixels.ravel()]
    if pixels.shape[0] > pixels.shape[1]:
        pixels = pixels.T
    middle = pixels.shape[1] // 2
    return [*_dissected(pixels[:, :middle]), *_dissected(pixels[:, middle + 1 :]), pixels[:, middle]]
