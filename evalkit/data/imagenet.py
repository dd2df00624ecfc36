"""ImageNet (ILSVRC2012) val in its common layouts, and its 1000 classes."""

import io
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from itertools import chain

from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from evalkit.data.boxes import Box, match_boxes, read_boxes
from evalkit.data.decode import Encoded
from evalkit.data.listing import is_hidden, list_images
from evalkit.data.sources import ClassKey, Files, Folder, existing_folder, hash_entries, is_wnid, labelled_files, read_labels, utf8
from evalkit.data.text import decode_text
from evalkit.errors import UserError, cause, first_line, printable
from evalkit.files import Place, place

DEVKIT = "ILSVRC2012_devkit_t12"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
KAGGLE_LABELS = "LOC_val_solution.csv"


def imagenet(root: Folder, labels: str | None = None, devkit: str | None = None, boxes: str | None = None) -> "Files | TarFile":
    """Open ImageNet val below `root`, in any of three layouts.

    - class folders `n01440764/*.JPEG` (also below `val/`);
    - a flat folder, with labels from `labels` (columns file, wnid, index; or Kaggle's LOC_val_solution.csv) or from
      the development kit (`devkit`: its folder or .tar.gz; by default searched next to the images);
    - the original ILSVRC2012_img_val.tar, or a folder that holds it, with labels from the same files; read without unpacking.

    `boxes` is the folder of ImageNet's annotations (ILSVRC2012_val_*.xml), or a list in the format of `read_boxes`.

    Raises UserError: none of these layouts is there, or labels cannot be found.
    """
    base = place(root)
    boxes_path = None if boxes is None else place(boxes)
    tar = base if base.is_file() else base / "ILSVRC2012_img_val.tar"
    if tar.is_file():
        return TarFile(tar, _flat_labels(tar.parent, labels, devkit), boxes_path)
    folder = existing_folder(root)
    if (folder / "val").is_dir():
        folder = folder / "val"
    if labels is not None:
        return labelled_files(folder, place(labels), boxes_path)
    found = list_images(folder)
    paths = found.images
    parents = {path.split("/")[-2] for path in paths if "/" in path}
    if paths and all(is_wnid(parent) for parent in parents) and all("/" in path for path in paths):
        return Files(folder, paths, [(path.split("/")[-2],) for path in paths], boxes_path, found)
    if parents or not paths:
        raise UserError(
            f"{folder} is not ImageNet val: expected class folders such as n01440764, ILSVRC2012_val_*.JPEG, or ILSVRC2012_img_val.tar"
        )
    keys = _flat_labels(folder, labels, devkit)
    return Files(folder, paths, [keys.get(path, ()) for path in paths], boxes_path, found)


class TarFile(Encoded):
    """Images inside an uncompressed tar, read at their offsets."""

    def __init__(self, tar: Place, keys: dict[str, tuple[ClassKey, ...]], boxes: Place | None = None) -> None:
        with _opened(tar) as archive:
            members = sorted((m.name, m.offset_data, m.size) for m in archive if m.isfile() and not is_hidden(m.name.removeprefix("./")))
        if not members:
            raise UserError(f"no images in {tar}")
        self.tar, self.members = tar, members
        self.keys = [keys.get(name, ()) for name, _, _ in members]
        self.known_boxes = {} if boxes is None else read_boxes(boxes)
        self.matched_boxes = match_boxes(self.known_boxes, [name for name, _, _ in members], boxes)

    def __len__(self) -> int:
        return len(self.members)

    def image_id(self, position: int) -> str:
        """Return the member's name."""
        return utf8(self.members[position][0])

    def class_keys(self, position: int) -> tuple[ClassKey, ...]:
        """Return the wnid that the labels give."""
        return self.keys[position]

    def boxes(self, position: int) -> Sequence[Box]:
        """Return the boxes that the annotations give."""
        return self.matched_boxes.of_image.get(self.members[position][0], ())

    def encoded(self, position: int) -> bytes:
        """Return the member's content."""
        _, offset, size = self.members[position]
        with self.tar.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    @property
    def fingerprint(self) -> str:
        """Hash over names, sizes, labels and boxes."""
        files = ((name, size, key) for (name, _, size), key in zip(self.members, self.keys, strict=True))
        return hash_entries(chain(files, sorted(self.known_boxes.items())))


def wnids() -> list[str]:
    """Return the wnids of the 1000 classes, in the order of the outputs of torchvision's models."""
    return (resources.files("evalkit.data") / "imagenet_wnids.txt").read_text().split()


@cache
def synonyms() -> Mapping[str, str]:
    """Return the names of the 1000 classes by wnid, as in `teddy, teddy bear`; none where timm, which has them, is not installed."""
    try:
        from timm.data import ImageNetInfo  # noqa: PLC0415 - optional, and slow to import
    except ImportError:
        return {}
    info = ImageNetInfo("imagenet-1k")
    return {info.index_to_label_name(i): info.index_to_description(i) for i in range(info.num_classes())}


def _flat_labels(folder: Place, labels: str | None, devkit: str | None) -> dict[str, tuple[ClassKey, ...]]:
    """Return the wnid of each file name."""
    listed = (
        place(labels)
        if labels is not None
        else next((p for p in (folder / KAGGLE_LABELS, folder.parent / KAGGLE_LABELS) if p.is_file()), None)
    )
    if listed is not None:
        return read_labels(listed)
    kits = [place(devkit)] if devkit is not None else [base / (DEVKIT + end) for base in (folder, folder.parent) for end in ("", ".tar.gz")]
    kit = next((kit for kit in kits if kit.exists()), None)
    if kit is None:
        raise UserError(
            f"{folder} holds no class folders, so labels are needed: "
            f"set data.devkit to {DEVKIT}(.tar.gz) or data.labels to a list (file, wnid, index)"
        )
    return _read_devkit(kit)


def _read_devkit(kit: Place) -> dict[str, tuple[ClassKey, ...]]:
    """Join the ground truth (one ILSVRC2012_ID per line) with meta.mat (ILSVRC2012_ID -> WNID)."""

    def read(name: str) -> bytes:
        if kit.is_dir():
            for path in kit.rglob(name):
                return path.read_bytes()
        else:
            with _opened(kit) as archive:
                for member in archive:
                    stream = archive.extractfile(member) if member.name.endswith("/" + name) else None
                    if stream is not None:
                        return stream.read()
        raise UserError(f"no {name} in {kit}: is this the development kit of ILSVRC2012?")

    try:
        synsets = loadmat(io.BytesIO(read("meta.mat")), squeeze_me=True)["synsets"]
        wnid = {int(entry["ILSVRC2012_ID"]): str(entry["WNID"]) for entry in synsets}
    except (ValueError, KeyError, IndexError, TypeError, NotImplementedError, MatReadError, zlib.error) as reason:
        raise UserError(f"meta.mat in {kit} is not that of ILSVRC2012 ({cause(reason)}); unpack the development kit again") from reason
    lines = decode_text(read(GROUND_TRUTH), f"{GROUND_TRUTH} in {kit}").split()
    strange = next((line for line in lines if not line.isdecimal() or int(line) not in wnid), None)
    if strange is not None:
        raise UserError(f"{GROUND_TRUTH} in {kit} holds '{printable(strange[:20])}', which is no ILSVRC2012_ID of meta.mat")
    return {f"ILSVRC2012_val_{number:08d}.JPEG": (wnid[int(line)],) for number, line in enumerate(lines, 1)}


@contextmanager
def _opened(tar: Place) -> Iterator[tarfile.TarFile]:
    """Open an archive. Raises UserError where it is none, or is cut off."""
    try:
        with tar.open("rb") as file, tarfile.open(fileobj=file) as archive:
            yield archive
    except (tarfile.TarError, EOFError, zlib.error) as reason:
        raise UserError(f"{tar} is no complete tar archive ({first_line(reason)}); download it again") from reason
