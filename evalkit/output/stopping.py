"""Sentences on how a run with `until` ended."""

from collections.abc import Callable, Mapping
from typing import Any

from evalkit.point import Point

QUOTE = (
    "Quote this interval: it holds however often the run was looked at. The other intervals and the p values of this run do not allow "
    "for the looking, and are optimistic."
)


def ending(provenance: Mapping[str, Any], describe: Callable[[Point], str]) -> str:
    """Return why a run ended, from its record, with its point in the words of `describe`; empty where unfinished or without `until`."""
    end = provenance.get("end")
    if not end:
        return ""
    images, used = int(provenance["images"]), int(provenance["shard_size"]) * int(end["shards"])
    pair = f"{end['first']} - {end['second']}"
    what = {"average_drop": "average drop in confidence", "win": "wins minus losses in confidence"}[end["metric"]]
    point = describe(Point(*end["point"]))
    numbers = (
        f"{what} at {point}: {end['difference']:+.2f} points (n = {end['n']:,}), {100 * end['level']:g} % confidence sequence "
        f"[{end['low']:+.2f}, {end['high']:+.2f}] (by betting, Waudby-Smith and Ramdas 2024)"
    )
    if end["settled"]:
        return f"Stopped after {min(images, used):,} of {images:,} images, in random order: {pair} is settled; {numbers}."
    return f"Not settled by all {images:,} images: {pair} may be 0; {numbers}."
