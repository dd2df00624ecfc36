"""One table of a shard as a parquet file that says what it holds and knows its own checksum."""

import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evalkit.errors import UserError, first_line
from evalkit.files import Place


def parquet_bytes(table: pa.Table, metadata: dict[str, Any]) -> bytes:
    """A parquet file that says of itself `metadata`, and knows its own checksum."""
    said = json.dumps(metadata).encode()
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({b"evalkit": said, b"checksum": checksum(table, said)}), buffer, compression="zstd")
    return buffer.getvalue()


def described(path: Place) -> dict[str, Any] | None:
    """What a parquet file says of itself, by its footer alone; None where that is damaged."""
    try:
        with path.open("rb") as file:
            stored = pq.read_metadata(file).metadata or {}
    except (OSError, pa.ArrowException):  # Arrow's own errors are of both kinds
        return None
    return _said(stored)


def _said(stored: Mapping[bytes, bytes]) -> dict[str, Any] | None:
    try:
        said: dict[str, Any] = json.loads(stored.get(b"evalkit", b""))
    except ValueError:
        return None
    return said


def read_parquet(path: Place, schema: pa.Schema) -> tuple[pa.Table, dict[str, Any]] | None:
    """What `parquet_bytes` made, with its description; None where there is no such file, or any bit of it has changed.

    Raises UserError: the file is there but cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as reason:
        why = reason.strerror or first_line(reason)
        raise UserError(f"cannot read {path} ({why}); mend or remove it, and run the same command again") from reason
    try:
        table = pq.read_table(pa.BufferReader(content))
        stored = table.schema.metadata or {}
        said = _said(stored)
        whole = said is not None and table.schema.equals(schema) and stored.get(b"checksum") == checksum(table, stored[b"evalkit"])
    except (OSError, ValueError, KeyError, pa.ArrowException):  # whatever damaged pages, lengths and letters make of it
        return None
    return (table.replace_schema_metadata(), said) if whole and said is not None else None


def checksum(table: pa.Table, said: bytes) -> bytes:
    """SHA-256 over what a table holds and what is said of it: the same whatever wrote or compressed the file."""
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
        digest.update(repr(array.to_pylist()).encode(errors="surrogatepass"))
    else:
        digest.update(np.ascontiguousarray(array.fill_null(0).to_numpy(zero_copy_only=False)).tobytes())
