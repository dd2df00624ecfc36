"""What the page offers to choose from: every network and method that its names alone can open."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from evalkit.config.choices import choices, method_entry
from evalkit.config.compose import compose_jobs
from evalkit.config.schema import RunConfig
from evalkit.data.sources import choose
from evalkit.errors import UserError, did_you_mean
from evalkit.evaluation.apply import Method, load_methods
from evalkit.evaluation.session import load_source
from evalkit.models.settings import ModelConfig
from evalkit.photos.app.album import Album

SAMPLES = 24
"""Of the data set, where the overrides do not say how many."""
CHOSEN = "method=[ablation_cam,grad_cam,random]"
"""Ticked first, where the overrides do not say which: a control beside two methods."""
PEERS = "evalkit.methods.peers."
"""Other people's code, each asking for the name of a class: on offer where the overrides name one."""
FAMILIES = {
    "evalkit.methods.weighted": "Class activation maps",
    "evalkit.methods.local": "Class activation maps",
    "evalkit.methods.pixel": "Pixel by pixel",
    "evalkit.methods.controls": "Controls: they know nothing of the network",
}
"""By the module of a method's function; all others are the user's own."""


@dataclass(frozen=True)
class MethodOnOffer:
    """A method as the page shows it."""

    name: str
    family: str
    about: str
    chosen: bool
    """Whether it is ticked at first."""


@dataclass(frozen=True)
class Offer:
    """The configuration of the command line, and what else can be chosen."""

    config: RunConfig
    """Its methods are all that are on offer."""
    chosen: tuple[str, ...]
    """The methods that the command line names."""
    conf: Path | None

    @property
    def target(self) -> int | str | None:
        """The class that is explained first; None is the predicted one."""
        given = self.config.target
        first = given[0] if isinstance(given, list) else given
        return None if first == "predicted" else first

    @property
    def models(self) -> list[str]:
        """Names of networks: the command line's first."""
        others = [name for name in choices("model", self.conf) if name not in ("custom", self.config.model.name)]
        return [self.config.model.name, *others]

    def model(self, name: str, *, random: bool = False) -> RunConfig:
        """The configuration for a network on offer, or for the same with random weights. Raises UserError for any other name."""
        if name not in self.models:
            raise UserError(f"no network '{name}' on offer{did_you_mean(name, self.models)}")
        model, target = self.config.model, self.config.target
        if name != model.name:
            model, target = _model(name, self.conf), "predicted"
        if random:
            model = model.model_copy(update={"weights": None})
        return self.config.model_copy(update={"model": model, "target": target})

    def methods(self) -> list[MethodOnOffer]:
        """All methods, family by family."""
        loaded = load_methods(self.config.method)
        families = list(dict.fromkeys([*FAMILIES.values(), "Yours"]))
        found = [MethodOnOffer(name, _family(loaded[name]), _about(name, self.conf), name in self.chosen) for name in self.config.method]
        return sorted(found, key=lambda method: families.index(method.family))


def open_offer(overrides: Sequence[str], conf: Path | None) -> Offer:
    """Compose the configuration of a command line. Raises UserError."""
    given = list(overrides)
    if not any(override.startswith(("method=", "experiment=")) for override in given):
        given.append(CHOSEN)
    config = compose_jobs(given, conf=conf)[0].config
    if config.target == "label":
        raise UserError("photographs have no labels: use target=predicted, or a class by index or name")
    further = [name for name in choices("method", conf) if name not in config.method and _stands_alone(name, conf)]
    settings = compose_jobs([f"method=[{','.join(further)}]"], conf=conf)[0].config.method if further else {}
    return Offer(config.model_copy(update={"method": {**config.method, **settings}}), tuple(config.method), conf)


def open_album(config: RunConfig) -> Album:
    """Samples of the configuration's data set, of all classes unless it says which. Raises UserError."""
    source = load_source(config.data)
    if getattr(source, "streamed", False):  # to know its classes would be to read it
        return Album(source, choose(source, limit=config.limit or SAMPLES, sample=None, seed=config.seed))
    positions = choose(source, limit=config.limit, sample=config.sample or (None if config.limit else SAMPLES), seed=config.seed)
    return Album(source, positions, len(source) - len(positions))


def _model(name: str, conf: Path | None) -> ModelConfig:
    return compose_jobs([f"model={name}"], conf=conf)[0].config.model


def _stands_alone(name: str, conf: Path | None) -> bool:
    settings, _ = method_entry(name, conf)
    return "???" not in settings.values() and not str(settings.get("_target_")).startswith(PEERS)


def _family(method: Method) -> str:
    function = method.func if isinstance(method, partial) else method
    return FAMILIES.get(str(getattr(function, "__module__", "")), "Yours")


def _about(name: str, conf: Path | None) -> str:
    """What its yaml file says first; an override has none."""
    return method_entry(name, conf)[1] if name in choices("method", conf) else ""
