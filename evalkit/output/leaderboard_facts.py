"""The facts of a run in its summary, and the record of a verification that it may hold."""

import json
from collections.abc import Mapping, Sequence
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
    drawn: bool | None = None
    """Whether the images were drawn at random rather than named; where it is not said, whether there is a seed."""


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
            found = {**found, **counts, "differences": differences, "drawn": sample.get("drawn", found.get("drawn"))}
        record = Verified.model_validate(found).model_dump()
        return {**record, "drawn": is_drawn(record)}
    except OSError as reason:
        raise UserError(
            f"cannot read {path} ({reason.strerror}); --verified names the file that `evalkit verify RUN --out FILE` writes"
        ) from reason
    except ValidationError as reason:
        raise UserError(f"{path} is no record of `evalkit verify RUN --out FILE`: {first_complaint(reason)}") from reason
    except ValueError as reason:
        raise UserError(f"{path} is no record of `evalkit verify RUN --out FILE`: {first_line(reason)}") from reason


def is_drawn(record: Mapping[str, Any]) -> bool:
    """Return whether the images of a record of `evalkit verify` were drawn at random, or were named by whoever verified."""
    said = record.get("drawn")
    return bool(said) if said is not None else record.get("seed") is not None


def share(record: Mapping[str, Any]) -> float:
    """Return the recomputed share of a record's images, from 0 to 1."""
    return record["images"] / max(record["of"], 1)


def joined(records: Sequence[Mapping[str, Any]], folders: Mapping[str, Place], digest: str) -> dict[str, Any]:
    """Return one record for folders that make one run, given by their digests: the smallest share, the first date, all differences.

    Raises UserError: a record is of other rows, or a folder has none.
    """
    for record in records:
        if record["rows_digest"] not in folders:
            path = " or ".join(map(str, folders.values()))
            raise UserError(f"the record of --verified is of other rows than those of {path}: run `evalkit verify RUN --out FILE` again")
    for one in folders.keys() - {record["rows_digest"] for record in records}:
        raise UserError(f"no --verified is of {folders[one]}: give one for each of the {len(folders)} folders, or none")
    smallest = min(records, key=share)
    return {
        **smallest,
        "date": min(record["date"] for record in records),
        "differences": sum(record["differences"] for record in records),
        "drawn": all(map(is_drawn, records)),
        "rows_digest": digest,
    }


def first_complaint(error: ValidationError) -> str:
    """Return the first complaint of pydantic as text: `images.scored: Input should be greater than or equal to 1`."""
    first = error.errors(include_url=False)[0]
    return printable(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
