"""Shared parts of all figures: sizes and fonts of a paper, panels with photographs and maps, and three file formats."""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from evalkit.config.schema import RunConfig
from evalkit.data.decode import Picture
from evalkit.errors import UserError, printable
from evalkit.files import writable_folder
from evalkit.layer_names import layers_in_words
from evalkit.output.drawing import TEXT
from evalkit.output.plots import save
from evalkit.photos.pictures import COLOURS, overlay, to_array
from evalkit.photos.session import PhotoSession, open_photographs
from evalkit.probe import Probe
from evalkit.weights_origin import are_random

COLUMN, PAGE, HEIGHT = 3.25, 6.875, 8.875
"""Width of a column, and width and height of a page's text, in inches, in the WACV and CVPR templates."""
ACROSS = 7
"""Largest number of panels side by side on a page; with more, they would be too small."""
HEADER = 0.45
"""Height of title and note, in inches."""
DPI = 300
"""Resolution of photographs and maps in all formats; lines and text are vectors in PDF and SVG."""
STYLE: dict[Any, Any] = {
    "font.size": 7, "axes.titlesize": 7, "axes.labelsize": 7, "xtick.labelsize": 6, "ytick.labelsize": 6, "figure.titlesize": 8,
    "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "axes.spines.top": False, "axes.spines.right": False,
    **TEXT,
}  # fmt: skip


@dataclass(frozen=True)
class ExplainedPhoto:
    """A photograph, named after its file, with the class to explain of it."""

    name: str
    probe: Probe


Draw = Callable[[PhotoSession, Sequence[ExplainedPhoto]], Figure]
Classes = Callable[[PhotoSession, Picture], list[Probe]]


@contextmanager
def style() -> Iterator[None]:
    """Give figures that are drawn and saved inside the fonts and formats of a paper."""
    with plt.rc_context(STYLE):
        yield


def write(name: str, draw: Draw, config: RunConfig, files: Sequence[Path], out: Path, classes: Classes = PhotoSession.probes) -> list[Path]:
    """Draw one figure of all photographs and classes; return its files, `<out>/<photograph>-<name>.png`, .pdf and .svg.

    `classes` returns a probe for each class of a photograph to show. Raises UserError if a file cannot be read, the panels
    do not fit on a page, or the folder cannot be written.
    """
    session, photos = chosen(config, files, classes)
    writable_folder(out, "--out")
    more = f"-and-{len(files) - 1}-more" if len(files) > 1 else ""
    with style():
        return save(draw(session, photos), out / f"{files[0].stem}{more}-{name}", DPI)


def chosen(config: RunConfig, files: Sequence[Path], classes: Classes = PhotoSession.probes) -> tuple[PhotoSession, list[ExplainedPhoto]]:
    """Open a session, and return it with each photograph and each of its classes to show. Raises UserError if a file cannot be read."""
    session, pictures = open_photographs(config, files)
    pairs = zip(files, pictures, strict=True)
    return session, [ExplainedPhoto(file.name, probe) for file, picture in pairs for probe in classes(session, picture)]


def panels(rows: int, columns: int, width: float, row_height: float) -> tuple[Figure, list[list[Axes]]]:
    """Create an empty figure with rows of panels, sizes in inches. Raises UserError if they do not fit on a page."""
    if columns > ACROSS:
        raise UserError(f"a page has room for {ACROSS} panels side by side, not for {columns}: choose fewer")
    figure, axes = plt.subplots(rows, columns, figsize=(width, height(rows, row_height)), squeeze=False, layout="constrained")
    for ax in axes.flat:
        _bare(ax)
    return figure, [list(row) for row in axes]


def height(rows: int, row_height: float) -> float:
    """Return the height of a figure with a title, in inches. Raises UserError if it is taller than a page."""
    fit = int((HEIGHT - HEADER) / row_height)
    if rows > fit:
        raise UserError(f"a page has room for {fit} rows of this figure, not for {rows} (photographs, classes, methods): draw several")
    return HEADER + rows * row_height


def _bare(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def photograph(ax: Axes, image: Tensor) -> None:
    """Show an image (channels,H,W) in [0,1]."""
    ax.imshow(to_array(image))
    _bare(ax)


def heat_over(ax: Axes, image: Tensor, heat: Tensor) -> None:
    """Show a map (H,W), scaled from its least value to its greatest, over the image (channels,H,W) in grey."""
    photograph(ax, overlay(image.float().cpu(), heat.float().cpu()))


def scale(figure: Figure, axes: Sequence[Axes], label: str) -> None:
    """Add one colour bar for maps that are each scaled from their own least value to their own greatest."""
    bar = figure.colorbar(ScalarMappable(Normalize(), COLOURS), ax=list(axes), fraction=0.025, pad=0.01, aspect=40, label=label)
    bar.set_ticks([0, 1], labels=["least", "greatest"])
    bar.outline.set_visible(False)


def beside(ax: Axes, session: PhotoSession, photo: ExplainedPhoto) -> None:
    """Label the first panel of a row with the explained class, its confidence and score, and the file."""
    name = "\n".join(textwrap.wrap(session.class_name(photo.probe), 18))
    ax.set_ylabel(f"{name}\n{session.scores(photo.probe)}", labelpad=3)
    ax.set_xlabel(shortened(printable(photo.name), 18), fontsize=5, color="0.35", labelpad=2)


def title(figure: Figure, session: PhotoSession, what: str) -> None:
    """Write above all panels what is shown, and the model, layer and weights."""
    heading(figure, what, about(session))


def about(session: PhotoSession) -> str:
    """Describe the model, layer and weights."""
    config = session.config.model
    layers = f"layer {config.layer}" if isinstance(config.layer, str) else layers_in_words(config.layer)
    return f"{config.name}, {layers}, {weights_in_words(session.model.weights)}"


def weights_in_words(weights: str) -> str:
    """Describe weights by their origin: the file's name, or that they are random, which every picture has to state."""
    return "RANDOM WEIGHTS" if are_random(weights) else f"weights {Path(weights.removeprefix('embedded:')).name}"


def heading(figure: Figure, what: str, about: str) -> None:
    """Write two texts above all panels: what is shown, and of what."""
    figure.suptitle("\n".join([what, *textwrap.wrap(printable(about), int(figure.get_figwidth() * 16))]))


def note(figure: Figure, text: str) -> None:
    """Write a note for readers below all panels."""
    figure.supxlabel(textwrap.fill(text, int(figure.get_figwidth() * 22)), fontsize=6, color="0.25")


def shortened(text: str, length: int) -> str:
    """Shorten a text to `length` characters, leaving out its middle."""
    half = length // 2
    return text if len(text) <= length else f"{text[: half - 1]}…{text[-(length - half) :]}"
