"""All channels of a layer for one photograph, as Yosinski et al. (2015) show them live: a small map each, with its number."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from evalkit.config.schema import RunConfig
from evalkit.errors import UserError, did_you_mean, printable
from evalkit.files import writable_folder
from evalkit.output.plots import save
from evalkit.photos.figures.layout import DPI, HEIGHT, PAGE, ExplainedPhoto, chosen, note, photograph, style, title
from evalkit.photos.figures.mosaic import heat_tiles, mosaic, show
from evalkit.photos.pictures import COLOURS
from evalkit.photos.session import PhotoSession
from evalkit.probe import Probe

Order = Literal["number", "drop", "mean"]
IN_WORDS = {
    "number": "in the order of their numbers",
    "drop": "the largest drop of the class score by ablation first; the drop is beside the number",
    "mean": "the largest mean activation first; the mean is beside the number",
}
SIDE = 1.05
"""Side of the photograph above the channels, in inches."""
TITLE, NOTE = 0.45, 0.4
"""Heights above and below, in inches."""
LABEL = 0.105
"""Height of a channel's label, in inches."""
ACROSS = (8, 10, 12, 16)
"""Numbers of channels in a row; the first with which all fit on one page is taken, else the last."""
FINEST = 28
"""Least height of a map in pixels of the picture."""


def write(config: RunConfig, files: Sequence[Path], out: Path, by: str) -> list[Path]:
    """Draw all channels of the layer for each photograph and class; return the files.

    They are `<out>/<photograph>-activations.png`, .pdf and .svg, with the class's index where several are explained, and the number of
    the page where the channels do not fit on one. Raises UserError: a file cannot be read, `by` is no order, the folder cannot be written.
    """
    orders = get_args(Order)
    if by not in orders:
        raise UserError(f"--by {by} is no order of channels{did_you_mean(by, orders)}")
    session, photos = chosen(config, files)
    writable_folder(out, "--out")
    written: list[Path] = []
    with style():
        for photo in photos:
            stem = Path(photo.name).stem + (f"-class-{int(photo.probe.targets[0])}" if len(photos) > len(files) else "")
            drawn = pages(session, photo, by)
            for number, figure in enumerate(drawn, 1):
                page = f"-page-{number}-of-{len(drawn)}" if len(drawn) > 1 else ""
                written += save(figure, _free(out / f"{stem}-activations{page}", written), DPI)
    return written


def _free(stem: Path, written: Sequence[Path]) -> Path:
    """Return a stem that no earlier figure of this call has: photographs of two folders may have one name."""
    names = (stem.with_name(f"{stem.name}{suffix}") for suffix in ("", *(f"-{n}" for n in range(2, len(written) + 3))))
    return next(name for name in names if name.with_name(f"{name.name}.png") not in written)


def ordered(probe: Probe, by: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the numbers of all channels (K,) in an order, ties by number, and the values (K,) that give it; None for "number"."""
    if by == "number":
        return np.arange(probe.activations.shape[1]), None
    values = (probe.drops if by == "drop" else probe.activations.mean((2, 3)))[0].double().cpu().numpy()
    return np.argsort(-values, kind="stable"), values


def pages(session: PhotoSession, photo: ExplainedPhoto, by: str) -> list[Figure]:
    """Draw the channels of one photograph and class, on as many pages as they need."""
    maps = photo.probe.activations[0].float().cpu().numpy()
    order, values = ordered(photo.probe, by)
    k, h, w = maps.shape
    room = HEIGHT - TITLE - SIDE - 0.1 - NOTE
    holds = {columns: columns * max(1, int(room / (PAGE / columns * h / w + LABEL))) for columns in ACROSS}
    columns = next((columns for columns in ACROSS if holds[columns] >= k), ACROSS[-1])
    fit = holds[columns]
    parts = [order[first : first + fit] for first in range(0, k, fit)]
    return [_page(session, photo, maps, part, values, columns, by, (i * fit, len(parts))) for i, part in enumerate(parts)]


def _page(
    session: PhotoSession,
    photo: ExplainedPhoto,
    maps: np.ndarray,
    part: np.ndarray,
    values: np.ndarray | None,
    columns: int,
    by: str,
    place: tuple[int, int],
) -> Figure:
    """Draw the channels `part`, of which `place[0]` others stand on earlier ones of `place[1]` pages."""
    enlarged = -(-FINEST // maps.shape[1])
    tiles = heat_tiles(maps[part], COLOURS).repeat(enlarged, 1).repeat(enlarged, 2)
    height, width = tiles.shape[1:3]
    gap = max(1, round(width * 0.06))
    below = round(LABEL * columns / PAGE * (width + gap))
    picture = mosaic(tiles, columns, gap, below)
    whole_width = columns * (width + gap) - gap
    inches = PAGE * picture.shape[0] / whole_width
    total = TITLE + SIDE + 0.1 + inches + NOTE
    figure = plt.figure(figsize=(PAGE, total))
    above = figure.add_axes((0, 1 - (TITLE + SIDE) / total, SIDE / PAGE, SIDE / total))
    photograph(above, photo.probe.images[0])
    across = picture.shape[1] / whole_width
    ax = figure.add_axes((0, NOTE / total, across, inches / total))
    show(ax, picture)
    ax.set_anchor("NW")
    size = 4 if columns > 8 and values is not None else 5
    for i, number in enumerate(part):
        y, x = (i // columns) * (height + gap + below) + height, (i % columns) * (width + gap)
        text = str(number) if values is None else f"{number} {values[number]:.2g}"
        ax.text(x, y + below * 0.1, text, fontsize=size, va="top", ha="left", color="0.15")
    figure.text((SIDE + 0.12) / PAGE, 1 - (TITLE + 0.02) / total, _about(session, photo, maps, part, by, place), va="top", fontsize=7)
    title(figure, session, "Channels of a layer")
    note(
        figure,
        "Each map runs from its least value (dark) to its greatest (bright), so that brightness cannot be compared between channels.",
    )
    return figure


def _about(session: PhotoSession, photo: ExplainedPhoto, maps: np.ndarray, part: np.ndarray, by: str, place: tuple[int, int]) -> str:
    k, h, w = maps.shape
    constant = int((maps.min((1, 2)) == maps.max((1, 2))).sum())
    shown = f"all {k} channels" if place[1] == 1 else f"places {place[0] + 1} to {place[0] + len(part)} of {k} channels"
    lines = [
        printable(photo.name),
        f"class “{session.class_name(photo.probe)}”, {session.scores(photo.probe, between=', ')}" * (session.config.model.output != "raw"),
        f"{shown}, {h} x {w} positions each, {IN_WORDS[by]}",
        f"{constant} of {k} channels are constant on this photograph (all dark)" * (constant > 0),
    ]
    return "\n".join(textwrap.fill(line, 88) for line in lines if line)
