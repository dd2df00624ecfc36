"""Which files below a folder are images, and what else lies there."""

import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

from PIL import Image
from upath import UPath

from evalkit.data.text import spellings
from evalkit.errors import UserError
from evalkit.files import Place

TRASH = (
    "__macosx",
    "@eadir",
    "#recycle",
    "@recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "thumbs.db",
    "desktop.ini",
)
"""Names, in lower case, of what operating systems and storage servers leave in folders. Names with a leading dot are hidden anyway."""

_NO_PICTURES = ("BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF")
"""Formats that Pillow recognises but cannot decode by itself."""

_COMPANIONS = (
    "", ".cfg", ".csv", ".html", ".ini", ".ipynb", ".json", ".jsonl", ".lock", ".log", ".mat", ".md", ".md5", ".parquet", ".pdf", ".py",
    ".rst", ".sh", ".sha256", ".toml", ".tsv", ".txt", ".xlsx", ".xml", ".yaml", ".yml", ".pt", ".pth", ".safetensors", ".ckpt", ".bin",
    ".pkl", ".css", ".db", ".doc", ".docx", ".dvc", ".js", ".onnx", ".url", ".xmp",
)  # fmt: skip
"""Suffixes of texts and weights, which accompany the images of many data sets. Without a suffix: LICENSE and the like."""

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")


@dataclass
class Listing:
    """The content of a folder, as paths below it, with forward slashes."""

    images: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    """Files that may be pictures but are in no format that is read."""
    archives: list[str] = field(default_factory=list)
    """Archives, which are not read; they may hold a class each."""
    hidden: list[str] = field(default_factory=list)
    """Pictures, and folders with pictures, whose names say that they are hidden or trash."""
    broken: list[str] = field(default_factory=list)
    """Links without suffix that lead nowhere, as to a folder on a disk that is not there."""
    repeated: list[str] = field(default_factory=list)
    """Links to folders that are listed already, such as those that would lead around in a circle."""


@cache
def suffixes() -> frozenset[str]:
    """Return the suffixes of the formats that Pillow decodes, in lower case: .jpg, .png, and about sixty more."""
    return frozenset(end for end, form in Image.registered_extensions().items() if form in Image.OPEN and form not in _NO_PICTURES)


def list_images(folder: Place) -> Listing:
    """List the images below a folder. Links are followed; hidden files, hidden folders and trash are left out.

    Raises UserError: a folder cannot be read.
    """
    listing = Listing()
    for path in files_below(folder, listing):
        _sort_in(listing, path)
    return listing


def list_arrays(folder: Place) -> Listing:
    """List numpy's arrays below a folder as `list_images` lists images; nothing is said of other files."""
    listing = Listing()
    for path in files_below(folder, listing):
        if is_array(path):
            (listing.hidden if is_hidden(path) else listing.images).append(path)
    return listing


def files_below(folder: Place, listing: Listing) -> Iterable[str]:
    """Return the paths of all files below a folder, except those in hidden folders. `listing` and errors as in `list_images`."""
    return _local_files(folder, listing) if isinstance(folder, Path) else _remote_files(folder)


def _sort_in(listing: Listing, path: str) -> None:
    if is_hidden(path):
        if is_image(path) and not posixpath.basename(path).startswith("._"):  # which macOS writes beside each file on a foreign disk
            listing.hidden.append(path)
    elif is_image(path):
        listing.images.append(path)
    elif suffix(path) in _ARCHIVES:
        listing.archives.append(path)
    elif suffix(path) not in _COMPANIONS or (not suffix(path) and "/" in path and not _is_notice(path)):
        listing.unread.append(path)


def _is_notice(path: str) -> bool:
    """Return whether a file without suffix accompanies images by its name: README, LICENSE, or the icon of a folder of macOS."""
    name = posixpath.basename(path)
    return name.isupper() or name == "Icon\r"


def suffix(path: str) -> str:
    """Return the suffix in lower case, with its dot; "" for a name without one."""
    return posixpath.splitext(path)[1].lower()


def is_image(path: str) -> bool:
    """Return whether the suffix is that of a format that is read."""
    return suffix(path) in suffixes()


def is_array(path: str) -> bool:
    """Return whether the suffix is that of numpy's arrays."""
    return suffix(path) == ".npy"


def is_hidden(path: str) -> bool:
    """Return whether a file, or a folder on the way to it, is hidden or trash."""
    return any(part.startswith(".") or part.lower() in TRASH for part in path.split("/"))


def file_sizes(folder: Place, paths: Iterable[str]) -> dict[str, int]:
    """Return the sizes in bytes of the files that exist; of a remote folder, those of all its files."""
    if not isinstance(folder, Path):
        return _remote_files(folder)
    sizes = ((path, _size(folder / path)) for path in paths)
    return {path: size for path, size in sizes if size is not None}


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except (OSError, ValueError):  # missing, or no possible name; reading it as an image says why
        return None


def resolve_names(folder: Place, names: Sequence[str]) -> list[str]:
    """Return the paths below a folder that the names in a list mean: as written, or where no such file exists, as in `spellings`."""
    candidates = {name: spellings(name) for name in names}
    odd = [spelling for name in names if len(candidates[name]) > 1 for spelling in candidates[name]]
    there = file_sizes(folder, odd) if odd else {}
    return [next((spelling for spelling in candidates[name] if spelling in there), name) for name in names]


def _remote_files(folder: UPath) -> dict[str, int]:
    """Return the sizes of all files below a remote folder, from one listing instead of one request per image."""
    entries = folder.fs.find(folder.path, detail=True)
    return {PurePosixPath(name).relative_to(folder.path).as_posix(): int(entry["size"]) for name, entry in entries.items()}


def _local_files(folder: Path, listing: Listing) -> Iterator[str]:
    """Yield the paths of all files below a folder, and hidden ones directly in its visible folders; links are followed.

    Every folder is listed once: first those that lie there, then those to which links lead, by the links' paths. So no
    link leads around in a circle, and the paths of what lies there do not depend on links. Notes in `listing` the links
    that are not followed, and the hidden folders that hold pictures.

    Raises UserError: a folder cannot be read.
    """
    seen: set[str] = set()
    waiting: list[tuple[str, str]] = [("", os.path.realpath(folder))]
    links: list[tuple[str, str]] = []
    while waiting or links:
        if not waiting:
            links.sort(reverse=True)
            waiting.append(links.pop())
            if waiting[0][1] in seen:
                listing.repeated.append(waiting.pop()[0])
                continue
        path, real = waiting.pop()
        if real in seen:
            continue
        seen.add(real)
        for entry in _entries(real, path or str(folder)):
            below = f"{path}/{entry.name}" if path else entry.name
            if not _leads_to_a_folder(entry):
                if entry.is_symlink() and not suffix(entry.name) and not os.path.exists(entry.path):  # noqa: PTH110 - False for a circle too
                    listing.broken.append(below)
                else:
                    yield below
            elif is_hidden(entry.name):
                if _shows_images(entry.path):
                    listing.hidden.append(below)
            elif entry.is_symlink():
                links.append((below, os.path.realpath(entry.path)))
            else:
                waiting.append((below, str(Path(real, entry.name))))


def _entries(folder: str, path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as reason:
        raise UserError(f"cannot read the folder {path} ({reason.strerror}): make it readable, or move it out of data.root") from reason


def _shows_images(hidden: str) -> bool:
    try:
        return any(is_image(file.name) for file in Path(hidden).iterdir())
    except OSError:  # trash is often readable for its owner alone; nothing of it is read in any case
        return False


def _leads_to_a_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
