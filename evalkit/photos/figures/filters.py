"""The filters of a convolution as pictures; Zeiler and Fergus (ECCV 2014) find that those of the first one resemble Gabor filters."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import nn

from evalkit.config.schema import RunConfig
from evalkit.errors import UserError, did_you_mean
from evalkit.files import writable_folder
from evalkit.models import zoo
from evalkit.models.convolutions import convolutions
from evalkit.models.copies import eval_copy
from evalkit.models.failing import cannot_process
from evalkit.output.plots import save
from evalkit.photos.figures.layout import COLUMN, DPI, HEADER, HEIGHT, PAGE, heading, note, style, weights_in_words
from evalkit.photos.figures.mosaic import mosaic, show

SIDE_BY_SIDE = 64
"""Largest number of input channels of a filter that is drawn channel by channel."""
TALLEST = HEIGHT - HEADER - 0.6
"""Height that is left for filters, in inches."""
ROWS_OF = (8, 10, 16, 20, 32, 40, 64)
"""Numbers of filters in a row; the first with which all rows fit on a page is taken."""
FINEST = 24
"""Least height of a filter in pixels of the picture, so that the gaps between filters are narrow."""
VANISHING = 1e-3
"""A filter whose largest weight is below this part of the layer's largest is drawn grey: scaled up, it would look like the others."""


def write(config: RunConfig, layer: str | None, out: Path, *, common: bool = False) -> list[Path]:
    """Draw the filters of a convolution, by default of the first one; return the files `<out>/<model>-filters.png`, .pdf and .svg.

    Raises UserError: the network cannot be built or has no such convolution, or its filters have no picture.
    """
    module, weights = zoo.build(config.model)
    found = _convolutions(eval_copy(module), config)
    name = next(iter(found)) if layer is None else _chosen(layer, found, module, config.model.name)
    filters = found[name].weight.detach().double().cpu().numpy()
    writable_folder(out, "--out")
    colour = filters.shape[1] == config.model.channels == 3
    with style():
        figure = draw(filters, colour=colour, common=common)
        kind = "First convolution" if name == next(iter(found)) else "Convolution"
        size = f"{filters.shape[2]}x{filters.shape[3]}"
        heading(figure, f"{kind}: {len(filters)} filters of {size}", f"{config.model.name}, layer {name}, {weights_in_words(weights)}")
        return save(figure, out / f"{config.model.name.replace('/', '_')}-filters", DPI)


def _convolutions(module: nn.Module, config: RunConfig) -> dict[str, nn.Conv2d]:
    size = zoo.input_size(config.model)
    images = zoo.images_for(module, config.model, size)
    try:
        found = convolutions(module, images)
    except Exception as reason:  # a user's forward may raise anything
        raise cannot_process(module, config.model.factory, config.model.channels, size, reason) from reason
    if not found:
        raise UserError(f"{config.model.name} calls no module of type torch.nn.Conv2d, so it has no filters to show")
    return found


def _chosen(layer: str, found: dict[str, nn.Conv2d], module: nn.Module, model: str) -> str:
    if layer in found:
        return layer
    if layer in dict(module.named_modules()):
        inside = next((name for name in found if name.startswith(f"{layer}.")), None)
        hint = "" if inside is None else f"; its first one is '{inside}'"
        raise UserError(f"--layer {layer}: this layer of {model} is no two-dimensional convolution{hint}")
    raise UserError(f"--layer {layer}: {model} has no such convolution{did_you_mean(layer, found)}")


def draw(filters: np.ndarray, *, colour: bool, common: bool) -> Figure:
    """Draw filters (K,C,h,w): in colour where their three channels are red, green and blue, else channel by channel in grey.

    Zero is mid-grey, weights above it are brighter; the scale is symmetric about zero, of each filter by itself, or `common` to all.
    Filters with one channel, and those in colour, fill a page row by row; of others, a row shows one filter, and where they do not fit
    on a page, those with the largest norms are shown. Raises UserError for 1x1 filters, and for those with too many channels.
    """
    k, channels, h, w = filters.shape
    if h * w == 1:
        raise UserError("the filters of this convolution are 1x1: one number per channel is no picture; name another one with --layer")
    if channels > SIDE_BY_SIDE and not colour:
        raise UserError(
            f"each filter of this convolution has {channels} channels, and at most {SIDE_BY_SIDE} are shown side by side; "
            "name an earlier one with --layer"
        )
    pictures, vanishing = tiles(filters, colour=colour, common=common)
    notes = [
        f"Grey is 0, brighter is above 0; the scale is symmetric about 0, {'one for all filters' if common else 'each filter by itself'}."
    ]
    if colour:
        notes.append("Weights of red, green and blue are shown as these colours.")
    if vanishing:
        notes.append(f"{vanishing} of {k} filters are shown grey: their largest weight is below {VANISHING:g} of the layer's largest.")
    if colour or channels == 1:
        columns = min(k, next(c for c in ROWS_OF if -(-k // c) * PAGE / c * h / w <= TALLEST or c == ROWS_OF[-1]))
        order = np.arange(k)
        notes.append("A filter's number is that of its row plus that of its column.")
        labels = [str(row * columns) for row in range(-(-k // columns))]
        flat = pictures[:, 0]
    else:
        columns = channels
        fit = int(TALLEST / (PAGE / columns * h / w) * 0.9)
        order = np.sort(np.argsort(-np.linalg.norm(filters.reshape(k, -1), axis=1), kind="stable")[:fit])
        notes.append("A row is a filter, a column a channel of its input.")
        if fit < k:
            notes.append(f"{fit} of {k} filters fit on the page: those with the largest norm.")
        labels = [str(number) for number in order]
        flat = pictures[order].reshape(-1, h, w, 3)
    enlarged = flat.repeat(-(-FINEST // h), 1).repeat(-(-FINEST // h), 2)
    return _page(enlarged, columns, labels, " ".join(notes))


def tiles(filters: np.ndarray, *, colour: bool, common: bool) -> tuple[np.ndarray, int]:
    """Return filters (K,C,h,w) as pictures (K,1,h,w,3) in colour or (K,C,h,w,3) in grey, uint8, and the number of vanishing ones.

    A weight v becomes 127.5 (1 + v / max |v|), rounded, the maximum taken over the filter with all its channels or over all filters.
    """
    largest = np.abs(filters).max((1, 2, 3), keepdims=True)
    vanishing = largest[:, 0, 0, 0] < VANISHING * largest.max()
    scale = largest.max() if common else np.where(vanishing[:, None, None, None], np.inf, largest)
    bytes_ = np.rint(127.5 * (1 + filters / np.where(scale > 0, scale, 1))).astype(np.uint8)
    pictures = np.moveaxis(bytes_, 1, -1)[:, None] if colour else np.repeat(bytes_[..., None], 3, -1)
    return pictures, 0 if common else int(vanishing.sum())


def _page(pictures: np.ndarray, columns: int, labels: list[str], text: str) -> Figure:
    """Lay out pictures of filters (n,h,w,3) with the numbers of their rows and columns."""
    gap = 2
    h, w = pictures.shape[1] + gap, pictures.shape[2] + gap
    whole = mosaic(pictures, columns, gap)
    width = min(PAGE, max(COLUMN, 0.4 + columns * 0.4))
    height = (width - 0.3) * whole.shape[0] / whole.shape[1] + HEADER + 0.6
    figure, ax = plt.subplots(figsize=(width, min(height, HEIGHT)), layout="constrained")
    show(ax, whole)
    rows, every = range(0, len(labels), max(1, len(labels) // 32)), range(0, columns, max(1, columns // 32))
    ax.set_yticks([row * h + h / 2 - gap for row in rows], [labels[row] for row in rows])
    ax.set_xticks([column * w + w / 2 - gap for column in every], [str(column) for column in every])
    ax.tick_params(length=0, labelsize=5, top=True, labeltop=True, bottom=False, labelbottom=False)
    note(figure, text)
    return figure
