"""What a summary file must be, whoever wrote it: the facts it holds, and sentences on what is wrong with one."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from evalkit.errors import UserError, printable
from evalkit.files import Place
from evalkit.output.leaderboard_facts import Facts, first_complaint
from evalkit.output.leaderboard_pairs import differing, in_one_column, in_words, of_one_run, same_rows
from evalkit.output.leaderboard_summary import FORMAT, POINT, SCHEMA, WEB, Summary, best, is_control
from evalkit.output.tables import LABELS
from evalkit.point import Fill, Select
from evalkit.runs.shards import parquet_bytes, read_parquet

MOST_BYTES = 200_000
"""Largest size of a summary file: 27 methods at 9 protocol points take half of it."""
MOST_ROWS = 50_000
"""Largest number of rows, which a small file may claim to be any number."""
NO_SUMMARY = "it is no summary, or was changed: its columns or its checksum are not those of `evalkit leaderboard RUN --summary FILE`"
SHARES = ("increase", "win", "best_of_all", "average_gain")
"""Metrics whose values lie between 0 and 100."""
NOT_NEGATIVE = ("average_drop", "median_drop", "drop_of_sums")
TOLERANCE = 1e-9


def summary_bytes(summary: Summary) -> bytes:
    """Return a summary as the bytes of its parquet file. Raises UserError where it would not pass the check."""
    wrong = [*_wrong_facts(summary.facts), *_wrong_rows(summary)]
    content = parquet_bytes(summary.table, summary.facts)
    if len(content) > MOST_BYTES:
        wrong.append(_too_large(len(content)))
    if wrong:
        raise UserError(f"the run gives no summary that could be published: {wrong[0]}")
    return content


def read_summary(path: Place) -> Summary:
    """Read a summary file. Raises UserError, with the first of the sentences of `wrong_with`, where anything is wrong with it."""
    summary, wrong = _examined(path)
    if summary is None or wrong:
        raise UserError(f"{path}: {wrong[0]}; `evalkit leaderboard --check {path}` says all that is wrong")
    return summary


def wrong_with(paths: Sequence[Place]) -> list[str]:
    """Return one sentence for everything that is wrong with summary files, by themselves and together; empty where nothing is.

    Raises UserError where a file does not exist.
    """
    said: list[str] = []
    known: dict[str, tuple[Place, Summary]] = {}
    for path in {str(path.resolve()): path for path in paths}.values():
        summary, wrong = _examined(path)
        said += [f"{path}: {sentence}" for sentence in wrong]
        if summary is not None:
            said += [f"{path}: {sentence}" for other, before in known.values() if (sentence := _wrong_pair(summary, before, other))]
            known[str(path)] = path, summary
    return said


def _wrong_pair(summary: Summary, before: Summary, other: Place) -> str:
    """Return what is wrong with a summary beside one that lies in the file `other`; empty where nothing is."""
    if of_one_run(summary, before):
        rows = "" if same_rows(summary, before) else ", and has other numbers"
        return f"it is of the same run as {other}{rows}: keep one of the two"
    found = differing(summary, before) if in_one_column(summary, before) else None
    if found is None:
        return ""
    return f"a method of the same name in {other}, of the same network and images, has other numbers ({found}): name it otherwise"


def _examined(path: Place) -> tuple[Summary | None, list[str]]:
    if not path.is_file():
        raise UserError(f"there is no file {path}; name summaries that `evalkit leaderboard RUN --summary FILE` wrote")
    size = path.stat().st_size
    if size > MOST_BYTES:
        return None, [_too_large(size)]
    found = read_parquet(path, SCHEMA) if _claimed_rows(path) <= MOST_ROWS else None
    if found is None:
        return None, [NO_SUMMARY]
    summary = Summary(*found)
    wrong = list(_wrong_facts(summary.facts))
    return (None, wrong) if wrong else (summary, list(_wrong_rows(summary)))


def _claimed_rows(path: Place) -> int:
    """Return the number of rows that a parquet file's footer claims; 0 where it is damaged, which `read_parquet` finds too."""
    try:
        with path.open("rb") as file:
            return int(pq.read_metadata(file).num_rows)
    except (OSError, ValueError, pa.ArrowException):  # ValueError: names that are no text
        return 0


def _too_large(size: int) -> str:
    return f"it has {size:,} bytes, more than {MOST_BYTES:,}: summarise a run of fewer protocol points"


def _wrong_facts(facts: Mapping[str, Any]) -> Iterator[str]:
    if facts.get("format") != FORMAT:
        yield f"its format is {printable(str(facts.get('format')))}, and this version reads {FORMAT}"
        return
    try:
        known = Facts.model_validate_json(json.dumps(facts))
    except ValidationError as reason:
        yield f"its facts are not those of a run: {first_complaint(reason)}"
        return
    if known.images.scored > known.images.total or known.images.items < known.images.scored:
        yield f"{known.images.scored} images and {known.images.items} items cannot be scored of {known.images.total} images"
    if any(printable(text) != text for text in _texts(facts)):
        yield "its facts hold characters that cannot be printed"
    if known.report is not None and not WEB.fullmatch(known.report):
        yield f"its report {printable(known.report)} is no address of the web"
    record = known.verified
    if record is not None and record.rows_digest != known.rows_digest:
        yield "its record of a verification is of other rows than its own"
    if record is not None and not 0 < record.images <= record.of:
        yield f"its record of a verification has {record.images} of {record.of} images"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value if isinstance(value, list) else (*value, *value.values()):
            yield from _texts(inner)


def _wrong_rows(summary: Summary) -> Iterator[str]:
    rows: list[dict[str, Any]] = summary.table.to_pylist()
    methods = list(summary.facts["methods"])
    if not rows:
        yield "it has no rows"
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        wrong = _wrong_row(row, methods, summary.facts["images"]["items"])
        if wrong:
            yield f"{in_words(row)}: {wrong}"
            return
        groups.setdefault((*(row[name] for name in POINT), row["score"], row["metric"]), []).append(row)
    for of_group in groups.values():
        wrong = _wrong_group(of_group, methods)
        if wrong:
            yield f"{in_words({**of_group[0], 'method': 'all methods'})}: {wrong}"


def _wrong_row(row: Mapping[str, Any], methods: list[str], items: int) -> str:
    """Return what is wrong with one row; empty where nothing is."""
    names = (("select", get_args(Select)), ("fill", get_args(Fill)), ("score", ("confidence", "activation", "score")), ("metric", LABELS))
    for name, allowed in (*names, ("method", methods)):
        if row[name] not in allowed:
            return f"its {name} is not known"
    top, value, low, high = (row[name] for name in ("top_percent", "value", "low", "high"))
    if (top is None) != (row["select"] == "soft") or not (top is None or 0 <= top <= 100):
        return "top_percent must be a share of the pixels, and none for soft masks"
    numbers = [row[name] for name in ("value", "low", "high", "gain", "gain_low", "gain_high")]
    if any(number is not None and not math.isfinite(number) for number in numbers):
        return "a number is not finite"
    if row["n"] is None or not 0 <= row["n"] <= items:
        return f"n is {row['n']}, and the run has {items} scored items"
    if row["control"] is not is_control(row["method"], methods):
        return "whether it is a control is not said as its name says it"
    if (low is None) != (high is None) or (value is None and low is not None):
        return "an interval needs its value and both its ends"
    if low is not None and not low - TOLERANCE <= value <= high + TOLERANCE:
        return f"the interval [{low:g}, {high:g}] is not around the value {value:g}"
    gain, least, most = numbers[3:]
    if least is not None and (gain is None or most is None or not least - TOLERANCE <= gain <= most + TOLERANCE):
        return "the interval of the difference to the best control is not around the difference"
    if value is not None and ((row["metric"] in SHARES and not 0 <= value <= 100) or (row["metric"] in NOT_NEGATIVE and value < 0)):
        return f"the value {value:g} is impossible"
    return ""


def _wrong_group(rows: list[dict[str, Any]], methods: list[str]) -> str:
    """Return what is wrong with the rows of one point, score and metric; empty where nothing is."""
    names = [row["method"] for row in rows]
    if len(set(names)) < len(names):
        return "a method has several rows"
    if set(names) != set(methods):
        return f"it has {len(names)} methods, and the run has {len(methods)}"
    if len({row["n"] for row in rows}) > 1:
        return "the methods have different n, and are scored on the same images"
    floor = best(rows)
    if floor is None and any(row["value"] is not None for row in rows):
        return (
            "there is no control, such as random or centre, which methods have to beat: name the run that has them too, as in "
            "`evalkit leaderboard FORMER RUN --summary FILE`, or run again with one"
        )
    if any(row["floor"] != (floor and floor["method"]) for row in rows):
        return "floor is not the best of the controls"
    return ""
