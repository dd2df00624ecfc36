"""The package as its sources say, by griffe: nothing is imported, so torch is not needed."""

from functools import cache
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parents[2]


def named(path: str) -> Any:
    """Return what a dotted path such as evalkit.probe.Probe names; an import of it leads to where it is defined."""
    found = _package()[path.removeprefix("evalkit.")]
    return found.final_target if found.is_alias else found


@cache
def _package() -> Any:
    return griffe.load("evalkit", search_paths=[ROOT], allow_inspection=False, docstring_parser="google")
