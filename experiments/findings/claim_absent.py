"""Absent classes: what the map of a class shows that is not in the image, and that of one which the network does not expect there."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from claim_rows import Claim, Row
from coco_objects import CONF, boxed, density, run_overrides, verdict, write_lists
from torch import Tensor

from evalkit import methods, protocol
from evalkit.config.compose import compose_jobs
from evalkit.evaluation.session import Session, open_session
from evalkit.pixels import in_unit_range
from evalkit.probe import Probe

NETWORK = "mobilenet_v2"
METHODS = ("grad_cam", "ablation_cam", "centre")
SEED = 0
TOP = 5
TEDDY, PERSON = "teddy bear", "person"

KINDS: Mapping[str, Sequence[str]] = {
    "vehicle": ("bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    "outdoor": ("traffic light", "fire hydrant", "stop sign", "parking meter", "bench"),
    "animal": ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
    "accessory": ("backpack", "umbrella", "handbag", "tie", "suitcase"),
    "sports": (
        "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket",
    ),
    "kitchen": ("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl"),
    "food": ("banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake"),
    "furniture": ("chair", "couch", "potted plant", "bed", "dining table", "toilet"),
    "electronic": ("tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    "appliance": ("microwave", "oven", "toaster", "sink", "refrigerator"),
    "indoor": ("book", "clock", "vase", "scissors", TEDDY, "hair drier", "toothbrush"),
}  # fmt: skip
"""COCO's categories by supercategory (Lin et al., ECCV 2014); people are a kind of their own, without an output."""

CLOSEST = Claim(
    "The map of a class that is not in the image shows the object that is closest to it.",
    *("Tamboli 2020, section IV, figures 10 and 11", NETWORK, "coco256, all images that show two kinds of objects with outputs", f"{SEED}"),
    how="Kinds are COCO's supercategories. For every two kinds in an image, the absent category of the one kind that has the highest "
    "score is explained; its map is right if it is denser in the boxes of its own kind than in those of the other. Both kinds take "
    "turns, so that a map that ignores the class is right for exactly 50 %. n counts ordered pairs of kinds.",
)
PERSONS = replace(
    CLOSEST,
    claim="The map of the absent teddy bear shows the person.",
    source="Tamboli 2020, section IV, figure 11",
    data="coco256, all images that show a person and no teddy bear",
    how="The density of the map in the boxes of people, relative to the whole image (1: as everywhere), of the class teddy bear and of "
    "another category that is absent, drawn at random, paired.",
)
UNEXPECTED = replace(
    CLOSEST,
    claim=f"The map finds the object although the class is not among the {TOP} most probable ones.",
    source="Tamboli 2020, section IV, figures 8 and 9",
    data="coco256, all categories with an output",
    how=f"Categories in the image whose highest output is not among the {TOP} highest of all. The density of the map in the category's "
    "boxes, relative to the whole image (1: as everywhere).",
)


def measure(data: Path, out: Path) -> list[Row]:
    """Return the rows of MobileNetV2."""
    write_lists(data, out)
    (job,) = compose_jobs(run_overrides(NETWORK, data, out, "objects", ("grad_cam",)), conf=CONF)
    return rows(*tables(open_session(job.config)))


def tables(session: Session) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return `kinds`, `persons` and `unexpected` of all images: a row for each explained category and method."""
    parts: dict[str, list[dict[str, object]]] = {"kinds": [], "persons": [], "unexpected": []}
    for position in session.positions:
        image = in_unit_range(session.model.preprocess(session.source.load(position))[None], session.model.net.dtype)
        logits = session.model.net(image)[0]
        outputs = highest_outputs(session, logits)
        boxes = {name: masks.any(0) for name, masks in boxed(session, position).items()}
        for table, found in (
            ("kinds", _kinds(session, image, logits, outputs, boxes)),
            ("persons", _persons(session, image, outputs, boxes, position)),
            ("unexpected", _unexpected(session, image, logits, outputs, boxes)),
        ):
            parts[table] += [{"image": position, **row} for row in found]
    return pd.DataFrame(parts["kinds"]), pd.DataFrame(parts["persons"]), pd.DataFrame(parts["unexpected"])


def highest_outputs(session: Session, logits: Tensor) -> dict[str, int]:
    """Return the highest output of each category that has outputs, by logits (C,)."""
    names = [name for of_kind in KINDS.values() for name in of_kind]
    choices = {name: session.model.classes.outputs_of(name) for name in names}
    return {name: max(some, key=lambda output: float(logits[output])) for name, some in choices.items() if some}


def maps_of(session: Session, image: Tensor, targets: Sequence[int]) -> dict[str, Tensor]:
    """Return maps (n,H,W) of n classes of an image (1,3,H,W), by method, in float64."""
    probe = Probe(session.model.net, image.expand(len(targets), -1, -1, -1), list(targets))
    return {name: protocol.upsample(getattr(methods, name)(probe).detach().double(), session.size) for name in METHODS}


def closest_absent(outputs: Mapping[str, int], logits: Tensor, present: set[str], kind: str) -> str | None:
    """Return the category of a kind that has an output, is not in the image, and has the highest score of such; None without one."""
    absent = [name for name in KINDS[kind] if name in outputs and name not in present]
    return max(absent, key=lambda name: float(logits[outputs[name]])) if absent else None


def _kinds(
    session: Session, image: Tensor, logits: Tensor, outputs: Mapping[str, int], boxes: Mapping[str, Tensor]
) -> Iterator[dict[str, object]]:
    """Yield a row for each ordered pair of kinds, with whether the map of the one's absent category is right."""
    regions = {
        kind: torch.stack(seen).any(0) for kind, names in KINDS.items() if (seen := [boxes[name] for name in names if name in boxes])
    }
    absent = {kind: name for kind in regions if (name := closest_absent(outputs, logits, set(boxes), kind)) is not None}
    if len(absent) < 2:
        return
    maps = maps_of(session, image, [outputs[name] for name in absent.values()])
    for i, kind in enumerate(absent):
        for other in absent:
            own = torch.stack([regions[kind] & ~regions[other], regions[other] & ~regions[kind]])
            if kind == other or not own.any(2).any(1).all():
                continue
            for method in METHODS:
                inside, outside = density(maps[method][[i]], own)[0].tolist()
                yield {"category": absent[kind], "other": other, "method": method, "right": verdict(inside, outside)}


def _persons(
    session: Session, image: Tensor, outputs: Mapping[str, int], boxes: Mapping[str, Tensor], position: int
) -> Iterator[dict[str, object]]:
    """Yield the densities on people of the teddy bear's map and of another absent category's."""
    if PERSON not in boxes or TEDDY in boxes or TEDDY not in outputs:
        return
    absent = [name for name in outputs if name not in boxes and name != TEDDY]
    other = absent[int(np.random.default_rng([SEED, position]).integers(len(absent)))]
    for method, maps in maps_of(session, image, [outputs[TEDDY], outputs[other]]).items():
        teddy, random = density(maps, boxes[PERSON][None])[:, 0].tolist()
        yield {"other": other, "method": method, "teddy": teddy, "random": random}


def _unexpected(
    session: Session, image: Tensor, logits: Tensor, outputs: Mapping[str, int], boxes: Mapping[str, Tensor]
) -> Iterator[dict[str, object]]:
    """Yield the density in its own boxes of each category in the image that is not among the highest outputs."""
    highest = logits.topk(min(TOP, len(logits) - 1)).indices.tolist()
    names = [name for name in boxes if name in outputs and outputs[name] not in highest]
    if not names:
        return
    for method, maps in maps_of(session, image, [outputs[name] for name in names]).items():
        for i, name in enumerate(names):
            yield {"category": name, "method": method, "density": density(maps[[i]], boxes[name][None])[0, 0].item()}


def rows(kinds: pd.DataFrame, persons: pd.DataFrame, unexpected: pd.DataFrame) -> list[Row]:
    """Return the rows of the three tables; controls are not judged."""
    found: list[Row] = []
    central = unexpected[unexpected.method == "centre"].density.to_numpy()
    for method in METHODS:
        judged = method != "centre"
        above = {number: f"> {number}" if judged else "" for number in (0, 1, 50)}
        seen, on_people, own = (table[table.method == method] for table in (kinds, persons, unexpected))
        found.append(CLOSEST.level(f"right kind, %: {method}", seen.right, seen.image.to_numpy(), above[50]))
        people = on_people.image.to_numpy()
        found.append(PERSONS.level(f"density on people, teddy bear: {method}", on_people.teddy, people, above[1]))
        measure = f"density on people, teddy bear less another absent category: {method}"
        found.append(PERSONS.difference(measure, on_people.teddy, on_people.random, people, above[0]))
        images = own.image.to_numpy()
        found.append(UNEXPECTED.level(f"density in its boxes: {method}", own.density, images, above[1]))
        if judged:
            found.append(UNEXPECTED.difference(f"density in its boxes: {method} less centre", own.density, central, images, above[0]))
    return found
