"""Responses to the page: plain numbers, names and pictures as data URIs, ready for JSON."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from evalkit.analysis.metrics import increased, relative_drop
from evalkit.config.schema import PointSetting
from evalkit.errors import UserError, printable
from evalkit.photos.app.album import png_uri
from evalkit.photos.app.explainer import Explainer, Network, Shown, View
from evalkit.photos.pictures import overlay, to_pil
from evalkit.protocol import Ranking
from evalkit.scores import confidence_and_logit

TOP = 5


class ExplainRequest(BaseModel):
    """A request to explain a view by methods at a protocol point."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    view: View
    methods: list[str] = Field(max_length=100)
    point: PointSetting
    heat: bool = True
    """Whether to return heat maps too; they do not depend on the point."""


def network(explainer: Explainer, asked: Network) -> dict[str, Any]:
    """Return a network's layers, its classes and the origin of its weights. Raises UserError if it cannot be loaded."""
    session = explainer.session(asked)
    model, classes = session.config.model, session.model.classes
    return {
        "weights": printable(Path(session.model.weights).name),
        "random": session.random_weights,
        "top1": model.expected_top1,
        "raw": model.output == "raw",
        "layer": explainer.layer(asked),
        "layers": [
            {"name": layer.name, "channels": layer.channels, "height": layer.grid.height, "width": layer.grid.width}
            for layer in explainer.layers(asked)
        ],
        "classes": [printable(classes.name(index)) for index in range(classes.outputs)],
    }


def view(explainer: Explainer, asked: View) -> dict[str, Any]:
    """Return the preprocessed photograph, its most likely classes, and the explained one. Raises UserError."""
    resolved = explainer.resolve(asked)
    session, logits = explainer.session(resolved.network), explainer.logits(resolved.network, resolved.photo)
    picture = session.image(explainer.album.picture(resolved.photo))[0]
    top = logits[0].argsort(descending=True, stable=True)[:TOP].tolist()

    def scored(index: int) -> dict[str, Any]:
        confidence, logit = confidence_and_logit(logits, torch.tensor([index], device=logits.device), session.config.model.output)
        name = printable(session.model.classes.name(index))
        shown = None if confidence is None else finite(float(confidence))
        return {"index": index, "name": name, "confidence": shown, "logit": finite(float(logit))}

    return {
        "name": explainer.album[resolved.photo].name,
        "picture": _png(picture),
        "height": picture.shape[1],
        "width": picture.shape[2],
        "layer": resolved.layer,
        "raw": session.config.model.output == "raw",
        "top": [scored(index) for index in top],
        "target": scored(resolved.target),
    }


def explain(explainer: Explainer, request: ExplainRequest) -> dict[str, Any]:
    """Return each method's pictures and scores, or the reason why it has none. Raises UserError."""
    resolved = explainer.resolve(request.view)
    results = explainer.rankings(resolved, request.methods)
    rankings = {name: result for name, result in results.items() if isinstance(result, Ranking)}
    perturbed = explainer.shown(resolved, rankings, request.point)
    probe = explainer.probe(resolved)
    before = confidence_and_logit(probe.logits, probe.targets, explainer.at(resolved.network, resolved.layer).config.model.output)
    methods: dict[str, Any] = {name: {"error": printable(str(error))} for name, error in results.items() if name not in rankings}
    for name, ranking in rankings.items():
        methods[name] = _scores(perturbed[name], None if before[0] is None else float(before[0]), float(before[1])) | {
            "picture": _png(perturbed[name].image)
        }
        methods[name]["constant"] = bool(ranking.maps.amax() == ranking.maps.amin())
        if request.heat:
            methods[name]["heat"] = _png(overlay(probe.images[0].float().cpu(), ranking.maps[0].cpu()))
    return {"methods": {name: methods[name] for name in request.methods}, "pixels": probe.images[0, 0].numel()}


def figure(explainer: Explainer, request: ExplainRequest) -> bytes:
    """Draw the picture of `evalkit explain`, as PNG. Raises UserError if no method has a map."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - takes a second, needed only for figures

    from evalkit.photos.explain import draw  # noqa: PLC0415

    resolved = explainer.resolve(request.view)
    results = explainer.rankings(resolved, request.methods)
    maps = {name: result.maps for name, result in results.items() if isinstance(result, Ranking)}
    if not maps:
        raise UserError("none of the ticked methods has a map: there is nothing to draw")
    session, probe = explainer.at(resolved.network, resolved.layer), explainer.probe(resolved)
    points = {"select": [], "top_percent": [], "fill": [], "points": [request.point]}
    target = "predicted" if resolved.target == int(probe.logits.argmax()) else resolved.target
    update = {"protocol": session.config.protocol.model_copy(update=points), "target": target}
    drawn = draw(session.config.model_copy(update=update), session.model, probe, maps)
    file = io.BytesIO()
    drawn.savefig(file, dpi=120, format="png")
    plt.close(drawn)
    return file.getvalue()


def _scores(shown: Shown, confidence: float | None, logit: float) -> dict[str, Any]:
    raw = confidence is None or shown.confidence is None
    changed = None if confidence is None or shown.confidence is None else _change(confidence, shown.confidence)
    return {"kept": shown.kept, "confidence": changed, "logit": _change(logit, shown.logit, raw=raw)}


def _change(before: float, after: float, *, raw: bool = False) -> dict[str, Any]:
    """Return both values, and the drop as the paper defines it for one image (eq. 5), in %."""
    full, masked = np.array([before]), np.array([after])
    drop = float(relative_drop(full, masked, raw=raw)[0])
    return {"before": finite(before), "after": finite(after), "drop": finite(drop), "increased": bool(increased(full, masked)[0])}


def finite(value: float) -> float | None:
    """Return None for nan and infinity, which JSON does not have."""
    return value if math.isfinite(value) else None


def _png(image: Tensor) -> str:
    return png_uri(to_pil(image.float().cpu()))
