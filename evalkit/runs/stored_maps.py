"""Maps of finished runs (`maps=store`), looked up by method, image and explained class."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit.control_names import versions
from evalkit.errors import UserError, shards_in_words
from evalkit.layer_names import method_of
from evalkit.runs.folder import RunFolder
from evalkit.runs.identity import Identity

_DECIDE_MAPS = ("model", "data", "precision", "decode")
"""Parts of an identity on which the maps of every method depend, besides the method's own settings and code."""


TOGETHER = 2**26
"""Bytes of the shards whose maps are held at once, or those of two where they are larger."""


class StoredMaps:
    """The raw maps of run folders; each method is looked up in the first folder that has it.

    Raises UserError: a folder is not finished, or was run without maps=store.
    """

    def __init__(self, folders: Iterable[RunFolder]) -> None:
        self.folders = list(folders)
        self.code: set[str] = set()
        """Versions of this package that computed the maps."""
        self._folder_of: dict[str, int] = {}
        self._shard_of: list[dict[int, int]] = []
        largest = 1
        for number, folder in enumerate(self.folders):
            shard_of: dict[int, int] = {}
            missing = 0
            for shard in folder.shards:
                stored = folder.stored_maps(shard)
                if stored is None:
                    missing += 1
                    continue
                table, description = stored
                largest = max(largest, table.nbytes)
                shard_of |= dict.fromkeys(table["index"].to_pylist(), shard)
                self.code.add(str(description.get("code")))
            if missing:
                raise UserError(
                    f"{folder.path} lacks the maps of {shards_in_words(missing)}: "
                    "run its command again with maps=store, which changes no number"
                )
            self._shard_of.append(shard_of)
            methods = folder.provenance["identity"]["method"]
            for method in methods.keys() - versions(methods):  # control versions are computed from the stored maps
                self._folder_of.setdefault(method, number)
        self._maps = lru_cache(maxsize=max(2, TOGETHER // largest))(self._read)

    def __contains__(self, method: str) -> bool:
        return method in self._folder_of

    def of(self, method: str, positions: Sequence[int], targets: Sequence[int]) -> Tensor:
        """Return the raw maps (N,h,w), float32, of images given by their position in the data set and the explained class.

        Raises UserError where a map is missing.
        """
        return torch.from_numpy(np.stack([self._one(method, *item) for item in zip(positions, targets, strict=True)]))

    def _one(self, method: str, position: int, target: int) -> np.ndarray:
        number = self._folder_of[method]
        shard = self._shard_of[number].get(position)
        map_ = None if shard is None else self._maps(number, shard).get((method, position, target))
        if map_ is None:
            raise UserError(
                f"{self.folders[number].path} holds no map of {method} for image {position} and class {target}: "
                "its run explained other images or classes; a run without maps_from computes it"
            )
        return map_

    def _read(self, number: int, shard: int) -> dict[tuple[str, int, int], np.ndarray]:
        stored = self.folders[number].stored_maps(shard)
        if stored is None:
            raise UserError(
                f"{self.folders[number].path} no longer holds the maps of shard {shard}, removed or damaged meanwhile: "
                "run its command again with maps=store"
            )
        table = stored[0].filter(stored[0]["map"].is_valid())
        values = table["map"].combine_chunks()
        flat, ends = values.flatten().to_numpy(), values.value_lengths().to_numpy().cumsum()
        columns = (table[name].to_pylist() for name in ("method", "index", "target", "height", "width"))
        return {
            (method, index, target): flat[end - height * width : end].reshape(height, width)
            for end, method, index, target, height, width in zip(ends, *columns, strict=True)
        }


def reused(folder: RunFolder, ours: Identity) -> StoredMaps:
    """Return the stored maps of a run for reuse in another with the identity `ours`: other protocol points, fewer images, more methods.

    Raises UserError, which names the difference, where the other run's maps would not be the same.
    """
    theirs = folder.provenance["identity"]
    shared = [name for name in ours.facts["method"] if name in theirs["method"] and name not in versions(ours.facts["method"])]
    if not shared:
        raise UserError(
            f"maps_from={folder.path} holds maps of {', '.join(theirs['method'])}, none of which this run asks for; leave maps_from out"
        )

    def decisive(identity: Mapping[str, Any]) -> Identity:
        configured = {method_of(name) for name in shared}
        code = {
            key: digest
            for key, digest in identity.get("code", {}).items()
            if not key.startswith(("method.", "control.")) or key.split(".")[1] in configured
        }
        methods = {name: identity["method"][name] for name in shared}
        facts = {key: identity[key] for key in _DECIDE_MAPS}
        facts["model"] = {key: value for key, value in facts["model"].items() if key != "fuse"}  # fused maps say how in their names
        return Identity({**facts, "method": methods, "code": code})

    difference = min((decisive(version.facts).difference(decisive(theirs)) for version in ours.versions), key=len)
    if difference:
        raise UserError(
            f"maps_from={folder.path} holds other maps ({'; '.join(difference)}); leave maps_from out, and the maps are computed"
        )
    return StoredMaps([folder])
