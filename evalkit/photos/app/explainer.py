"""Networks, maps and scores for the page, in caches of limited size. Not thread-safe."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from evalkit import protocol
from evalkit.config.schema import ClassChoice
from evalkit.data.decode import extent
from evalkit.errors import UserError, did_you_mean, first_line
from evalkit.models import zoo
from evalkit.models.failing import Failed
from evalkit.models.layers import Layer, explainable
from evalkit.models.settings import ModelConfig
from evalkit.photos.app.album import Album
from evalkit.photos.app.offer import Offer
from evalkit.photos.session import PhotoSession, open_photo_session, taken_as_they_are
from evalkit.point import Point
from evalkit.probe import Probe
from evalkit.protocol import Ranking
from evalkit.scores import confidence_and_logit

NETWORKS, PROBES, LOGITS, RANKINGS = 2, 4, 16, 64
"""Sizes of the caches: VGG16 has half a gigabyte of weights, a ranking of 299x299 pixels two megabytes."""
MOST_PIXELS = 4_000_000
"""Largest number of pixels of an image for a network that takes images in their own size."""


class Network(BaseModel):
    """A network on offer, by its name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    random: bool = False
    """Whether its weights are random, because its trained ones are not available."""


class View(Network):
    """A class of a photograph to explain, at a layer of a network."""

    photo: str
    layer: str | None = None
    """None is the network's configured layer."""
    target: ClassChoice | None = None
    """None is the predicted class."""


@dataclass(frozen=True)
class ResolvedView:
    """A view with its default layer and target filled in."""

    network: Network
    photo: str
    layer: str
    target: int


@dataclass(frozen=True)
class Shown:
    """A photograph perturbed at a protocol point by a method's map, and the explained class's scores on it."""

    image: Tensor
    """Perturbed image (channels,H,W) in [0,1]."""
    kept: int | None
    """Number of kept pixels; None for a soft mask."""
    confidence: float | None
    """None for model.output=raw."""
    logit: float


class Explainer:
    """Explanations of the photographs of an album by the networks and methods on offer."""

    def __init__(self, offer: Offer, album: Album) -> None:
        self.offer, self.album = offer, album
        self.session = lru_cache(maxsize=NETWORKS)(self._session)
        self.layers = lru_cache(maxsize=NETWORKS)(self._layers)
        self.at = lru_cache(maxsize=NETWORKS)(self._at)
        self.logits = lru_cache(maxsize=LOGITS)(self._logits)
        self.probe = lru_cache(maxsize=PROBES)(self._probe)
        self.ranking = lru_cache(maxsize=RANKINGS)(self._ranking)

    def _session(self, network: Network) -> PhotoSession:
        """Load a network with all methods. Raises UserError if it or its weights are not available."""
        config = self.offer.model(network.model, random=network.random)
        return open_photo_session(config, self._size(config.model))

    def _size(self, model: ModelConfig) -> tuple[int, int]:
        """Return height and width of a network's images; if it takes them in their own size, of the first sample."""
        if not taken_as_they_are(model):
            return zoo.input_size(model)
        return extent(self.album.picture(next(iter(self.album.samples))))

    def layer(self, network: Network) -> str:
        """Return the configured layer of a network."""
        return self.session(network).config.model.only_layer("the page")

    def _layers(self, network: Network) -> list[Layer]:
        """List the layers through which all data pass, in the order of computation, and the configured one in any case."""
        session = self.session(network)
        model, net, configured = session.config.model, session.model.net, self.layer(network)
        images = torch.rand(2, model.channels, *self._size(model), device=session.device, dtype=net.dtype)
        layers = explainable(net.module, images, net.readout)
        return [layer for layer in layers if layer.separates != "no" or layer.name == configured]

    def _at(self, network: Network, layer: str) -> PhotoSession:
        """Return the session with the network cut at another layer. Raises UserError if the layer cannot be explained."""
        session = self.session(network)
        model = session.config.model
        if layer == self.layer(network):
            return session
        known = [one.name for one in self.layers(network)]
        if layer not in known:
            raise UserError(f"layer '{layer}' of {model.name} cannot be explained{did_you_mean(layer, known)}")
        net = zoo.cut(session.model.net.module, model, layer)
        net.autocast = session.model.net.autocast
        config = session.config.model_copy(update={"model": model.model_copy(update={"layer": layer})})
        return replace(session, config=config, model=replace(session.model, nets=[net]))

    def _logits(self, network: Network, photo: str) -> Tensor:
        """Compute the class scores of a photograph (1,C). Raises UserError if the network cannot process it."""
        session = self.session(network)
        picture = self.album.picture(photo)
        height, width = extent(picture)
        if taken_as_they_are(session.config.model) and width * height > MOST_PIXELS:
            raise UserError(f"{width} x {height} pixels are too many for {network.model}, which takes images as they are (model.resize)")
        try:
            return session.model.net(session.image(picture))
        except Failed as failed:  # such as a fully connected layer for images of another size; the hints there are for settings
            reason = first_line(failed.__cause__ or failed)
            raise UserError(f"{network.model} cannot process an image of {width} x {height} pixels: {reason}") from failed

    def resolve(self, view: View) -> ResolvedView:
        """Fill in default layer and target. Raises UserError for a class that the network does not have."""
        network = Network(model=view.model, random=view.random)
        session = self.session(network)
        predicted = int(self.logits(network, view.photo).argmax())
        target = predicted if view.target is None else session.model.classes.output(view.target)
        return ResolvedView(network, view.photo, view.layer or self.layer(network), target)

    def _probe(self, view: ResolvedView) -> Probe:
        return self.at(view.network, view.layer).probe(self.album.picture(view.photo), view.target)

    def _ranking(self, view: ResolvedView, method: str) -> Ranking | UserError:
        """Rank the pixels of a method's map (1,H,W). An error is returned, not raised, so that it is cached too."""
        session, probe = self.at(view.network, view.layer), self.probe(view)
        try:
            saliency = session.map(method, probe)
        except UserError as error:
            if probe.written(by_value=True):
                self.forget()
            return UserError(str(error))  # without its traceback, which would keep the probe alive
        return Ranking(saliency) if bool(saliency.isfinite().all()) else UserError("the map is not finite: it explains nothing")

    def forget(self) -> None:
        """Clear the cached networks and probes, after a user's method has changed data that they share."""
        for cache in (self.session, self.at, self.logits, self.probe):
            cache.cache_clear()

    def rankings(self, view: ResolvedView, methods: Sequence[str]) -> dict[str, Ranking | UserError]:
        """Return each method's ranking, or its error. Raises UserError for a method that is not on offer."""
        unknown = [name for name in methods if name not in self.offer.config.method]
        if unknown:
            raise UserError(f"no method '{unknown[0]}' on offer{did_you_mean(unknown[0], self.offer.config.method)}")
        return {name: self.ranking(view, name) for name in methods}

    def shown(self, view: ResolvedView, rankings: dict[str, Ranking], point: Point) -> dict[str, Shown]:
        """Perturb the photograph at a protocol point by each ranking and score the results: one forward pass each, in batches."""
        if not rankings:
            return {}
        session, probe = self.at(view.network, view.layer), self.probe(view)
        fills = protocol.Fills(probe.images, session.model.net.mean, session.model.net.std, probe.indices)
        masks = [protocol.kept(point, ranking)[0] for ranking in rankings.values()]
        images = torch.cat([protocol.perturb(probe.images, mask, fills(point.fill, mask)) for mask in masks])
        logits = torch.cat([session.model.net(batch) for batch in images.split(session.config.batch_size)])
        confidence, logit = confidence_and_logit(logits, probe.targets.expand(len(images)), session.config.model.output)
        counts = [int(mask.sum()) if mask.dtype == torch.bool else None for mask in masks]
        confidences = [None] * len(images) if confidence is None else confidence.tolist()
        rows = zip(rankings, images, counts, confidences, logit.tolist(), strict=True)
        return {name: Shown(*row) for name, *row in rows}
