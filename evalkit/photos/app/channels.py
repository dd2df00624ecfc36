"""Responses on the channels of a layer: a grid of all of them, and one over the photograph."""

from typing import Any

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from evalkit.errors import UserError
from evalkit.photos.app.album import png_uri
from evalkit.photos.app.answers import finite
from evalkit.photos.app.explainer import Explainer, View
from evalkit.photos.figures.mosaic import heat_tiles, mosaic
from evalkit.photos.pictures import COLOURS, overlay, to_pil
from evalkit.probe import Probe
from evalkit.protocol import upsample

LARGEST = 56
"""Longest side of a channel's picture in the grid, in pixels; larger maps are averaged."""
COLUMNS = 32
"""Pictures in a row of the image that holds all of them."""


class ChannelRequest(BaseModel):
    """A request to show one channel of a view's layer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    view: View
    number: int


def channels(explainer: Explainer, asked: View) -> dict[str, Any]:
    """Return pictures of all channels of a view's layer in one image, row by row, and by number what each means for the explained class.

    `drops` are those of the class score by ablation, `weights` Grad-CAM's: the mean gradient over the positions; None where the network
    stops gradients. Each channel's colours run from its own least value to its own greatest. Raises UserError.
    """
    probe = explainer.probe(explainer.resolve(asked))
    maps = probe.activations.float().cpu()
    height, width = maps.shape[2:]
    shrink = max(1, max(height, width) / LARGEST)
    if shrink > 1:
        maps = torch.nn.functional.adaptive_avg_pool2d(maps, (max(1, round(height / shrink)), max(1, round(width / shrink))))
    tiles = heat_tiles(maps[0].numpy(), COLOURS)
    weights = _weights(probe)
    return {
        "sprite": png_uri(Image.fromarray(mosaic(tiles, COLUMNS, 0))),
        "columns": min(COLUMNS, len(tiles)),
        "size": [tiles.shape[1], tiles.shape[2]],
        "positions": [height, width],
        "drops": _numbers(probe.drops[0]),
        "weights": None if weights is None else _numbers(weights),
        "means": _numbers(probe.activations[0].mean((1, 2))),
    }


def channel(explainer: Explainer, asked: ChannelRequest) -> dict[str, Any]:
    """Return one channel's map over the photograph in grey. Raises UserError for a channel that the layer does not have."""
    resolved = explainer.resolve(asked.view)
    probe = explainer.probe(resolved)
    count = probe.activations.shape[1]
    if not 0 <= asked.number < count:
        raise UserError(f"layer '{resolved.layer}' has no channel {asked.number}: it has {count}, from 0 to {count - 1}")
    image = probe.images[0].float().cpu()
    wide = upsample(probe.activations[:, asked.number].float(), (image.shape[1], image.shape[2]))[0]
    return {"picture": png_uri(to_pil(overlay(image, wide.cpu())))}


def _weights(probe: Probe) -> Tensor | None:
    try:
        return probe.gradients[0].mean((1, 2))
    except UserError:  # the network stops gradients; drops need none
        return None


def _numbers(values: Tensor) -> list[float | None]:
    return [finite(value) for value in values.double().tolist()]
