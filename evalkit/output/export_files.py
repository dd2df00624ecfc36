"""The files of `evalkit export`: parquet, CSV, or a folder that Hugging Face `datasets` opens."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from evalkit.errors import UserError, first_line
from evalkit.files import writable_file, writable_folder
from evalkit.output.dataset_card import card
from evalkit.output.export import MAP_MEASURES, SCORES, Exported

ROW_GROUP = 2**17
"""Rows that are collected before they are written: one row group of parquet."""
FILE_ROWS = 2**22
"""Rows of one file in a Hugging Face folder, beyond which another is begun."""
TABLES = {"scores": SCORES, "maps": MAP_MEASURES}


@dataclass
class Written:
    """A table that was written, in one file or several."""

    files: list[Path] = field(default_factory=list)
    rows: int = 0

    @property
    def megabytes(self) -> float:
        """Size of its files, in 10^6 bytes."""
        return sum(file.stat().st_size for file in self.files) / 1e6


def export_file(exported: Exported, out: Path, kind: str) -> list[Written]:
    """Write the scores to `out`, and the measures of the maps to a file beside it, `export-maps.parquet` beside `export.parquet`.

    Files appear when they are complete. Raises UserError: `out` cannot be written, or is called as a file of another kind.
    """
    if out.suffix in (".parquet", ".csv") and out.suffix != f".{kind}":
        raise UserError(f"--out={out} is called {out.suffix[1:]}, and --to {kind} writes {kind}: change one of them")
    writable_file(out, "--out")
    files = {"scores": out, "maps": out.with_name(f"{out.stem}-maps{out.suffix}")}
    return _write(lambda name, schema: _Writer(schema, exported, kind, [files[name]]), exported)


def export_folder(exported: Exported, out: Path, command: str) -> list[Written]:
    """Write a folder that `datasets.load_dataset` opens: parquet under data/, and README.md, the card with how it was made (`command`).

    Raises UserError: the folder holds something already, or cannot be written.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out} is not empty, and might hold a card that was edited: remove it, or name another folder with --out")
    writable_folder(out, "--out")
    (out / "data").mkdir()
    written = _write(lambda name, schema: _Writer(schema, exported, "parquet", _numbered(out / "data", name), FILE_ROWS), exported)
    (out / "README.md").write_text(
        card(exported, TABLES, {n: w.rows for n, w in zip(TABLES, written, strict=True)}, command), encoding="utf-8"
    )
    return written


def _write(make: Callable[[str, pa.Schema], "_Writer"], exported: Exported) -> list[Written]:
    """Write both tables, shard by shard."""
    with ExitStack() as stack:
        writers = {name: stack.enter_context(_complete(make(name, schema))) for name, schema in TABLES.items()}
        for part in exported.parts():
            writers["scores"].add(part.scores)
            writers["maps"].add(part.maps)
    return [writer.written for writer in writers.values()]


def _numbered(folder: Path, name: str) -> Iterator[Path]:
    number = 0
    while True:
        yield folder / f"{name}-{number:05d}.parquet"
        number += 1


class _Writer:
    """Writes one table piece by piece, to temporary files that `publish` renames."""

    def __init__(self, schema: pa.Schema, exported: Exported, kind: str, files: Any, most: int | None = None) -> None:
        self.kind, self.most, self.written = kind, most, Written()
        about = {"evalkit": metadata.version("evalkit"), "runs": exported.facts()}
        self.schema = schema if kind == "csv" else schema.with_metadata({b"evalkit": json.dumps(about).encode()})
        self._files, self._waiting, self._in_file = iter(files), list[pa.Table](), 0
        self._temporary: list[Path] = []
        self._begin()

    def _begin(self) -> None:
        file = next(self._files)
        self.written.files.append(file)
        self._temporary.append(file.with_name(f".{file.name}.{os.getpid()}.tmp"))
        self._in_file = 0
        self._open: Any = (
            pyarrow.csv.CSVWriter(self._temporary[-1], self.schema)
            if self.kind == "csv"
            else pq.ParquetWriter(self._temporary[-1], self.schema, compression="zstd", use_dictionary=True)
        )

    def add(self, table: pa.Table) -> None:
        """Add rows, which are written with others when there are enough for a row group."""
        self._waiting.append(table)
        if sum(map(len, self._waiting)) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting).replace_schema_metadata(self.schema.metadata).combine_chunks()
        self._waiting.clear()
        if self.most is not None and self._in_file and self._in_file + len(table) > self.most:
            self._open.close()
            self._begin()
        self._open.write_table(table)
        self.written.rows += len(table)
        self._in_file += len(table)

    def publish(self) -> None:
        """Write what waits, and give the files their names."""
        self._flush()
        self._open.close()
        for temporary, file in zip(self._temporary, self.written.files, strict=True):
            temporary.replace(file)

    def discard(self) -> None:
        """Remove what was written so far."""
        self._open.close()
        for temporary in self._temporary:
            temporary.unlink(missing_ok=True)


@contextmanager
def _complete(writer: _Writer) -> Iterator[_Writer]:
    """Publish a writer's files at the end, or none of them after an error. Raises UserError where they cannot be written."""
    try:
        yield writer
        writer.publish()
    except OSError as reason:
        writer.discard()
        raise UserError(f"cannot write {writer.written.files[-1]} ({reason.strerror or first_line(reason)})") from reason
    except BaseException:
        writer.discard()
        raise
