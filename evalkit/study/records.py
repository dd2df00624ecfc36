"""The files of a study: the organiser's key, and the answers of the raters, which are untrusted."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError, model_validator

from evalkit.errors import UserError, first_line, printable

Design = Literal["better", "trust", "which"]
"""Sections 6.3, 6.4 and 6.5 of the paper."""
RATINGS = (2, 1, 0, -1, -2)
"""Ratings of the first map against the second: clearly more reliable, slightly more, equally, slightly less, clearly less (6.4)."""
NEITHER = {"better": "same", "which": "both"}
"""The answer that names neither option alone."""
KEY, PAGE = "key.json", "study.html"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Question(_Record):
    """One question: its image and class, and the meanings of its random ids."""

    index: int
    """Position of the image in the data set; images are the unit of resampling."""
    image_id: str
    target: int
    target_name: str
    options: Annotated[dict[str, str], Field(min_length=2, max_length=2)]
    """Id -> contestant; for `which`, id -> category."""
    method: str | None = None
    """For `which`, the method of the shown map."""
    energy_inside: float | None = None
    energy_others: float | None = None
    """Shares of the shown map's positive values inside the boxes of its category and of the other, where boxes are known."""


class RunRecord(_Record):
    """A run whose maps are shown."""

    path: str
    model: str
    layer: str
    identity_hash: str


class Key(_Record):
    """The organiser's key, which reveals the methods and models behind the ids."""

    study: str
    design: Design
    contestants: tuple[str, str]
    """Two methods, or for `trust` two models, in the order of the command line."""
    method: str | None = None
    """The one method of `trust`."""
    runs: list[RunRecord]
    seed: int
    items: Annotated[dict[str, Question], Field(min_length=1)]

    @model_validator(mode="after")
    def _whole(self) -> "Key":
        if self.design != "which":
            fits = all(sorted(item.options.values()) == sorted(self.contestants) for item in self.items.values())
        else:
            pairs = {(item.index, item.target) for item in self.items.values()}
            items = sorted((item.method or "", item.index, item.target) for item in self.items.values())
            fits = items == sorted((method, *pair) for method in self.contestants for pair in pairs)
            fits &= all(item.target_name in item.options.values() for item in self.items.values())
        if not fits:
            raise ValueError("its items do not fit its design")
        return self


class Answers(_Record):
    """One rater's file, complete or not."""

    study: str
    design: Design
    rater: Annotated[str, Field(min_length=1, max_length=100)]
    saved: str
    order: list[str]
    """The items in the order in which this rater saw them."""
    shown: dict[str, tuple[str, str]]
    """Item -> its options in the order in which this rater saw them."""
    answers: dict[str, str | StrictInt]
    """Item -> the id of an option, or "same" or "both"; for `trust` the rating of the option shown first against the other."""


_Any = TypeVar("_Any", bound=_Record)


def refuse_old(out: Path) -> None:
    """Raise UserError if the folder holds a study."""
    for file in (out / KEY, out / PAGE):
        if file.exists():
            raise UserError(f"{file} exists, and answers to its study need its key: choose another folder with --out")


def read_key(path: Path) -> Key:
    """Read the key of a study from its file or folder. Raises UserError if it is no key."""
    return _read(path / KEY if path.is_dir() else path, Key, "key of a study (the file key.json that `evalkit study prepare` wrote)")


def read_answers(key: Key, files: Sequence[Path]) -> list[Answers]:
    """Read the answers of each rater. Raises UserError: a file is damaged or of another study, a rater occurs twice."""
    sheets: dict[str, tuple[Path, Answers]] = {}
    for file in files:
        sheet = _read(file, Answers, "file of answers that the study's page saved")
        _check(key, file, sheet)
        who = " ".join(sheet.rater.split()).casefold()
        if who in sheets:
            raise UserError(f"{sheets[who][0]} and {file} are both by the rater '{printable(sheet.rater)}': give only the one that counts")
        sheets[who] = file, sheet
    return [sheet for _, sheet in sheets.values()]


def _check(key: Key, file: Path, sheet: Answers) -> None:
    if (sheet.study, sheet.design) != (key.study, key.design):
        raise UserError(f"{file} answers another study ({sheet.design} {printable(sheet.study)}, not {key.design} {key.study})")
    for name, answer in sheet.answers.items():
        options = key.items[name].options if name in key.items else {}
        if not options or sorted(sheet.shown.get(name, ())) != sorted(options):
            raise UserError(f"{file} is damaged: it answers '{printable(name)[:40]}', which is no item of this study with these options")
        allowed = RATINGS if key.design == "trust" else (*options, NEITHER[key.design])
        if answer not in allowed:
            raise UserError(f"{file} is damaged: '{printable(str(answer))[:40]}' is no answer to {name}")


def _read(file: Path, kind: type[_Any], what: str) -> _Any:
    try:
        content = file.read_bytes()
    except OSError as reason:
        raise UserError(f"cannot read {file} ({reason.strerror or first_line(reason)}): name a {what}") from reason
    try:
        return kind.model_validate_json(content)
    except ValidationError as reason:
        raise UserError(f"{file} is no {what}, or damaged: {_first(reason.errors(include_url=False)[0])}") from reason


def _first(error: Any) -> str:
    where = ".".join(map(str, error["loc"]))
    return printable(re.sub(r"\s+", " ", f"{where}: {error['msg']}" if where else error["msg"]))[:200]
