"""The settings in a model's yaml file (conf/model), and their validation."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

Positive = Annotated[int, Field(gt=0, strict=True)]


class Settings(BaseModel):
    """Base class of all settings: immutable, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelConfig(Settings):
    """One entry of conf/model."""

    name: str
    factory: str
    args: dict[str, Any]
    weights: str | None
    seed: int
    layer: str
    """`auto` until the configuration is composed, then the name of the proposed layer."""
    resize: Positive | tuple[Positive, Positive] | None
    crop: Positive | None
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float]
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    classes: str | tuple[str, ...] | None
    class_map: str | None
    output: Literal["softmax", "sigmoid"]
    expected_top1: float | None
    expected_top1_source: str | None
    paper_table: Literal["table1", "table2"] | None
