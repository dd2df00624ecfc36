"""Occluded objects: maps of photographs before and after something is pasted over a part of the object.

The document shows one picture. Here a rectangle is pasted into the largest box of a photograph, at a seeded position inside it, over a
quarter or a half of the box's area: grey, noise, or the same place of a photograph of another class.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import claim_images as pictures
import numpy as np
import pandas as pd
import torch
from claim_images import Pictures
from claim_rows import Claim, Row
from torch import Tensor

from evalkit import protocol
from evalkit.data.boxes import Box
from evalkit.evaluation.localisation import energy_inside

METHODS = ("ablation_cam", "grad_cam", "centre", "random")
COVERED = (25, 50)
FILLS = ("grey", "noise", "another photograph")
SEED = 0
EVERY = 2
"""Step through the list of images, which is sorted by class."""
DROP = "average drop, top 20 % kept, %"
INSIDE, VISIBLE, ON = "energy inside the boxes, %", "energy on the visible part of the object, %", "energy on the occluder, %"
MEASURES = (INSIDE, VISIBLE, ON, DROP)
WORSENS = {INSIDE: "< 0", DROP: "> 0"}
"""Measures that test the claims, and the direction in which they get worse."""
RIGHT, ALL = "right before and after", "all images"

WORSE = Claim(
    "Ablation-CAM does not perform well where something obstructs a part of the object.",
    *("Pandit 2020, section 5, figure 10", "squeezevgg10", f"imagenette224, every {EVERY}nd of 260 images", f"{SEED}"),
    how="A rectangle covers 25 or 50 % of the largest box: grey, noise and a part of another photograph, three copies of an image, drawn "
    "together. Maps explain the photograph's own class, before and after, paired. The claim expects less energy inside the boxes and a "
    "larger average drop, on images that are classified right before and after. The visible part is what the occluder leaves of the boxes.",
)
MORE = replace(WORSE, claim="Occlusion is a drawback of Ablation-CAM: its maps lose more by it than Grad-CAM's.")


@dataclass(frozen=True)
class Occluder:
    """A rectangle in pixels: rows top..bottom-1, columns left..right-1."""

    top: int
    bottom: int
    left: int
    right: int

    def mask(self, height: int, width: int) -> Tensor:
        """Return the rectangle as a mask (H,W)."""
        mask = torch.zeros(height, width, dtype=torch.bool)
        mask[self.top : self.bottom, self.left : self.right] = True
        return mask


def measure(data: Path, out: Path) -> list[Row]:  # noqa: ARG001 - nothing but rows is written
    """Measure squeezevgg10 on every second photograph of imagenette224."""
    read = pictures.read(pictures.overrides("squeezevgg10", data))
    return rows(measured(read.at(torch.arange(0, len(read.labels), EVERY))))


def largest(boxes: list[Box]) -> Box:
    """Return the box of the largest area, of equal ones the first."""
    return max(boxes, key=lambda box: (box.x2 - box.x1) * (box.y2 - box.y1))


def occluder(box: Box, percent: float, rng: np.random.Generator) -> Occluder:
    """Return a rectangle of the box's shape over `percent` of its area, in whole pixels, anywhere inside it; see `localisation.region`."""
    left, top = (max(0, math.ceil(edge - 0.5)) for edge in (box.x1, box.y1))
    right, bottom = (min(length, math.ceil(edge - 0.5)) for edge, length in ((box.x2, box.width), (box.y2, box.height)))
    side = (percent / 100) ** 0.5
    width, height = (max(1, round(side * length)) for length in (right - left, bottom - top))
    x = left + int(rng.integers(max(right - left - width, 0) + 1))
    y = top + int(rng.integers(max(bottom - top - height, 0) + 1))
    return Occluder(y, y + height, x, x + width)


def pasted(image: Tensor, other: Tensor, place: Occluder, fill: str, rng: np.random.Generator) -> Tensor:
    """Return a copy of an image (3,H,W), uint8, with the rectangle filled; `other` is the other photograph."""
    copied, rows, columns = image.clone(), slice(place.top, place.bottom), slice(place.left, place.right)
    if fill == "grey":
        copied[:, rows, columns] = 128
    elif fill == "noise":
        copied[:, rows, columns] = torch.from_numpy(rng.integers(0, 256, copied[:, rows, columns].shape, dtype=np.uint8))
    else:
        copied[:, rows, columns] = other[:, rows, columns]
    return copied


def another(labels: Tensor, i: int, rng: np.random.Generator) -> int:
    """Return the row of an image of another class."""
    return int(rng.choice((labels != labels[i]).nonzero()[:, 0].numpy()))


def measured(read: Pictures) -> pd.DataFrame:
    """Return a row for each image with a box, method, covered share and fill, with `before` and `after` of each measure."""
    read = read.at(torch.tensor([i for i, boxes in enumerate(read.boxes) if boxes]))
    regions = read.regions
    logits, clean = pictures.explained(read.net, read.images, read.labels, METHODS, read.positions)
    right = logits.argmax(1) == read.labels
    drops = {method: pictures.average_drops(read.net, read.images, read.labels, logits, maps) for method, maps in clean.items()}
    parts = []
    for percent, fill, images, places in _occluded(read):
        logits, maps = pictures.explained(read.net, images, read.labels, METHODS, read.positions)
        still = right & (logits.argmax(1) == read.labels)
        for method in METHODS:
            before, after = (_energies(seen[method], regions, places) for seen in (clean, maps))
            before[DROP], after[DROP] = drops[method], pictures.average_drops(read.net, images, read.labels, logits, maps[method])
            about = {"method": method, "percent": percent, "fill": fill, "image": read.positions.numpy(), "right": still.numpy()}
            parts += [pd.DataFrame({**about, "measure": name, "before": before[name], "after": after[name]}) for name in MEASURES]
    return pd.concat(parts, ignore_index=True)


def _occluded(read: Pictures) -> Iterator[tuple[int, str, Tensor, Tensor]]:
    """Yield the covered share, the fill, the images (n,3,H,W) and the occluders' masks (n,H,W): one place for all fills of an image."""
    for percent in COVERED:
        draws = [np.random.default_rng([SEED, percent, int(position)]) for position in read.positions]
        places = [occluder(largest(list(boxes)), percent, rng) for boxes, rng in zip(read.boxes, draws, strict=True)]
        others = [another(read.labels, i, rng) for i, rng in enumerate(draws)]
        masks = torch.stack([place.mask(*read.images.shape[2:]) for place in places])
        for fill in FILLS:
            put = [pasted(read.images[i], read.images[others[i]], places[i], fill, draws[i]) for i in range(len(places))]
            yield percent, fill, torch.stack(put), masks


def _energies(maps: Tensor, regions: Tensor, places: Tensor) -> dict[str, np.ndarray]:
    large = protocol.upsample(maps.double(), (regions.shape[1], regions.shape[2]))
    parts = {INSIDE: regions, VISIBLE: regions & ~places, ON: places}
    return {name: 100 * energy_inside(large, part).numpy() for name, part in parts.items()}


def rows(table: pd.DataFrame) -> list[Row]:
    """Return the levels and changes of each method, and how Ablation-CAM's change differs from Grad-CAM's, over all fills and by fill."""
    found: list[Row] = []
    for percent in COVERED:
        part = table[table.percent == percent]
        once = part[(part.method == METHODS[0]) & (part.measure == DROP)]
        found.append(WORSE.level(f"{percent} % covered: images {RIGHT}, %", 100.0 * once.right, once.image.to_numpy()))
        for items, chosen in ((RIGHT, part[part.right]), (ALL, part)):
            for name in MEASURES:
                tested = items == RIGHT and name in WORSENS
                found += _compared(chosen[chosen.measure == name], f"{percent} % covered, {items}: {name}", WORSENS[name] if tested else "")
    return found


def _compared(part: pd.DataFrame, what: str, expects: str) -> list[Row]:
    of = {method: of_method.set_index(["image", "fill"]) for method, of_method in part.groupby("method")}
    index = of["ablation_cam"].index
    images, fills = (index.get_level_values(name).to_numpy() for name in ("image", "fill"))
    change = {method: of[method].after - of[method].before for method in METHODS}
    found = [WORSE.level(f"{what}: {method}", of[method].after, images) for method in METHODS]
    for method in METHODS:
        tested = expects if method == "ablation_cam" else ""
        found.append(WORSE.difference(f"{what}: {method}, less before", of[method].after, of[method].before, images, expects=tested))
    name = f"{what}: change of ablation_cam less that of grad_cam"
    found.append(MORE.difference(name, change["ablation_cam"], change["grad_cam"], images, expects=expects))
    for fill in FILLS:
        at = fills == fill
        found.append(MORE.difference(f"{name}, {fill}", change["ablation_cam"][at], change["grad_cam"][at], images[at]))
    return found
