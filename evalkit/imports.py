"""Import of objects by their dotted path, and of optional packages."""

import importlib
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evalkit.errors import UserError, did_you_mean

_PACKAGE = Path(__file__).parent
_LIBRARIES = tuple({Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")})


def is_users(file: Path) -> bool:
    """Return whether a file is the user's own code: not of this package, an installed one or Python's library."""
    parts = set(file.parts)
    if {"site-packages", "dist-packages"} & parts or file.is_relative_to(_PACKAGE):
        return False
    return not any(file.is_relative_to(library) for library in _LIBRARIES)


def find(dotted: str, key: str) -> Callable[..., Any]:
    """Import the callable at a dotted path. Raises UserError, which names the configuration key `key`."""
    path, _, name = dotted.rpartition(".")
    if path.partition(".")[0] == "timm":
        import_timm(f"{key}={dotted}")
    if not all(part.isidentifier() for part in (*path.split("."), name)):
        raise UserError(f"{key}={dotted} is not a dotted path such as package.module.function")
    try:
        module = importlib.import_module(path)
    except ImportError as reason:
        raise UserError(f"{key}={dotted}: cannot import '{path}' ({reason}); put its folder on PYTHONPATH") from reason
    except Exception as reason:  # importing a user's file can raise any exception
        raise UserError(f"{key}={dotted}: importing '{path}' failed with {type(reason).__name__}: {reason}") from reason
    function = getattr(module, name, None)
    if function is None:
        public = [other for other, value in vars(module).items() if callable(value) and not other.startswith("_")]
        raise UserError(f"{key}={dotted}: '{path}' has no '{name}'{did_you_mean(name, public)}")
    if not callable(function):
        raise UserError(f"{key}={dotted} is not callable")
    return function


def import_timm(for_what: str) -> Any:
    """Import the optional package timm. Raises UserError, which says how to install it."""
    try:
        return importlib.import_module("timm")
    except ImportError as reason:
        raise UserError(
            f"{for_what} needs the package timm, which is not installed: in evalkit's folder, pip install '.[timm]'"
        ) from reason
