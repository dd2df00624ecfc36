"""Files that appear complete or not at all, on a local disk, a shared mount, or any file system of fsspec (s3://, gs://)."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upath import UPath

from evalkit.errors import UserError, first_line, remote_failure

WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar", ".pkl")
"""Weights that are called so come from a file, whether or not there is such a file."""

OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "r2")

Place = Path | UPath
"""A local path or one of a remote file system; both have the methods of pathlib."""


def local(text: str | Path) -> Path:
    """Return a local path with `~` and `~name` at its start replaced. Raises UserError where there is no such home folder."""
    try:
        return Path(text).expanduser()
    except RuntimeError as reason:
        first = Path(text).parts[0]
        whose = f"there is no user '{first[1:]}'" if first != "~" else "this user has none, and HOME is not set"
        raise UserError(f"{text}: '{first}' stands for a home folder, and {whose}; write the whole path, or ./{text}") from reason


def place(text: str | Place) -> Place:
    """Return the path for a text such as `results/mine` or `s3://bucket/mine`.

    Raises UserError for a file system that is unknown or whose library is not installed.
    """
    if isinstance(text, UPath) or "://" not in str(text):
        return text if isinstance(text, UPath) else local(text)
    try:
        remote = UPath(str(text), use_listings_cache=False)  # other machines write there too
        _ = remote.fs  # raises ImportError where the library is missing
    except (ImportError, ValueError) as reason:
        protocol = str(text).partition("://")[0]
        extra = "in evalkit's folder, pip install '.[s3]'" if protocol in ("s3", "s3a") else "see fsspec's list of file systems"
        raise UserError(f"{text} cannot be opened ({first_line(reason)}): {extra}") from reason
    return remote


def make_folder(path: Place) -> None:
    """Make a folder and its parents, except in object stores, where a mistyped path would create a bucket."""
    if isinstance(path, Path) or path.protocol not in OBJECT_STORES:
        path.mkdir(parents=True, exist_ok=True)


def listed(folder: Place, pattern: str) -> list[Place]:
    """Return the files of a folder whose names match a pattern, sorted; an empty list where the folder does not exist."""
    try:
        return sorted(folder.glob(pattern), key=str)
    except FileNotFoundError:  # raised by object stores where the bucket does not exist
        return []


def read_remote(path: UPath) -> bytes:
    """Read the bytes of a remote file, also in a forked process. Raises UserError: it is missing, or the file system fails."""
    try:
        return bytes(place(str(path)).read_bytes())  # opened anew, since connections do not survive a fork
    except OSError as reason:
        raise UserError(f"cannot read {path} ({reason.strerror or first_line(reason)})") from reason
    except Exception as reason:
        if remote_failure(reason) is None:
            raise
        raise UserError(f"cannot read {path} ({first_line(reason)})") from reason


@contextmanager
def _write_errors_as_user_errors(path: Place) -> Iterator[None]:
    try:
        yield
    except OSError as reason:
        why = reason.strerror or first_line(reason)
        raise UserError(f"cannot write {path} ({why}); fix that and run the same command again: what is finished is kept") from reason


def publish(path: Place, content: bytes) -> None:
    """Write a file so that no reader sees it incomplete; make its folder where it is missing.

    Raises UserError: the disk is full, or the path cannot be written.
    """
    with _write_errors_as_user_errors(path):
        make_folder(path.parent)
        if isinstance(path, Path):
            _replace(path, content)
        else:
            path.write_bytes(content)  # an object appears when its upload is complete


def create(path: Place, content: bytes) -> bool:
    """Create a file unless it exists; return whether it was created. Raises UserError as `publish` does."""
    with _write_errors_as_user_errors(path):
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
    """Make a folder where it is missing, and return it. Raises UserError, which names `option`, where it cannot be written."""
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
    """Check before a long computation that its result can be written. Raises UserError, which names `option`."""
    if path is not None:
        writable_folder(path.parent, option)
        if path.is_dir():
            raise UserError(f"{path} is a folder; name a file with {option}")
