"""The gallery's data: for each chosen image its photograph, maps, explanation maps and scores, small enough for one file."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import torch

from evalkit.data.decode import UnreadableImage
from evalkit.errors import UserError, printable
from evalkit.photographs import Photographs, data_uri, overlay
from evalkit.report.selection import Item, select, shown_methods
from evalkit.runs import ITEM, Point, Run, at_point
from evalkit.tables import describe_point

SIDE = 176
"""Longer side of a gallery's pictures, in pixels."""
MOST_BYTES = 12 * 2**20
"""Of all pictures of one report."""


class Gallery:
    """The chosen images of one run at one protocol point, as JSON; `room` is how many bytes of pictures it may hold."""

    def __init__(self, run: Run, point: Point, each: int, room: int = MOST_BYTES, root: str | None = None) -> None:
        self.run, self.point = run, point
        self.notes: list[str] = []
        """Sentences on what could not be shown, and why."""
        self.used = 0
        """Bytes of pictures."""
        self._photographs = self._open(root)
        self._scores = at_point(run.scored, point).set_index([*ITEM, "method"]).sort_index()
        self.items = list(self._within(room, select(run, point, each)))

    def json(self) -> dict[str, Any]:
        """What report.js draws."""
        return {
            "point": describe_point(self.point),
            "select": self.point[0],
            "methods": self.run.methods,
            "shown": shown_methods(self.run),
            "without": f"only scores: pictures are of the first {len(shown_methods(self.run))} methods that are no controls",
            "items": self.items,
        }

    def _open(self, root: str | None) -> Photographs | None:
        try:
            photographs = Photographs(self.run, root)
        except UserError as reason:
            self.notes.append(f"No photographs: {reason}.")
            return None
        try:
            _ = photographs.maps
        except UserError as reason:
            self.notes.append(f"No maps: {reason}.")
        return photographs

    def _within(self, room: int, chosen: Sequence[Item]) -> Iterable[dict[str, Any]]:
        for number, item in enumerate(chosen):
            described = self._described(item)
            size = sum(map(len, _addresses(described)))
            if self.used + size > room:
                self.notes.append(f"Only {number} of {len(chosen)} chosen images, so that the file stays small.")
                return
            self.used += size
            yield described

    def _described(self, item: Item) -> dict[str, Any]:
        scores = self._scores.loc[(item.index, item.target)]
        first = scores.iloc[0]
        label, predicted = (None if pd.isna(value) else self._class_name(int(value)) for value in (first.label, first.predicted))
        described: dict[str, Any] = {
            "image": printable(str(first.image_id)),
            "label": label,
            "predicted": predicted,
            "explained": printable(str(first.target_name)),
            "winner": item.winner,
            "reasons": item.reasons,
            "confidence": first.prob_full,
            "logit": first.logit_full,
            "photograph": None,
            "methods": [
                {"name": row.Index, "confidence": row.prob_masked, "logit": row.logit_masked, "constant": row.status == "degenerate"}
                for row in scores.reindex(self.run.methods).itertuples()
            ],
        }
        if self._photographs is not None:
            self._add_pictures(self._photographs, item, described)
        return described

    def _class_name(self, index: int) -> str:
        names = self.run.provenance.get("class_names")
        return str(names[index]) if isinstance(names, list) and index < len(names) else str(index)

    def _add_pictures(self, photographs: Photographs, item: Item, described: dict[str, Any]) -> None:
        try:
            image = photographs.image(item.index)
        except UnreadableImage as reason:
            self.notes.append(f"{described['image']} can no longer be read: {printable(str(reason))}.")
            return
        described["photograph"] = data_uri(image, SIDE)
        if "maps" not in vars(photographs):  # told once, when it was opened
            return
        shown = shown_methods(self.run)
        for method in described["methods"]:
            if method["name"] in shown:
                with torch.no_grad():
                    heat = overlay(image, photographs.map(method["name"], item.index, item.target))
                    seen = photographs.explanation(method["name"], item.index, item.target, self.point)
                method["map"], method["seen"] = data_uri(heat, SIDE), data_uri(seen, SIDE)


def _addresses(described: dict[str, Any]) -> Iterable[str]:
    for part in (described, *described["methods"]):
        yield from (part[key] for key in ("photograph", "map", "seen") if part.get(key))
