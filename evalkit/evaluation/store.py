"""What the loop needs of the place where it publishes shards, and parts of shards."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa


@dataclass(frozen=True)
class Part:
    """Some consecutive images of a shard, finished: those from `start` up to `stop`, counted within the shard."""

    start: int
    stop: int
    rows: pa.Table
    maps: pa.Table
    about: Mapping[str, Any]
    """The metadata that the file of a shard holds too: code, device, seconds and so on."""


class ShardStore(Protocol):
    """A place for finished shards and parts of shards, such as `evalkit.runs.folder.RunFolder`."""

    @property
    def shard_size(self) -> int:
        """Images per shard."""
        ...

    def is_done(self, shard: int, *, maps: bool = False) -> bool:
        """Return whether a shard is finished, with `maps` also its stored maps."""
        ...

    def write_shard(self, shard: int, rows: pa.Table, maps: pa.Table, metadata: Mapping[str, Any]) -> None:
        """Publish a finished shard."""
        ...

    def parts(self, shard: int, *, maps: bool = False) -> list[Part]:
        """Return what is kept of an unfinished shard, with `maps` where its maps are stored: parts that follow each other, from 0."""
        ...

    def write_part(self, shard: int, part: Part) -> None:
        """Publish a part of an unfinished shard."""
        ...

    def discard_parts(self, shard: int) -> None:
        """Remove the parts of a shard that is finished."""
        ...
