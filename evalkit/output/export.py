"""The rows and map measures of runs as two tidy tables, shard by shard: raw scores, what the tables derive from them, facts of the run."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evalkit.analysis import metrics
from evalkit.analysis.load import Run
from evalkit.analysis.shard_facts import NO_TARGET, item_keys
from evalkit.errors import UserError
from evalkit.evaluation.columns import MAPS, ROWS
from evalkit.layer_names import layers_in_words
from evalkit.output import column_words
from evalkit.runs.folder import RunFolder, Shard

Flags = NDArray[np.bool_]
Items = NDArray[np.int64]

FACTS = {
    "run": "name of the run folder; its path where two have the same name",
    "identity": "hash of all that determines the run's numbers, 16 hexadecimal digits",
    "model": "name of the network",
    "layer": "the explained layer; of several, `layers a, b`, and `method` says which",
    "weights_hash": "hash of the network's weights",
    "data": "name of the data set",
    "data_fingerprint": "hash of the images and labels",
    "code": "hash of the version of evalkit that computed the row",
}
"""The columns that say which run a row is of, with their descriptions."""
DERIVED = {
    "counted": (pa.bool_(), "whether tables count the row: every method of the run, or of runs merged with it, has scores for the image"),
    "drop_confidence": (pa.float64(), "max(0, Y - O) / Y x 100 of confidences; null where Y is 0, and where the row is not counted"),
    "drop_activation": (pa.float64(), "the same of logits, null also where Y < 0; with `model.output=raw` of the output, over abs(Y)"),
    "increase_confidence": (pa.bool_(), "whether Y < O of confidences; null where the row is not counted"),
    "increase_activation": (pa.bool_(), "the same of logits; with `model.output=raw` of the output"),
}  # fmt: skip
"""The columns that are derived from raw scores, with their types and descriptions."""
COUNTED = {"counted": DERIVED["counted"]}


def _schema(table: pa.Schema, words: Mapping[str, str], derived: Mapping[str, tuple[pa.DataType, str]]) -> pa.Schema:
    """Return the columns with their descriptions as metadata."""
    columns = [(name, pa.string(), about) for name, about in FACTS.items()]
    columns += [(name, table.field(name).type, about) for name, about in words.items()]
    columns += [(name, kind, about) for name, (kind, about) in derived.items()]
    return pa.schema([pa.field(name, kind, metadata={"description": about}) for name, kind, about in columns])


SCORES = _schema(ROWS, column_words.ROWS, DERIVED)
"""One row per run, image, explained class, method and protocol point."""
MAP_MEASURES = _schema(MAPS, column_words.MAPS, COUNTED)
"""One row per run, image, explained class and method; the maps themselves stay in the run folder."""


class Part(NamedTuple):
    """One shard of the two tables."""

    scores: pa.Table
    maps: pa.Table


@dataclass(frozen=True)
class Exported:
    """The folders of runs that are exported together, with the names by which their rows are told apart."""

    runs: Sequence[Run]
    names: Mapping[str, str]
    """The value of `run`, by the path of each folder."""

    def facts(self) -> dict[str, Any]:
        """Return what belongs to whole runs, by their names: identity, weights, versions, hardware, why a run with `until` ended."""
        return {
            self.names[str(folder.path)]: {key: fact for key, fact in folder.provenance.items() if key != "class_names"}
            for run in self.runs
            for folder in run.folders
        }

    def parts(self) -> Iterator[Part]:
        """Yield the tables of each shard, with few in memory at a time. Raises UserError where a shard is gone meanwhile."""
        for run in self.runs:
            counted = run.table.scored_items.index.to_numpy()
            for folder in run.folders:
                missing = len(folder.shards)
                for part in folder.each(partial(self._part, run, folder, folder.provenance, counted)):
                    missing -= 1
                    yield part
                if missing and not run.provenance["missing_shards"]:
                    raise UserError(f"{folder.path} has lost {missing} of its shards meanwhile; run the same command again")

    def _part(self, run: Run, folder: RunFolder, record: Mapping[str, Any], items: Items, shard: Shard) -> Part:
        identity = record["identity"]
        facts = {
            "run": self.names[str(folder.path)],
            "identity": record["identity_hash"],
            "model": identity["model"]["name"],
            "layer": layers_in_words(identity["model"]["layer"]),
            "weights_hash": identity["model"].get("weights_hash"),
            "data": identity["data"]["name"],
            "data_fingerprint": identity["data"]["fingerprint"],
            "code": shard.description.get("code"),
        }
        counted, of_maps = (_counted(table, items) for table in (shard.rows, shard.maps))
        derived = [pa.array(counted), *_derived(shard.rows, counted, raw=run.raw)]
        return Part(
            _with(facts, shard.rows, derived, SCORES),
            _with(facts, shard.maps.drop_columns("map"), [pa.array(of_maps)], MAP_MEASURES),
        )


def exported(runs: Sequence[Run]) -> Exported:
    """Return runs for export, each folder with a name of its own."""
    paths = [folder.path for run in runs for folder in run.folders]
    often = Counter(path.name for path in paths)
    return Exported(runs, {str(path): path.name if path.name and often[path.name] == 1 else str(path) for path in paths})


def _counted(table: pa.Table, items: Items) -> Flags:
    """Return whether tables count each row (n,): whether its image and explained class are among the `items` that are scored."""
    targets = table["target"].fill_null(NO_TARGET).to_numpy().astype(np.int64)
    return np.isin(item_keys(table["index"].to_numpy(), targets), items)


def _derived(rows: pa.Table, counted: Flags, *, raw: bool) -> Iterator[pa.Array]:
    """Yield the columns `DERIVED` behind the first."""
    scores = [
        tuple(rows[f"{kind}_{of}"].cast(pa.float64()).to_numpy(zero_copy_only=False) for of in ("full", "masked"))
        for kind in ("prob", "logit")
    ]
    for full, masked in scores:
        drops = metrics.relative_drop(full, masked, raw=raw)
        yield pa.array(drops, mask=~counted | np.isnan(drops))
    for full, masked in scores:
        yield pa.array(full < masked, mask=~counted | np.isnan(full) | np.isnan(masked))


def _with(facts: Mapping[str, str | None], table: pa.Table, derived: Sequence[Any], schema: pa.Schema) -> pa.Table:
    same = [pa.repeat(pa.scalar(fact, pa.string()), len(table)) for fact in facts.values()]
    stored = [column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column for column in table.columns]
    return pa.Table.from_arrays([*same, *stored, *derived], schema=schema)
