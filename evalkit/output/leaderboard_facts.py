"""The facts of a run in its summary, and the record of a verification that it may hold."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evalkit.errors import UserError, first_line, printable
from evalkit.files import Place

Count = Annotated[int, Field(ge=0, strict=True)]
Text = Annotated[str, Field(max_length=2_000)]
Day = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d")]
Short = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Verified(BaseModel):
    """The record that `evalkit verify RUN --out FILE` writes; further keys are ignored."""

    model_config = ConfigDict(extra="ignore")
    date: Day
    images: Count
    of: Count
    differences: Count
    rows_digest: Digest
    seed: int | None = None


class Model(_Facts):
    """The network of a run."""

    name: Text
    layer: Text
    weights: Text
    weights_hash: Text
    random: bool


class Data(_Facts):
    """The data set of a run."""

    name: Text
    fingerprint: Annotated[str, Field(min_length=1, max_length=200)]


class Images(_Facts):
    """How many images and explained classes (items) were scored, of how many images in the run, and which of the data set they are."""

    scored: Annotated[int, Field(ge=1, strict=True)]
    items: Annotated[int, Field(ge=1, strict=True)]
    total: Count
    sample: int | None
    limit: int | None
    chosen: Text


class Facts(_Facts):
    """The description of a summary file."""

    format: Literal[1]
    model: Model
    data: Data
    images: Images
    target: Text
    methods: Annotated[dict[str, Text], Field(min_length=1)]
    images_hash: Short
    setting: Short
    identity: Short
    code: list[Text]
    evalkit: Text
    date: Day
    cautions: list[Text]
    rows_digest: Digest
    report: str | None
    verified: Verified | None


def read_verified(path: Place) -> dict[str, Any]:
    """Read what `Verified` holds from the file that `evalkit verify RUN --out FILE` writes. Raises UserError where the file is none."""
    try:
        found = json.loads(path.read_bytes())
        sample = found.get("sample") if isinstance(found, dict) else None
        if isinstance(sample, dict):  # the whole outcome, in which a difference need not be one of a row
            differences = 0 if found.get("verified") is True else max(1, int(found.get("rows_differing") or 0))
            counts = {"images": sample.get("recomputed"), "of": sample.get("images"), "seed": sample.get("seed")}
            found = {**found, **counts, "differences": differences}
        return Verified.model_validate(found).model_dump()
    except OSError as reason:
        raise UserError(
            f"cannot read {path} ({reason.strerror}); --verified names the file that `evalkit verify RUN --out FILE` writes"
        ) from reason
    except ValidationError as reason:
        raise UserError(f"{path} is no record of `evalkit verify RUN --out FILE`: {first_complaint(reason)}") from reason
    except ValueError as reason:
        raise UserError(f"{path} is no record of `evalkit verify RUN --out FILE`: {first_line(reason)}") from reason


def first_complaint(error: ValidationError) -> str:
    """Return the first complaint of pydantic as text: `images.scored: Input should be greater than or equal to 1`."""
    first = error.errors(include_url=False)[0]
    return printable(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
