"""What the page is told: plain numbers, names and pictures as addresses, ready for JSON."""

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
    """Which methods explain a view, under which protocol point."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    view: View
    methods: list[str] = Field(max_length=100)
    point: PointSetting
    heat: bool = True
    """Whether the heat maps are wanted too: they do not change with the point."""


def network(explainer: Explainer, asked: Network) -> dict[str, Any]:
    """Its layers, its classes and where its weights come from. Raises UserError where it cannot be had."""
    session = explainer.session(asked)
    model, classes = session.config.model, session.model.classes
    return {
        "weights": printable(Path(session.model.weights).name),
        "random": session.random_weights,
        "top1": model.expected_top1,
        "layer": model.layer,
        "layers": [{key: getattr(layer, key) for key in ("name", "channels", "height", "width")} for layer in explainer.layers(asked)],
        "classes": [printable(classes.name(index)) for index in range(classes.outputs)],
    }


def view(explainer: Explainer, asked: View) -> dict[str, Any]:
    """The photograph as the network sees it, its likeliest classes, and the one that is explained. Raises UserError."""
    subject = explainer.subject(asked)
    session, logits = explainer.session(subject.network), explainer.logits(subject.network, subject.photo)
    picture = session.image(explainer.album.picture(subject.photo))[0]
    top = logits[0].argsort(descending=True, stable=True)[:TOP].tolist()

    def scored(index: int) -> dict[str, Any]:
        confidence, logit = confidence_and_logit(logits, torch.tensor([index], device=logits.device), session.config.model.output)
        name = printable(session.model.classes.name(index))
        return {"index": index, "name": name, "confidence": _finite(float(confidence)), "logit": _finite(float(logit))}

    return {
        "name": explainer.album[subject.photo].name,
        "picture": _png(picture),
        "height": picture.shape[1],
        "width": picture.shape[2],
        "layer": subject.layer,
        "top": [scored(index) for index in top],
        "target": scored(subject.target),
    }


def explain(explainer: Explainer, request: ExplainRequest) -> dict[str, Any]:
    """For each method its pictures and scores, or why it has none. Raises UserError."""
    subject = explainer.subject(request.view)
    rankings = explainer.rankings(subject, request.methods)
    served = {name: found for name, found in rankings.items() if isinstance(found, Ranking)}
    shown = explainer.shown(subject, served, request.point)
    probe = explainer.probe(subject)
    before = confidence_and_logit(probe.logits, probe.targets, explainer.at(subject.network, subject.layer).config.model.output)
    found: dict[str, Any] = {name: {"error": printable(str(mistake))} for name, mistake in rankings.items() if name not in served}
    for name, ranking in served.items():
        found[name] = _scores(shown[name], float(before[0]), float(before[1])) | {"picture": _png(shown[name].image)}
        found[name]["constant"] = bool(ranking.maps.amax() == ranking.maps.amin())
        if request.heat:
            found[name]["heat"] = _png(overlay(probe.images[0].float().cpu(), ranking.maps[0].cpu()))
    return {"methods": {name: found[name] for name in request.methods}, "pixels": probe.images[0, 0].numel()}


def figure(explainer: Explainer, request: ExplainRequest) -> bytes:
    """The picture that `evalkit explain` draws, as PNG. Raises UserError where no method has a map."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - a second that a page without figures need not wait

    from evalkit.photos.explain import draw  # noqa: PLC0415

    subject = explainer.subject(request.view)
    rankings = explainer.rankings(subject, request.methods)
    maps = {name: found.maps for name, found in rankings.items() if isinstance(found, Ranking)}
    if not maps:
        raise UserError("none of the ticked methods has a map: there is nothing to draw")
    session, probe = explainer.at(subject.network, subject.layer), explainer.probe(subject)
    points = {"select": [], "top_percent": [], "fill": [], "points": [request.point]}
    target = "predicted" if subject.target == int(probe.logits.argmax()) else subject.target
    update = {"protocol": session.config.protocol.model_copy(update=points), "target": target}
    drawn = draw(session.config.model_copy(update=update), session.model, probe, maps)
    file = io.BytesIO()
    drawn.savefig(file, dpi=120, format="png")
    plt.close(drawn)
    return file.getvalue()


def _scores(shown: Shown, confidence: float, logit: float) -> dict[str, Any]:
    pairs = {"confidence": (confidence, shown.confidence), "logit": (logit, shown.logit)}
    return {"kept": shown.kept, **{score: _change(*pair) for score, pair in pairs.items()}}


def _change(before: float, after: float) -> dict[str, Any]:
    """Before, after, and the drop as the paper defines it for one image (eq. 5), in %."""
    full, masked = np.array([before]), np.array([after])
    drop = float(relative_drop(full, masked)[0])
    return {"before": _finite(before), "after": _finite(after), "drop": _finite(drop), "increased": bool(increased(full, masked)[0])}


def _finite(value: float) -> float | None:
    """JSON has no nan."""
    return value if math.isfinite(value) else None


def _png(image: Tensor) -> str:
    return png_uri(to_pil(image.float().cpu()))
