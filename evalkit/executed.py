"""Which of the user's modules are executed, where no import statement names them: `import_module(f"models.{name}")`."""

import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import resolve_name
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NamedTuple

from evalkit.imports import is_users


class UserModule(NamedTuple):
    """A module by its full name, and its file."""

    name: str
    file: Path

    @property
    def label(self) -> str:
        """The file as its import path names it, the same on every machine: `pkg/net.py`, `pkg/__init__.py`."""
        parts = self.name.split(".")
        return "/".join([*(parts if self.file.stem == "__init__" else parts[:-1]), self.file.name])


@contextmanager
def executed_modules() -> Iterator[list[UserModule]]:
    """Collect the user's modules of which code is executed within the block, or that `import_module` is asked for there.

    The second kind counts also where the module was loaded before. The list is filled at the end of the block.
    """
    names: dict[str, str] = {}
    asked: set[str] = set()
    found: list[UserModule] = []
    other = sys.getprofile()

    def note(frame: FrameType, event: Any, argument: Any) -> None:
        if event == "call":
            names.setdefault(frame.f_code.co_filename, str(frame.f_globals.get("__name__")))
            if frame.f_code is importlib.import_module.__code__:
                asked.add(resolve_name(str(frame.f_locals["name"]), frame.f_locals["package"]))
        if other is not None:
            other(frame, event, argument)

    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(other)
    loaded = [module for name in asked if (module := user_module(vars(sys.modules[name]) if name in sys.modules else {})) is not None]
    executed = [UserModule(name, Path(file)) for file, name in names.items() if is_users(Path(file))]
    found += sorted({module.file: module for module in executed + loaded}.values())


def user_module(namespace: Mapping[str, Any]) -> UserModule | None:
    """Return the module with the given globals; None where it is not the user's."""
    name, file = namespace.get("__name__"), namespace.get("__file__")
    return UserModule(name, Path(file)) if isinstance(name, str) and isinstance(file, str) and is_users(Path(file)) else None


def behind_names(namespace: Mapping[str, Any], *, submodules: bool) -> Iterator[Mapping[str, Any]]:
    """Yield the globals of the modules that a module's names stand for, or whose functions, classes or their instances they stand for.

    `submodules` says whether the modules in a package of that module count: importing them later gives the package these names.
    """
    for name, value in list(namespace.items()):
        if isinstance(value, ModuleType):
            if submodules or value.__name__ != f"{namespace.get('__name__')}.{name}":
                yield vars(value)
        elif not name.startswith("__"):
            yield _globals(value)


def _globals(value: Any) -> Mapping[str, Any]:
    while isinstance(value, partial) or "__wrapped__" in getattr(value, "__dict__", {}):
        value = value.func if isinstance(value, partial) else value.__wrapped__
    if inspect.isfunction(value):
        return value.__globals__
    cls = value if inspect.isclass(value) else type(value)
    module = sys.modules.get(str(cls.__module__))
    if module is not None:
        return vars(module)
    methods = (method for method in vars(cls).values() if inspect.isfunction(method))
    return next((method.__globals__ for method in methods), {})
