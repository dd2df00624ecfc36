"""Tables of a shard as parquet files with their own description and checksum."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evalkit.errors import UserError, first_line
from evalkit.evaluation.columns import LATER
from evalkit.files import Place

TEXTS_AT_ONCE = 2**14
"""Texts that are joined for a checksum at once: together they must be shorter than Arrow's 2 GiB."""


def parquet_bytes(table: pa.Table, metadata: dict[str, Any]) -> bytes:
    """Return a table as the bytes of a parquet file that holds its description `metadata` and its checksum."""
    description = json.dumps(metadata).encode()
    buffer = io.BytesIO()
    described_table = table.replace_schema_metadata({b"evalkit": description, b"checksum": checksum(table, description)})
    pq.write_table(described_table, buffer, compression="zstd")
    return buffer.getvalue()


def described(path: Place) -> dict[str, Any] | None:
    """Read the description of a parquet file from its footer alone; None where the footer is damaged."""
    return _description(_footer(path))


def stored_checksum(path: Place) -> str:
    """Read the checksum that a parquet file holds of its values from its footer alone; empty where there is none."""
    return _footer(path).get(b"checksum", b"").decode(errors="replace")


def _footer(path: Place) -> Mapping[bytes, bytes]:
    """Read what a parquet file says of itself; nothing where its footer is damaged or there is no file."""
    try:
        with path.open("rb") as file:
            return pq.read_metadata(file).metadata or {}
    except (OSError, pa.ArrowException):  # Arrow raises both
        return {}


def _description(stored: Mapping[bytes, bytes]) -> dict[str, Any] | None:
    try:
        description: dict[str, Any] = json.loads(stored.get(b"evalkit", b""))
    except ValueError:
        return None
    return description


def read_parquet(path: Place, schema: pa.Schema, *, coded: bool = False) -> tuple[pa.Table, dict[str, Any]] | None:
    """Read a file of `parquet_bytes`: its table and description; None where it does not exist or any bit of it has changed.

    Columns that an earlier version did not know (`LATER`) are null. With `coded`, columns of text are dictionary arrays, which
    take less time and memory. Raises UserError: the file exists but cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as reason:
        why = reason.strerror or first_line(reason)
        raise UserError(f"cannot read {path} ({why}); repair or remove it, and run the same command again") from reason
    try:
        table = pq.read_table(pa.BufferReader(content), read_dictionary=_texts(schema), use_threads=False)
        stored = table.schema.metadata or {}
        description = _description(stored)
        intact = stored.get(b"checksum") == checksum(table, stored[b"evalkit"])
        table = _with_later_columns(table, schema)
        intact = intact and table.schema.equals(coded_schema(schema))
    except (OSError, ValueError, KeyError, pa.ArrowException):  # damaged pages, lengths or characters
        return None
    if not intact or description is None:
        return None
    return table.replace_schema_metadata() if coded else table.cast(schema), description


def read_columns(path: Place, schema: pa.Schema, columns: Sequence[str]) -> pa.Table:
    """Read columns of a file that `read_parquet` has found intact, columns of text as dictionary arrays.

    Those that an earlier version did not know (`LATER`) are null.
    """
    chosen = pa.schema([schema.field(name) for name in columns])
    with path.open("rb") as file:
        parquet = pq.ParquetFile(file, read_dictionary=_texts(chosen))
        known = [name for name in columns if name in parquet.schema_arrow.names]
        return _with_later_columns(parquet.read(known, use_threads=False), chosen).select(columns).replace_schema_metadata()


def _texts(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if pa.types.is_string(field.type)]


def coded_schema(schema: pa.Schema) -> pa.Schema:
    """Return a schema with dictionary arrays for columns of text."""
    texts = _texts(schema)
    return pa.schema([field.with_type(pa.dictionary(pa.int32(), pa.string())) if field.name in texts else field for field in schema])


def _with_later_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table of an earlier version with the columns `LATER` of the schema, in its order."""
    for place, field in enumerate(schema):
        if field.name in LATER and field.name not in table.column_names:
            table = table.add_column(min(place, table.num_columns), field, pa.nulls(len(table), field.type))
    return table


def checksum(table: pa.Table, said: bytes) -> bytes:
    """Return the SHA-256 of a table's values and its description `said`, independent of how the file was written or compressed."""
    digest = hashlib.sha256(said)
    for name, column in zip(table.column_names, table.columns, strict=True):
        digest.update(f"{name} {len(column)} ".encode())
        _update(digest, column.combine_chunks())
    return digest.hexdigest().encode()


def _update(digest: "hashlib._Hash", array: pa.Array) -> None:
    digest.update(array.is_null().to_numpy(zero_copy_only=False).tobytes())
    if pa.types.is_list(array.type):
        digest.update(array.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False).tobytes())
        array = array.flatten()
    if pa.types.is_string(array.type):
        array = array.dictionary_encode()
    if pa.types.is_dictionary(array.type):
        _update_texts(digest, array)
    else:
        digest.update(np.ascontiguousarray(array.fill_null(0).to_numpy(zero_copy_only=False)).tobytes())


def _update_texts(digest: "hashlib._Hash", array: pa.DictionaryArray) -> None:
    """Update a digest with the `repr` of a list of texts, which is written once for each different one."""
    texts = pa.array([repr(text) for text in (*array.dictionary.to_pylist(), None)], pa.string())
    indices = array.indices.fill_null(len(array.dictionary))
    digest.update(b"[")
    for start in range(0, len(indices), TEXTS_AT_ONCE):
        taken = texts.take(indices.slice(start, TEXTS_AT_ONCE))
        digest.update(b", " if start else b"")
        digest.update(pc.binary_join(pa.ListArray.from_arrays([0, len(taken)], taken), ", ")[0].as_buffer())
    digest.update(b"]")
