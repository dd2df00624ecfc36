"""The settings in a model's yaml file (conf/model), and their validation."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from evalkit.errors import UserError
from evalkit.models.normalisation import check_channels, check_normalisation

Positive = Annotated[int, Field(ge=1, strict=True)]
Text = Annotated[str, Field(min_length=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Settings(BaseModel):
    """Base class of all settings: immutable, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def _several(layer: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Return the only name of a list of one. Raises ValueError for an empty list, and for a name that occurs twice."""
    if isinstance(layer, str):
        return layer
    if not layer:
        raise ValueError("names no layer")
    twice = next((name for name in layer if layer.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"names '{twice}' twice")
    return layer if len(layer) > 1 else layer[0]


class ModelConfig(Settings):
    """One entry of conf/model."""

    name: Text = Field(description="the name in tables")
    factory: Text = Field(description="the dotted path of a function that returns the network", examples=["archs.mynet"])
    args: dict[str, Any]
    weights: Text | None
    seed: Annotated[int, Field(strict=True)]
    layer: Annotated[str | tuple[str, ...], AfterValidator(_several)] = Field(
        description="the name of a layer, auto, or a list of such", examples=["[layer3,layer4]"]
    )
    """`auto` until the configuration is composed, then the name of the proposed layer. Several: each method explains each of them."""
    resize: Positive | tuple[Positive, Positive] | None = Field(
        description="the shorter side in pixels, [height,width] in pixels, or null", examples=["[224,224]"]
    )
    crop: Positive | None
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[Number, ...] = Field(description="a list of numbers, one per channel", examples=["[0.5,0.5,0.5]"])
    std: tuple[Number, ...] = Field(description="a list of numbers, one per channel", examples=["[0.5,0.5,0.5]"])
    classes: Text | tuple[Text, ...] | None = Field(description="a file with one class a line, a list of names, imagenet or null")
    class_map: Text | None
    output: Literal["softmax", "sigmoid", "binary", "raw"]
    channels: Positive = 3
    select: Annotated[int, Field(strict=True)] | Text | None = None
    score: Text | None = None
    grid: Literal["auto", "maps", "channels_last"] | tuple[Positive, Positive] = Field(
        default="auto", description="auto, maps, channels_last, or [height,width] of a grid of tokens", examples=["[14,14]"]
    )
    prefix_tokens: Annotated[int, Field(strict=True)] | None = None
    fuse: Literal["mean", "max"] | None = None
    expected_top1: Number | None
    expected_top1_source: Text | None
    paper_table: Literal["table1", "table2"] | None

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that are explained, at least one, in the order of the configuration."""
        return (self.layer,) if isinstance(self.layer, str) else self.layer

    def only_layer(self, who: str) -> str:
        """Return the one layer. Raises UserError where there are several, and `who` works with one, as in "evalkit app"."""
        if not isinstance(self.layer, str):
            raise UserError(f"{who} needs one layer, and model.layer=[{','.join(self.layer)}] names several: give one of them")
        return self.layer

    def in_identity(self) -> dict[str, Any]:
        """Return the settings that determine numbers. Those that earlier versions did not have are left out where they are not set."""
        settings = self.model_dump(
            mode="json", exclude={"expected_top1", "expected_top1_source", "paper_table", "seed", "weights", "classes", "class_map"}
        )
        optional = {name: field.default for name, field in type(self).model_fields.items() if not field.is_required()}
        return {key: value for key, value in settings.items() if key not in optional or value != optional[key]}

    @model_validator(mode="after")
    def _normalised(self) -> "ModelConfig":
        check_channels(self.channels, self.mean, self.std)
        check_normalisation(self.mean, self.std, "model.")
        return self

    @model_validator(mode="after")
    def _fuses_several(self) -> "ModelConfig":
        if self.fuse is not None and isinstance(self.layer, str):
            raise ValueError(f"model.fuse={self.fuse} needs several layers, and model.layer={self.layer} is one: model.layer=[a,b]")
        return self
