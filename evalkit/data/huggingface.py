"""Any image data set that the Hugging Face `datasets` library can read, from the hub or from disk, streamed or not."""

import hashlib
import logging
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, IterableDataset, load_dataset, load_from_disk
from datasets import Image as ImageFeature
from datasets.exceptions import DatasetsError

from evalkit.data.boxes import Box
from evalkit.data.decode import Encoded, UnreadableImage
from evalkit.data.hub_columns import Columns, choose_columns, element
from evalkit.data.sources import ClassKey, ListedClass
from evalkit.errors import UserError, did_you_mean
from evalkit.files import local


def hugging_face(
    path: str,
    subset: str | None = None,
    split: str = "validation",
    streaming: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
) -> "MapDataset | StreamedDataset":
    """Open a data set by its hub name or local path (`save_to_disk` folders included).

    Columns default as `choose_columns` says. Pictures are decoded by this package, since `datasets` would rotate them by
    their EXIF tag.

    Raises UserError: no such data set, split or column, or columns that cannot be told apart.
    """
    path = str(local(path)) if path.startswith("~") else path
    try:
        if Path(path, "state.json").is_file() or Path(path, "dataset_dict.json").is_file():
            data: Any = load_from_disk(path)
            if isinstance(data, DatasetDict):
                if split not in data:
                    raise UserError(f"no split '{split}' in {path}{did_you_mean(split, data)}")
                data = data[split]
            data = data.to_iterable_dataset() if streaming else data
        else:
            with _quiet_retries():
                data = load_dataset(path, subset, split=split, streaming=streaming)
    except (OSError, ValueError, RuntimeError, DatasetsError) as reason:  # RuntimeError: the data set is a script
        raise UserError(f"cannot open the data set '{path}', split '{split}': {' '.join(str(reason).split())}") from reason
    except IndexError as reason:  # raised by load_from_disk
        raise UserError(f"the data set '{path}', split '{split}', has no rows") from reason
    columns = choose_columns(data, path, image_column, label_column)
    data = data.cast_column(columns.image, ImageFeature(decode=False))
    kind = StreamedDataset if streaming else MapDataset
    return kind(data, path, columns)


@contextmanager
def _quiet_retries() -> Iterator[None]:
    """Silence the hub's warnings of each retry; when it gives up, its error says the same."""
    hub = logging.getLogger("huggingface_hub")
    before = hub.level
    hub.setLevel(logging.ERROR)
    try:
        yield
    finally:
        hub.setLevel(before)


class _Columns(Encoded):
    def __init__(self, data: Any, path: str, columns: Columns) -> None:
        self.data, self.path, self.columns = data, path, columns
        self.image, self.label = columns.image, columns.label
        feature = element(data.features[self.label]) if self.label else None
        self.names = feature.names if isinstance(feature, ClassLabel) else None

    def image_id(self, position: int) -> str:
        """Return the data set's name and the position, since such data sets have no file names."""
        return f"{Path(self.path).name}/{position:08d}"

    def indicators(self, position: int) -> int | None:
        """Return the length of a label that is a list of two or more zeros and ones, as a one-hot encoding is; None for any other."""
        value = None if self.names is not None else self._label(position)
        return len(value) if isinstance(value, list) and len(value) > 1 and all(v in (0, 1) for v in value) else None

    def class_keys(self, position: int) -> tuple[ClassKey, ...]:
        """Return the names of the ClassLabel (one or a list), or the values of the label column; True and False are 1 and 0."""
        value = self._label(position)
        values = value if isinstance(value, list) else [value]
        labels = dict.fromkeys(int(v) if isinstance(v, bool) else v for v in values if v is not None and v != -1)
        return tuple(v if self.names is None else ListedClass(str(self.names[v]), int(v)) for v in labels)

    def boxes(self, position: int) -> Sequence[Box]:  # noqa: ARG002 - boxes have no common format on the hub
        """Return no boxes; for localisation, use an image folder with a list of boxes."""
        return ()

    def encoded(self, position: int) -> bytes | Path:
        """Return the picture's bytes or file. Raises UnreadableImage where the row holds neither."""
        picture = self._row(position)[self.image] or {}
        if picture.get("bytes") is not None:
            return bytes(picture["bytes"])
        if not picture.get("path"):
            raise UnreadableImage("this row of the data set holds no picture")
        return Path(picture["path"])

    @abstractmethod
    def _label(self, position: int) -> Any: ...

    @abstractmethod
    def _row(self, position: int) -> dict[str, Any]: ...


class MapDataset(_Columns):
    """A data set with random access."""

    data: Dataset

    @cached_property
    def _labels(self) -> list[Any] | None:
        return list(self.data[self.label]) if self.label else None

    def __len__(self) -> int:
        return len(self.data)

    def _label(self, position: int) -> Any:
        return None if self._labels is None else self._labels[position]

    def _row(self, position: int) -> dict[str, Any]:
        return dict(self.data[position])

    @property
    def fingerprint(self) -> str:
        """Hash over the number of rows, the labels and the encoded size of every hundredth picture."""
        sizes = [len((self.data[i][self.image] or {}).get("bytes") or b"") for i in range(0, len(self), 100)]
        return hashlib.sha256(repr((len(self), self._labels or [], sizes)).encode()).hexdigest()


class StreamedDataset(_Columns):
    """A data set that is read in order; going back, or ahead to a later worker's part, restarts the stream."""

    data: IterableDataset
    streamed = True

    def __init__(self, data: IterableDataset, path: str, columns: Columns) -> None:
        super().__init__(data, path, columns)
        splits = data.info.splits or {}
        self.count = next((s.num_examples for s in splits.values() if str(s.name) == str(data.split) and s.num_examples), None)
        self._iterator: Iterator[dict[str, Any]] = iter(())
        self._next = -1
        self._held: tuple[int, dict[str, Any]] | None = None

    def __len__(self) -> int:
        if self.count is None:
            raise UserError(f"'{self.path}' does not say how many images it streams: set limit=N, or data.streaming=false")
        return self.count

    def _label(self, position: int) -> Any:
        return self._row(position)[self.label] if self.label else None

    def _row(self, position: int) -> dict[str, Any]:
        if self._held is None or self._held[0] != position:
            if position != self._next:
                self._iterator = iter(self.data.skip(position))
            row = next(self._iterator, None)
            if row is None:
                raise UserError(f"'{self.path}' ended before image {position}: set a smaller limit")
            self._held, self._next = (position, row), position + 1
        return self._held[1]

    @property
    def fingerprint(self) -> str:
        """Hash over name, split, label column and size; the pictures are not known before they have been streamed."""
        return hashlib.sha256(
            repr((self.path, self.data.info.config_name, str(self.data.split), self.label, self.names, self.count)).encode()
        ).hexdigest()
