"""Data of a report's gallery: photograph, maps, explanation maps and scores of each chosen image, limited in size."""

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from evalkit.analysis.evaluated import Evaluated
from evalkit.analysis.load import ITEM, Run
from evalkit.analysis.metrics import relative_drop
from evalkit.data.decode import UnreadableImage
from evalkit.errors import UserError, printable
from evalkit.output.drawing import Drawer
from evalkit.output.report import Page
from evalkit.output.tables import describe_point, main_points
from evalkit.photos.gallery_choice import GalleryEntry, select, shown_methods
from evalkit.photos.pictures import overlay, webp_uri
from evalkit.photos.run_images import RunImages
from evalkit.point import Point

SIDE = 176
"""Longer side of a gallery's pictures, in pixels."""
MOST_BYTES = 12 * 2**20
"""Largest size of all pictures of one report."""


class Gallery:
    """The chosen images of one run at one protocol point, as JSON; `room` is the largest number of bytes of its pictures."""

    def __init__(self, run: Run, point: Point, each: int, room: int = MOST_BYTES, root: str | None = None) -> None:
        self.run, self.point = run, point
        self.notes: list[str] = []
        """Sentences on what is not shown, and why."""
        self.used = 0
        """Bytes of pictures."""
        self._images = self._open(root)
        chosen = select(run, point, each)
        self._scores = run.table.rows_of({entry.index for entry in chosen}, point).set_index([*ITEM, "method"]).sort_index()
        self.entries = list(self._within(room, chosen))

    def json(self) -> dict[str, Any]:
        """Return the data that report.js draws."""
        return {
            "point": describe_point(self.point),
            "select": self.point.select,
            "methods": self.run.methods,
            "shown": shown_methods(self.run),
            "without": f"only scores: pictures are of the first {len(shown_methods(self.run))} methods that are no controls",
            "items": self.entries,
        }

    def _open(self, root: str | None) -> RunImages | None:
        try:
            images = RunImages(self.run, root)
        except UserError as reason:
            self.notes.append(f"No photographs: {reason}.")
            return None
        try:
            _ = images.maps
        except UserError as reason:
            self.notes.append(f"No maps: {reason}.")
        return images

    def _within(self, room: int, chosen: Sequence[GalleryEntry]) -> Iterable[dict[str, Any]]:
        for number, entry in enumerate(chosen):
            described = self._described(entry)
            size = sum(map(len, _data_uris(described)))
            if self.used + size > room:
                self.notes.append(f"Only {number} of {len(chosen)} chosen images, so that the file stays small.")
                return
            self.used += size
            yield described

    def _described(self, entry: GalleryEntry) -> dict[str, Any]:
        scores = self._scores.loc[(entry.index, entry.target)]
        first = scores.iloc[0]
        label, predicted = (None if pd.isna(value) else self._class_name(int(value)) for value in (first.label, first.predicted))
        described: dict[str, Any] = {
            "image": printable(str(first.image_id)),
            "label": label,
            "predicted": predicted,
            "explained": printable(str(first.target_name)),
            "winner": entry.winner,
            "reasons": entry.reasons,
            "confidence": None if self.run.raw else first.prob_full,
            "logit": first.logit_full,
            "photograph": None,
            "methods": [_method(row, raw=self.run.raw) for row in scores.reindex(self.run.methods).itertuples()],
        }
        if self._images is not None:
            self._add_pictures(self._images, entry, described)
        return described

    def _class_name(self, index: int) -> str:
        names = self.run.provenance.get("class_names")
        return str(names[index]) if isinstance(names, list) and index < len(names) else str(index)

    def _add_pictures(self, images: RunImages, entry: GalleryEntry, described: dict[str, Any]) -> None:
        try:
            image = images.image(entry.index)
        except UnreadableImage as reason:
            self.notes.append(f"{described['image']} can no longer be read: {printable(str(reason))}.")
            return
        described["photograph"] = webp_uri(image, SIDE)
        if "maps" not in vars(images):  # noted once, in `_open`
            return
        shown = shown_methods(self.run)
        for method in described["methods"]:
            if method["name"] in shown:
                with torch.no_grad():
                    heat = overlay(image, images.map(method["name"], entry.index, entry.target))
                    seen = images.explanation(method["name"], entry.index, entry.target, self.point)
                method["map"], method["seen"] = webp_uri(heat, SIDE), webp_uri(seen, SIDE)


def _method(row: Any, *, raw: bool) -> dict[str, Any]:
    """Return one method's scores on an image and its drop in percent (eq. 5), of the confidence or `raw` score; None where undefined."""
    pair = (row.logit_full, row.logit_masked) if raw else (row.prob_full, row.prob_masked)
    drop = float(relative_drop(*(np.array([score]) for score in pair), raw=raw)[0])
    scores = {"confidence": None if raw else row.prob_masked, "logit": row.logit_masked, "drop": None if math.isnan(drop) else drop}
    return {"name": row.Index, **scores, "constant": row.status == "degenerate"}


def _data_uris(described: dict[str, Any]) -> Iterable[str]:
    for part in (described, *described["methods"]):
        yield from (part[key] for key in ("photograph", "map", "seen") if part.get(key))


def report_runs(
    evaluated: Sequence[Evaluated],
    file: Path,
    *,
    each: int,
    root: str | None = None,
    most_bytes: int = MOST_BYTES,
    drawer: Drawer | None = None,
) -> list[str]:
    """Write the report of runs with their galleries (`evalkit.output.report`); return sentences on what it does not show.

    `each` is how many images a gallery shows for every reason, `root` the data folder if the images have moved. Raises
    UserError if the file cannot be written.
    """
    with nullcontext(drawer) if drawer is not None else Drawer() as drawing:
        page = Page(evaluated, drawing)
        galleries = [Gallery(one.run, main_points(one.run)[0], each, most_bytes // len(evaluated), root) for one in evaluated]
        page.write([gallery.json() for gallery in galleries], [gallery.notes for gallery in galleries], file)
    return [note for gallery in galleries for note in gallery.notes]
