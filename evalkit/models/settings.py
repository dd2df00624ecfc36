"""The settings in a model's yaml file (conf/model), and their validation."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from evalkit.models.normalisation import check_normalisation

Positive = Annotated[int, Field(ge=1, strict=True)]
Text = Annotated[str, Field(min_length=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Settings(BaseModel):
    """Base class of all settings: immutable, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelConfig(Settings):
    """One entry of conf/model."""

    name: Text = Field(description="the name in tables")
    factory: Text = Field(description="the dotted path of a function that returns the network", examples=["archs.mynet"])
    args: dict[str, Any]
    weights: Text | None
    seed: Annotated[int, Field(strict=True)]
    layer: str = Field(description="the name of a layer, or auto")
    """`auto` until the configuration is composed, then the name of the proposed layer."""
    resize: Positive | tuple[Positive, Positive] | None = Field(
        description="the shorter side in pixels, [height,width] in pixels, or null", examples=["[224,224]"]
    )
    crop: Positive | None
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[Number, Number, Number] = Field(description="three numbers, one per colour channel", examples=["[0.5,0.5,0.5]"])
    std: tuple[Number, Number, Number] = Field(description="three numbers, one per colour channel", examples=["[0.5,0.5,0.5]"])
    classes: Text | tuple[Text, ...] | None = Field(description="a file with one class a line, a list of names, imagenet or null")
    class_map: Text | None
    output: Literal["softmax", "sigmoid"]
    expected_top1: Number | None
    expected_top1_source: Text | None
    paper_table: Literal["table1", "table2"] | None

    @model_validator(mode="after")
    def _normalised(self) -> "ModelConfig":
        check_normalisation(self.mean, self.std, "model.")
        return self
