"""Reading of a weights file. Its content says what it is, not its name, and no code that it names is run."""

import pickle
import pickletools
import re
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from evalkit.errors import UserError, cause, did_you_mean
from evalkit.files import WEIGHTS_SUFFIXES

_WANTED = "model.weights takes a state dict, saved by torch.save(model.state_dict(), FILE) or as .safetensors"
_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # the first number in a file that torch.save wrote before it wrote zip archives
_LONGEST_HEADER = 100_000_000  # of a safetensors file, in its specification
_FORMATS = {
    (0, b"version https://git-lfs"): "a pointer of Git LFS: `git lfs pull` gets the file itself",
    (0, b"\x89HDF"): "an HDF5 file, as Keras saves weights",
    (0, b"\x93NUMPY"): "an array of numpy",
    (4, b"TFL3"): "a TensorFlow Lite file",
    (0, b"GGUF"): "a GGUF file",
    (257, b"ustar"): "a tar archive: unpack it",
    (0, b"\x1f\x8b"): "compressed by gzip: unpack it",
    (0, b"BZh"): "compressed by bzip2: unpack it",
    (0, b"\xfd7zXZ"): "compressed by xz: unpack it",
    (0, b"\x28\xb5\x2f\xfd"): "compressed by zstd: unpack it",
    (0, b"7z\xbc\xaf"): "a 7z archive: unpack it",
    (0, b"\x80"): "a pickle that torch.save did not write, of which nothing is loaded, because it could run any code",
    (0, b"\x89PNG"): "a picture",
    (0, b"\xff\xd8\xff"): "a picture",
}
_TABLE_END = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"  # of a TensorFlow checkpoint's index


class Unread:
    """Stands for an object of a file whose type torch's safe loader does not know: nothing of it is kept but the type's name."""

    def __new__(cls, *_arguments: object) -> "Unread":
        """Make an object without its arguments."""
        return object.__new__(cls)

    def __init__(self, *_arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        """Drop the object's attributes."""


def read(file: Path) -> Any:
    """Return the content of a file of torch.save, or of a safetensors file, on the CPU.

    Objects of types other than tensors, numbers, text and their containers are replaced by `Unread`, since making them would run
    code that the file names. Raises UserError, which says what else the file is.
    """
    _look(file)
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            head = stream.read(1024)
            stream.seek(max(size - 8, 0))
            tail = stream.read()
    except OSError as reason:
        raise UserError(f"cannot read weights from {file}: {cause(reason)}") from reason
    if not size:
        raise UserError(f"cannot read weights from {file}: it is empty; copy it again")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _LONGEST_HEADER:
        load: Callable[[Path], Any] = load_file
    elif head.startswith(b"PK\x03\x04"):
        load = _load_zip
    elif _LEGACY in head[:32]:
        load = _load_legacy
    else:
        raise UserError(_other_format(file, _description(head, tail)))
    try:
        return load(file)
    except UserError:
        raise
    except Exception as reason:  # what a damaged file raises depends on where it is damaged
        raise UserError(f"cannot read weights from {file}: it is incomplete or damaged ({cause(reason)}); copy it again") from reason


def type_name(value: object) -> str:
    """Return the name of a value's type, in words where pickle knows it by another name."""
    cls = type(value)
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    if name.startswith("numpy") and name.endswith((".scalar", "._reconstruct")):
        return "numpy scalar" if name.endswith("scalar") else "numpy array"
    return name


def by_hand(file: Path, entry: str) -> str:
    """Return how to save the weights alone by loading the whole file, which runs its code. `entry` is Python for the part to save."""
    return f"where you trust it, torch.save(torch.load({file.name!r}, weights_only=False){entry}, 'weights.pth') saves its weights alone"


def _load_zip(file: Path) -> Any:
    try:
        with zipfile.ZipFile(file) as archive:
            members = [name.rpartition("/")[2] for name in archive.namelist()]
    except zipfile.BadZipFile as reason:
        raise UserError(f"cannot read weights from {file}: its end is missing; copy or download it again") from reason
    if "data.pkl" in members and "constants.pkl" not in members:
        return _load(file, set(torch.serialization.get_unsafe_globals_in_checkpoint(file)))
    kind = "a zip archive that torch.save did not write"
    if "constants.pkl" in members:
        kind = "a TorchScript archive, whose layers cannot be cut: save the state_dict() of the network as it was before torch.jit"
    elif "archive_format" in members:
        kind = "a program of torch.export: save the state_dict() of the network as it was before"
    elif members and all(name.endswith(".npy") for name in members):
        kind = "an archive of numpy arrays"
    elif "model.weights.h5" in members:
        kind = "a Keras file"
    raise UserError(_other_format(file, kind))


def _load_legacy(file: Path) -> Any:
    with file.open("rb") as stream:
        four = [step for _ in range(4) for step in pickletools.genops(stream)]  # magic number, version, machine, object
    pairs = [str(argument).split(" ", 1) for code, argument, _ in four if code.name == "GLOBAL"]  # with the names of Python 2
    now = [NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name)) for module, name in pairs]
    return _load(file, {f"{module}.{name}" for module, name in now})


def _load(file: Path, names: set[str]) -> Any:
    """Load a file with torch's safe loader. `names` are the dotted names of the types and functions in it that it may not know."""
    try:
        with torch.serialization.safe_globals([_stand_in(name) for name in names]), warnings.catch_warnings(), file.open("rb") as stream:
            warnings.simplefilter("ignore")  # of formats that are no longer written
            return torch.load(stream, map_location="cpu", weights_only=True)  # of a path it would ask for the suffix
    except pickle.UnpicklingError as reason:
        if any(name.startswith("torch.nn.modules.") for name in names):
            raise whole_network(file) from reason
        found = re.search(r"GLOBAL (\S+\.\S+)|<class '([^']+\.[^']+)'>", str(reason))
        theirs = sorted(name for name in names if not name.startswith(("torch.", "builtins.", "collections.")))
        kind = next(filter(None, found.groups())) if found else ", ".join(theirs[:3])
        raise UserError(
            f"cannot read weights from {file}: it holds an object of {kind or 'an unknown type'}, which cannot be loaded without running "
            f"its code; {by_hand(file, '[ENTRY]')}"
        ) from reason


def whole_network(file: Path, entry: str = "") -> UserError:
    """Return the error of a file in which `torch.save(model, FILE)` has saved a whole network, at `entry` in Python's notation."""
    return UserError(
        f"{file} holds a whole network{f' at {entry}' if entry else ''}, which cannot be loaded without running its code: save "
        f"model.state_dict() instead of model; {by_hand(file, f'{entry}.state_dict()')}"
    )


def _stand_in(name: str) -> type[Unread]:
    """Return what is made in place of a type, or called in place of a function. Two containers are read as those that they extend."""
    module, _, kind = name.rpartition(".")
    container = {"collections.defaultdict": dict, "collections.deque": list}.get(name)
    special = {"__new__": lambda *_arguments: container()} if container else {}
    return type(kind, (Unread,), {"__module__": module, "__qualname__": kind, **special})


def _look(file: Path) -> None:
    """Raise UserError, with what is there instead, unless there is such a file."""
    if file.is_dir():
        inside = sorted(path.name for path in file.iterdir())
        if "saved_model.pb" in inside:
            kind = "a SavedModel of TensorFlow"
        elif ".metadata" in inside:
            kind = "a distributed checkpoint: torch.distributed.checkpoint.format_utils.dcp_to_torch_save makes one file of it"
        elif "data.pkl" in inside:
            kind = "a file of torch.save that was unpacked as a zip archive: get it packed"
        else:
            files = [name for name in inside if name.endswith(WEIGHTS_SUFFIXES)]
            kind = f"a folder: give the file in it ({', '.join(files[:5]) or 'there is none'})"
        raise UserError(_other_format(file, kind))
    if not file.exists():
        if file.with_name(f"{file.name}.index").exists():
            raise UserError(_other_format(file, "a checkpoint of TensorFlow"))
        beside = [path.name for path in file.parent.iterdir() if path.name.endswith(WEIGHTS_SUFFIXES)] if file.parent.is_dir() else []
        raise UserError(f"no weights file {file} (model.weights){did_you_mean(file.name, beside)}")


def _other_format(file: Path, kind: str) -> str:
    return f"cannot read weights from {file}: it is {kind}" + ("" if ": " in kind else f" ({_WANTED})")  # a colon: what to do is said


def _description(head: bytes, tail: bytes) -> str:
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, not the file that its address promised: download it again, signed in where that is asked for"
    for (place, magic), words in _FORMATS.items():
        if head[place:].startswith(magic):
            return words
    if tail == _TABLE_END or start.startswith(b"model_checkpoint_path"):
        return "part of a checkpoint of TensorFlow"
    if head[:1] == b"\x08" and head[2:3] == b"\x12":  # the fields ir_version and producer_name
        return "an ONNX file"
    if not head.strip(b"\0"):
        return "full of zeros, as an unfinished copy is"
    text = head.decode(errors="ignore").strip()
    first = next(iter(text.splitlines()), "")[:40]
    return (
        f"a text file that begins with '{first}'" if first.isprintable() and len(text) > 0.9 * len(head.strip()) else "of no known format"
    )
