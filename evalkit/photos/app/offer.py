"""What the page offers: networks and methods that need no settings besides their names, and sample photographs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from evalkit.config.choices import choices, function_entry
from evalkit.config.compose import compose_jobs
from evalkit.config.schema import RunConfig
from evalkit.data.sources import choose
from evalkit.errors import UserError, did_you_mean
from evalkit.evaluation.apply import Method, load_methods
from evalkit.evaluation.session import data_size, load_source
from evalkit.photos.app.album import Album

SAMPLES = 24
"""Number of samples of the data set, unless the overrides set it."""
CHOSEN = "method=[ablation_cam,grad_cam,random]"
"""Methods that are ticked first, unless the overrides name some: two methods and a control."""
PEERS = "evalkit.methods.peers."
"""Methods of other libraries. Each needs the name of a class, so it is on offer only if the overrides name it."""
FAMILIES = {
    "evalkit.methods.weighted": "Class activation maps",
    "evalkit.methods.local": "Class activation maps",
    "evalkit.methods.pixel": "Pixel by pixel",
    "evalkit.methods.controls": "Controls: independent of the network",
}
"""Headings by the module of a method's function; all other methods are the user's own."""


@dataclass(frozen=True)
class MethodOnOffer:
    """A method as the page lists it."""

    name: str
    family: str
    about: str
    chosen: bool
    """Whether it is ticked at first."""


@dataclass(frozen=True)
class Offer:
    """The configuration of the command line, and what else can be chosen."""

    config: RunConfig
    """Configuration with all methods on offer."""
    chosen: tuple[str, ...]
    """The methods that the command line names."""
    conf: Path | None

    @property
    def target(self) -> int | str | None:
        """The class that is explained first; None for the predicted one."""
        target = self.config.target
        first = target[0] if isinstance(target, list) else target
        return None if first == "predicted" else first

    @property
    def models(self) -> list[str]:
        """Names of networks on offer, the command line's first."""
        others = [name for name in choices("model", self.conf) if name not in ("custom", self.config.model.name)]
        return [self.config.model.name, *others]

    def model(self, name: str, *, random: bool = False) -> RunConfig:
        """Return the configuration of a network on offer, or of the same with random weights. Raises UserError for any other name."""
        if name not in self.models:
            raise UserError(f"no network '{name}' on offer{did_you_mean(name, self.models)}")
        model, target = self.config.model, self.config.target
        if name != model.name:
            model, target = compose_jobs([f"model={name}"], conf=self.conf)[0].config.model, "predicted"
        model.only_layer("the page, which offers each layer by itself,")
        if random:
            model = model.model_copy(update={"weights": None})
        return self.config.model_copy(update={"model": model, "target": target})

    def methods(self) -> list[MethodOnOffer]:
        """List all methods on offer, family by family."""
        loaded = load_methods(self.config.method)
        families = list(dict.fromkeys([*FAMILIES.values(), "Yours"]))
        offered = [MethodOnOffer(name, _family(loaded[name]), _about(name, self.conf), name in self.chosen) for name in self.config.method]
        return sorted(offered, key=lambda method: families.index(method.family))


def open_offer(overrides: Sequence[str], conf: Path | None) -> Offer:
    """Compose the configuration of a command line. Raises UserError."""
    named = any(override.startswith(("method=", "experiment=")) for override in overrides)
    config = compose_jobs([*overrides, *([] if named else [CHOSEN])], conf=conf, size=data_size)[0].config
    if config.target == "label":
        raise UserError("photographs have no labels: use target=predicted, or a class by index or name")
    further = [name for name in choices("method", conf) if name not in config.method and _stands_alone(name, conf)]
    settings = compose_jobs([f"method=[{','.join(further)}]"], conf=conf)[0].config.method if further else {}
    return Offer(config.model_copy(update={"method": {**config.method, **settings}}), tuple(config.method), conf)


def open_album(config: RunConfig) -> Album:
    """Open samples of the configuration's data set, of all classes unless it sets a limit. Raises UserError."""
    source = load_source(config.data)
    if getattr(source, "streamed", False):  # its classes are known only after reading it
        return Album(source, choose(source, limit=config.limit or SAMPLES, sample=None, seed=config.seed))
    positions = choose(source, limit=config.limit, sample=config.sample or (None if config.limit else SAMPLES), seed=config.seed)
    return Album(source, positions, len(source) - len(positions))


def _stands_alone(name: str, conf: Path | None) -> bool:
    settings, _ = function_entry("method", name, conf)
    return "???" not in settings.values() and not str(settings.get("_target_")).startswith(PEERS)


def _family(method: Method) -> str:
    function = method.func if isinstance(method, partial) else method
    return FAMILIES.get(str(getattr(function, "__module__", "")), "Yours")


def _about(name: str, conf: Path | None) -> str:
    """Return the description in a method's yaml file; a method from an override has none."""
    return function_entry("method", name, conf)[1] if name in choices("method", conf) else ""
