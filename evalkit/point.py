"""A protocol point, and the names of all selections and fills; `evalkit.protocol` carries them out."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

Select = Literal["keep_top", "remove_top", "soft"]
Fill = Literal["black", "mean", "blur", "road"]
ROAD_SOFT = "road needs a binary mask, and soft has none: use fill=road with select=keep_top or remove_top alone"
"""The refusal of a point that selects soft and fills with road."""
Percent = Annotated[float, Field(ge=0, le=100)]


@dataclass(frozen=True)
class Point:
    """One way to perturb an image according to a map.

    `select`: "keep_top" keeps exactly the top x % of the pixels (Ablation-CAM paper, section 6.1), "remove_top" removes
    them, "soft" multiplies by the min-max normalised map (Grad-CAM++). `top_percent` is None for "soft".
    `fill` replaces the other pixels: "black" (0 before normalisation), "mean" (the normalisation's mean, 0 after it),
    "blur" (the image itself under a Gaussian), "road" (imputed from what is kept, not with "soft"); see `evalkit.protocol`.
    """

    select: Select
    top_percent: Percent | None
    fill: Fill

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}  # a point is also a setting of conf/protocol

    @property
    def depends_on_map(self) -> bool:
        """Whether different maps may give different images: not where 0 or 100 % are kept or removed."""
        return self.top_percent not in (0, 100)
