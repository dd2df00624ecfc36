"""Files that appear whole or not at all: on a local disk, a shared mount, or wherever fsspec reaches (s3://, gs://)."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
