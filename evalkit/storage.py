"""Files that appear whole or not at all: on a local disk, a shared mount, or wherever fsspec reaches (s3://, gs://)."""

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from evalkit.errors import UserError, first_line, remote_failure

OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "r2")

Place = Path | UPath
"""A local path, or one of a remote file system; both have pathlib's methods."""


def place(text: str | Place) -> Place:
    """`results/mine`, `s3://bucket/mine`. Raises UserError for a file system that is not known or not installed."""
    if isinstance(text, UPath) or "://" not in str(text):
        return text if isinstance(text, UPath) else Path(text).expanduser()
    try:
        there = UPath(str(text), use_listings_cache=False)  # other machines write there too
        _ = there.fs  # where a missing library shows
    except (ImportError, ValueError) as reason:
        protocol = str(text).partition("://")[0]
        extra = "in evalkit's folder, pip install '.[s3]'" if protocol in ("s3", "s3a") else "see fsspec's list of file systems"
        raise UserError(f"{text} cannot be opened ({first_line(reason)}): {extra}") from reason
    return there


def make_folder(path: Place) -> None:
    """With its parents, where the file system knows folders; a bucket is nobody's to make by a slip of the pen."""
    if isinstance(path, Path) or path.protocol not in OBJECT_STORES:
        path.mkdir(parents=True, exist_ok=True)


def listed(folder: Place, pattern: str) -> list[Place]:
    """The files of a folder whose names match, in order; none where there is no such folder."""
    try:
        found: list[Place] = list(folder.glob(pattern))
    except FileNotFoundError:  # how object stores call a bucket that is not there
        return []
    return sorted(found, key=str)


def read_remote(path: UPath) -> bytes:
    """A remote file's bytes, also in a process that was forked. Raises UserError: it is gone, or the file system fails."""
    try:
        return bytes(place(str(path)).read_bytes())  # a connection does not survive a fork, so none is kept
    except OSError as reason:
        raise UserError(f"cannot read {path} ({reason.strerror or first_line(reason)})") from reason
    except Exception as reason:
        if remote_failure(reason) is None:
            raise
        raise UserError(f"cannot read {path} ({first_line(reason)})") from reason


@contextmanager
def _told(path: Place) -> Iterator[None]:
    """Makes a sentence of what the disk or the store refuses."""
    try:
        yield
    except OSError as reason:
        why = reason.strerror or first_line(reason)
        raise UserError(f"cannot write {path} ({why}); mend that and run the same command again: what is finished is kept") from reason


def publish(path: Place, content: bytes) -> None:
    """Write a file that nobody ever sees in part; its folder is made where it is missing.

    Raises UserError: the disk is full, the place cannot be written.
    """
    with _told(path):
        make_folder(path.parent)
        if isinstance(path, Path):
            _replace(path, content)
        else:
            path.write_bytes(content)  # an object appears when its upload is complete


def create(path: Place, content: bytes) -> bool:
    """Make a file unless there is one of that name; says whether it was made. Raises UserError as `publish` does."""
    with _told(path):
        make_folder(path.parent)
        try:
            with path.open("xb") as file:
                file.write(content)
        except FileExistsError:
            return False
    return True


def _replace(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


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


def writable_folder(path: Place, option: str) -> Place:
    """The folder, made where it is missing. Raises UserError, naming the option that chose it, where it cannot be written."""
    try:
        make_folder(path)
        trial = path / f".writable-{os.getpid()}"
        trial.write_bytes(b"")
        trial.unlink()
    except OSError as reason:
        why = reason.strerror or first_line(reason)
        raise UserError(f"cannot write to {path} ({why}); choose another folder with {option}") from reason
    return path


def writable_file(path: Path | None, option: str) -> None:
    """Makes sure, before hours of work, that a result can be written there. Raises UserError that names the option."""
    if path is not None:
        writable_folder(path.parent, option)
        if path.is_dir():
            raise UserError(f"{path} is a folder; name a file with {option}")
