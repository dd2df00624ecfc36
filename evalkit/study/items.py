"""Blinded items of a study: each with its data for the raters' page and its record for the key."""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch.nn.functional as F
from torch import Tensor

from evalkit.analysis.load import ITEM
from evalkit.data.decode import UnreadableImage
from evalkit.errors import UserError, printable
from evalkit.photos.pictures import heat, overlay, webp_uri
from evalkit.photos.run_images import RunImages
from evalkit.study.records import Design, Question
from evalkit.study.wording import WORDING

SIDE = 320
"""Longer side of every picture in pixels: the same for all, so that the size does not reveal the network."""
CAP = 0.99
"""Quantile of the positive values at which maps shown alone saturate, since a few high pixels would leave the others black
(SmoothGrad, Smilkov et al., 2017, uses the same quantile)."""

Blinded = tuple[dict[str, Any], Question]
"""An item for the page, without an id, and the same item for the key."""


def better(photographs: RunImages, chosen: pd.DataFrame, methods: Sequence[str]) -> Iterator[Blinded]:
    """Yield two methods' maps over one photograph (section 6.3)."""
    for row in chosen.itertuples():
        options = _ids(methods)
        image = _image(photographs, row.index)
        maps = [overlay(image, photographs.map(method, row.index, row.target)) for method in methods]
        yield _compared("better", row, image, options, maps), _item(row, options)


def trust(shown: Sequence[RunImages], chosen: pd.DataFrame, method: str, models: Sequence[str]) -> Iterator[Blinded]:
    """Yield one method's maps of two networks, each over the photograph as its network saw it (section 6.4)."""
    for row in chosen.itertuples():
        options = _ids(models)
        images = [_image(photographs, row.index) for photographs in shown]
        targets = (row.target, row.second_target)
        maps = [overlay(image, of.map(method, row.index, target)) for image, of, target in zip(images, shown, targets, strict=True)]
        # The networks may crop differently: always showing the crop of the same one would reveal it.
        yield _compared("trust", row, secrets.choice(images), options, maps), _item(row, options)


def which(photographs: RunImages, chosen: pd.DataFrame, methods: Sequence[str]) -> Iterator[Blinded]:
    """Yield each method's map of each of an image's two categories, beside the photograph (section 6.5, figure 7)."""
    measured = photographs.run.maps.dropna(subset="target").set_index([*ITEM, "method"]).sort_index()
    fine = _at_pixels(photographs, chosen, methods)
    for _, pair in chosen.groupby("index"):
        for row in pair.itertuples():
            for method in methods:
                image, values = _image(photographs, row.index), photographs.map(method, row.index, row.target)
                picture = _alone(values) if fine else overlay(image, values)
                options = _ids(pair.target_name)
                choices = [{"id": name, "name": printable(options[name])} for name in sorted(options)]
                energies = measured.loc[(row.index, row.target, method), ["energy_inside", "energy_others"]].astype(float)
                inside, others = (None if np.isnan(energy) else float(energy) for energy in energies)
                question = {"question": WORDING["which"].question, "photograph": _uri(image), "picture": _uri(picture), "options": choices}
                yield question, _item(row, options, method=method, energy_inside=inside, energy_others=others)


def drawn(made: Iterable[Blinded]) -> dict[str, Blinded]:
    """Return the items by random ids, in the order of the ids."""
    return dict(sorted((secrets.token_hex(8), blinded) for blinded in made))


def _ids(meanings: Iterable[str]) -> dict[str, str]:
    """Return the meanings by random ids, whose order says nothing about that of the meanings."""
    return {secrets.token_hex(8): meaning for meaning in meanings}


def _at_pixels(photographs: RunImages, chosen: pd.DataFrame, methods: Sequence[str]) -> bool:
    """Return whether all maps have the resolution of the photograph, as guided ones do.

    Such maps show contours without the photograph; coarse maps need it below them.
    """
    size = photographs.image(int(chosen["index"].iloc[0])).shape[1:]
    maps = photographs.run.maps[photographs.run.maps.method.isin(methods) & photographs.run.maps.target.notna()]
    return bool(((maps.height == size[0]) & (maps.width == size[1])).all())


def _alone(values: Tensor) -> Tensor:
    """Draw a map (H,W) in shades of grey (3,H,W), white where it is highest, black where it is not positive."""
    positive = values[values > 0]
    return heat(values.clamp(0, float(positive.quantile(CAP)) if len(positive) else 0), "gray")


def _image(photographs: RunImages, index: int) -> Tensor:
    try:
        return photographs.image(index)
    except UnreadableImage as reason:
        raise UserError(f"{photographs.source.image_id(index)} cannot be read any more: {reason}") from reason


def _compared(design: Design, row: Any, image: Tensor, options: dict[str, str], maps: Sequence[Tensor]) -> dict[str, Any]:
    by_id = dict(zip(options, maps, strict=True))
    return {
        "question": WORDING[design].question.format(name=printable(row.target_name)),
        "photograph": _uri(image),
        "options": [{"id": name, "picture": _uri(by_id[name])} for name in sorted(by_id)],
    }


def _item(row: Any, options: dict[str, str], **details: Any) -> Question:
    return Question(index=row.index, image_id=row.image_id, target=row.target, target_name=row.target_name, options=options, **details)


def _uri(picture: Tensor) -> str:
    """Return a picture (channels,H,W) as a data URI, resized to SIDE pixels at its longer side."""
    height, width = picture.shape[1:]
    scale = SIDE / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return webp_uri(F.interpolate(picture[None], size=size, mode="bilinear", antialias=True)[0], SIDE)
