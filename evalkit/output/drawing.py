"""Figures as files' contents, drawn in this process or, while it goes on, in another one."""

import io
import pickle
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from types import TracebackType
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

from evalkit.errors import UserError, did_you_mean
from evalkit.threads import cores

METADATA: Any = {"png": None, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
"""Metadata of each format, without times, so that the same call draws the same bytes."""
FORMATS = tuple(METADATA)
TEXT: Any = {"text.parse_math": False, "svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "evalkit"}
"""Text is stored as text in SVG and as TrueType in PDF; dollar signs in a name do not start a formula."""


def formats_of(text: str) -> tuple[str, ...]:
    """Return the formats that an option names with commas, such as `png,svg`. Raises UserError for another one."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in FORMATS:
            raise UserError(f"--plots {text}: '{name}' is no format of figures{did_you_mean(name, [*FORMATS, 'none'])}")
    return tuple(dict.fromkeys(names))


def set_style() -> None:
    """Set the style of all figures."""
    sns.set_theme(style="whitegrid", context="paper", palette="colorblind", rc=TEXT)


def drawn(figure: Figure, formats: tuple[str, ...] = FORMATS, dpi: int = 150) -> dict[str, bytes]:
    """Return a figure in each format, and close it."""
    found = {}
    for form in formats:
        file = io.BytesIO()
        figure.savefig(file, format=form, dpi=dpi, metadata=METADATA[form])
        figure.set_layout_engine("none")  # the layout is the same for all formats
        found[form] = file.getvalue()
    plt.close(figure)
    return found


class Drawer:
    """Another process that draws figures; none where this one may use a single core.

    It is started anew, not as a copy of this process with its threads, and takes about a second to be ready: make it early.
    """

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=set_style) if cores() > 1 else None
        self._waiting: list[Future[Any]] = [] if self._pool is None else [self._pool.submit(set_style)]

    def __enter__(self) -> "Drawer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=error is None, cancel_futures=error is not None)

    @property
    def free(self) -> bool:
        """Whether a figure that is given to the process now is drawn before long."""
        return self._pool is not None and sum(not one.done() for one in self._waiting) < 2

    def draw(self, figure: Figure, formats: tuple[str, ...] = FORMATS, dpi: int = 150) -> "Future[dict[str, bytes]]":
        """Draw a figure as `drawn` does, in the other process if it is there, and close it."""
        if self._pool is None:
            done: Future[dict[str, bytes]] = Future()
            done.set_result(drawn(figure, formats, dpi))
            return done
        waiting = self._pool.submit(_drawn, pickle.dumps(figure), formats, dpi)
        self._waiting.append(waiting)
        plt.close(figure)
        return waiting


def _drawn(figure: bytes, formats: tuple[str, ...], dpi: int) -> dict[str, bytes]:
    return drawn(pickle.loads(figure), formats, dpi)
