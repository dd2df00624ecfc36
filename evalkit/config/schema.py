"""The typed and validated configuration of a run, which `evalkit.config.compose` composes from yaml files and overrides."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError
from upath import UPath

from evalkit.config.sentences import shown
from evalkit.control_names import under
from evalkit.errors import did_you_mean
from evalkit.files import Place, place
from evalkit.layer_names import at
from evalkit.models.settings import ModelConfig, Positive, Settings, Text
from evalkit.point import ROAD_SOFT, Fill, Percent, Point, Select
from evalkit.until import SHARD_SIZE, Metric, Question, pair_of, point_of


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _as_place(value: Any) -> Place:
    """Make a path; a number is a name too, since files of earlier versions hold `out: 2026` as one."""
    if value == "" or not isinstance(value, str | Path | UPath | int | float):
        raise PydanticCustomError("place", "no path")
    return place(str(value) if isinstance(value, int | float) else value)


Whole = Annotated[int, Field(ge=0, strict=True)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
ClassChoice = Whole | Text
Measure = Literal["coherency", "single_deletion", "stability", "randomisation"]
Once = AfterValidator(lambda values: list(dict.fromkeys(values)))
"""Removes repeated entries: a repeated protocol point would repeat its rows."""


def _without_threshold(value: Any) -> Any:
    """Set `top_percent` to None where a point leaves it out, as "soft" points do."""
    return {"top_percent": None, **value} if isinstance(value, dict) else value


def _consistent(point: Point) -> Point:
    if (point.top_percent is None) != (point.select == "soft"):
        raise ValueError(f"a point that selects {point.select} {'takes no' if point.select == 'soft' else 'needs a'} top_percent")
    if point.select == "soft" and point.fill == "road":
        raise ValueError(ROAD_SOFT)
    return point


PointSetting = Annotated[Point, BeforeValidator(_without_threshold), AfterValidator(_consistent)]
"""A protocol point as written in yaml."""


class ProtocolConfig(Settings):
    """conf/protocol: each combination of `select`, `top_percent` and `fill` is one protocol point, or `points` lists the points."""

    select: Annotated[list[Select], BeforeValidator(_as_list), Once]
    top_percent: Annotated[list[Percent], BeforeValidator(_as_list), Once]
    fill: Annotated[list[Fill], BeforeValidator(_as_list), Once]
    points: Annotated[list[PointSetting], Once] = Field(description="a list of points", examples=["[{select: soft, fill: black}]"])

    @model_validator(mode="after")
    def _one_way(self) -> "ProtocolConfig":
        combined = [name for name in ("select", "top_percent", "fill") if getattr(self, name)]
        if self.points and combined:
            empty = " ".join(f"protocol.{name}=[]" for name in combined)
            raise ValueError(f"points already names every point: add {empty}, or set protocol.points=[]")
        if not self.points and len(combined) < 3:
            empty = next(name for name in ("select", "top_percent", "fill") if name not in combined)
            raise ValueError(f"protocol.{empty} is empty: a protocol needs select, top_percent and fill, or points")
        if "soft" in self.select and "road" in self.fill:
            raise ValueError(ROAD_SOFT)
        return self

    def all_points(self) -> list[Point]:
        """Return the listed points, else all combinations; "soft" has no threshold, so it appears once per fill."""
        if self.points:
            return list(self.points)
        return [Point(s, x, f) for s in self.select for x in ([None] if s == "soft" else self.top_percent) for f in self.fill]


class SingleDeletion(Settings):
    """Settings of measures=[single_deletion], see `evalkit.evaluation.single_deletion`; the defaults are the paper's."""

    grid: Annotated[int, Field(ge=2, strict=True)] = 4
    fill: Literal["black", "mean", "blur"] = "mean"
    score: Literal["logit", "confidence"] = "logit"


class Stability(Settings):
    """Settings of measures=[stability], see `evalkit.evaluation.stability`."""

    copies: Positive = 10
    radius: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.02


class Randomisation(Settings):
    """Settings of measures=[randomisation], see `evalkit.evaluation.randomised`."""

    draws: Positive = 1


class LocalLauncher(Settings):
    """Settings of conf/launcher/local.yaml."""

    name: Literal["local"]


class RayLauncher(Settings):
    """Settings of conf/launcher/ray.yaml."""

    name: Literal["ray"]
    address: Text | None
    num_cpus: Amount
    num_gpus: Amount | Literal["auto"]
    max_retries: Annotated[int, Field(ge=-1, strict=True)]


class SlurmLauncher(Settings):
    """Settings of conf/launcher/slurm.yaml."""

    name: Literal["slurm"]
    tasks: Positive
    logs: Text
    wait: bool
    cluster: Literal["slurm", "local"]
    parameters: dict[str, Any]


def _device(name: str) -> str:
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", name) is None:
        raise ValueError("should be auto, cpu, cuda or one GPU as in cuda:1")
    return name


class RunConfig(Settings):
    """The configuration of one run."""

    model: ModelConfig
    data: dict[str, Any]
    method: dict[str, dict[str, Any]] = Field(default_factory=dict)
    control: dict[str, dict[str, Any]] = Field(default_factory=dict)
    control_of: Annotated[list[Text], BeforeValidator(_as_list), Once] | None = None
    protocol: ProtocolConfig
    target: ClassChoice | Annotated[list[ClassChoice], Field(min_length=1)] = Field(
        description="predicted, label, a class by index or name, or a list of classes"
    )
    images: Literal["all", "correct"]
    sample: Positive | None
    limit: Positive | None
    seed: Whole
    until: Text | None = None
    until_metric: Metric = "average_drop"
    until_point: PointSetting | None = Field(default=None, description="a point", examples=["{select: soft, fill: black}"])
    until_from: Annotated[Place | None, PlainValidator(lambda value: None if value is None else _as_place(value))] = Field(
        default=None, description="the folder of a run with until that has ended, or null"
    )
    out: Annotated[Place, PlainValidator(_as_place)] = Field(description="a folder", examples=["results/mine"])
    batch_size: Positive
    shard_size: Positive | Literal["auto"]
    device: Annotated[str, AfterValidator(_device)]
    devices: Positive | Literal["auto"]
    launcher: Annotated[LocalLauncher | RayLauncher | SlurmLauncher, Field(discriminator="name")]
    precision: Literal["fp32", "tf32", "bf16"]
    decode: Literal["pil", "gpu"]
    workers: Whole
    maps: Literal["store", "none"]
    maps_from: Annotated[Place | None, PlainValidator(lambda value: None if value is None else _as_place(value))] = Field(
        default=None, description="the folder of a run with maps=store, or null"
    )
    measures: Annotated[list[Measure], BeforeValidator(_as_list), Once]
    single_deletion: SingleDeletion = Field(default_factory=SingleDeletion)
    stability: Stability = Field(default_factory=Stability)
    randomisation: Randomisation = Field(default_factory=Randomisation)

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        if self.sample is not None and self.limit is not None:
            raise ValueError("sample=N and limit=N exclude each other")
        if "single_deletion" in self.measures and self.single_deletion.score == "confidence" and self.model.output == "raw":
            raise ValueError("model.output=raw has no confidence: set single_deletion.score=logit")
        if self.out == Path():
            raise ValueError("out is the current folder: name one of its own, as in out=results/mine")
        if not self.method:
            raise ValueError("no method chosen: method=[grad_cam,ablation_cam]")
        if self.until is not None and self.model.output == "raw":
            raise ValueError("until needs scores with bounds, which model.output=raw has not: leave until out, and set sample=N")
        if self.until_from is not None and self.until is None:
            raise ValueError("until_from names a run whose end is shared, and needs its until")
        named = [(f"{group}.{name}", one) for group in ("method", "control") for name, one in getattr(self, group).items()]
        for name, settings in (("data", self.data), *named):
            if not isinstance(settings.get("_target_"), str):
                raise ValueError(f"{name} has no _target_ (the dotted path of its function)")
        unknown = next((name for name in self.control_of or () if name not in self.method), None)
        if unknown is not None:
            raise ValueError(f"control_of names '{shown(unknown)}', which is no chosen method{did_you_mean(unknown, self.method)}")
        if self.control_of is not None and not self.control:
            raise ValueError("control_of names methods for controls, and none is chosen: add +control=[blurred,dilated,mixed,shuffled]")
        return self

    def measures_in_identity(self) -> dict[str, Any]:
        """Return the chosen measures, and the settings of those that have any; what is not chosen changes no number."""
        settings: dict[str, Any] = {name: getattr(self, name).model_dump(mode="json") for name in self.measures if hasattr(self, name)}
        return {"measures": list(self.measures), **settings}

    @property
    def images_per_shard(self) -> int:
        """The number that `shard_size` stands for."""
        if self.shard_size == "auto":
            return 512 if self.until is None else SHARD_SIZE
        return self.shard_size

    def question(self, methods: Iterable[str] | None = None) -> Question | None:
        """Return what `until` asks; None without it, and where another run was asked (`until_from`).

        `methods` are the names of rows; without them, any layer or control of a method may be named. Raises UserError: `until` names no
        two of these methods, or there is no protocol point that it could ask about.
        """
        if self.until is None or self.until_from is not None:
            return None
        layers = [*self.model.layers, *([self.model.fuse] if self.model.fuse else [])] if len(self.model.layers) > 1 else []
        known = [*self.method, *(at(name, layer) for name in self.method for layer in layers)]
        known += [under(name, control) for name in known for control in self.control]
        first, second = pair_of(self.until, known if methods is None else methods)
        return Question(first, second, self.until_metric, point_of(self.protocol.all_points(), self.until_point))


@dataclass(frozen=True)
class Former:
    """The run that `like=` names."""

    path: Place
    config: RunConfig
    """Its configuration, with the defaults of keys that its version did not know."""
    methods: tuple[str, ...]
    """The names of its rows: methods, at each layer where there are several, and control versions."""
    given: frozenset[str]
    """The keys that overrides set; all others are the former run's."""


@dataclass(frozen=True)
class Job:
    """One run of a command line: its typed configuration, and the text of its run.yaml."""

    config: RunConfig
    yaml: str
    proposal: str = ""
    """Which layer was proposed, and why; empty where the configuration names it."""
    like: Former | None = None
    """The run that all keys without an override were taken from."""
