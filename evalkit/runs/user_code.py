"""Hashes of the user's own Python files: the one that defines a method, model or data source, and all that it imports."""

import ast
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from evalkit.executed import UserModule, behind_names, user_module
from evalkit.imports import is_users


class UserCode:
    """The user's files behind dotted names of a configuration. Files are read once, and nothing is imported."""

    def __init__(self) -> None:
        self._contents: dict[Path, bytes] = {}

    def facts(
        self, key: str, dotted: str, target: Any = None, modules: Iterable[str] = (), executed: Iterable[UserModule] = ()
    ) -> dict[str, Any]:
        """Return the hashes for one dotted name: `key` of the file that defines it, `key.imports` of all other files by name.

        `target` is what the name stands for, where it is imported already; `modules` names further modules that it uses, and
        `executed` are those that were seen to be. Code of this package and of installed ones has no facts.
        """
        files = {module.file: module for module in self._reached(self._roots(dotted, target, modules), executed)}
        first = self._defining(dotted, target)
        imports = {module.label: self._hash(module.file) for module in files.values() if module.file != first}
        own = {} if first is None else {key: self._hash(first)}
        return own | ({f"{key}.imports": dict(sorted(imports.items()))} if imports else {})

    def _defining(self, dotted: str, target: Any) -> Path | None:
        """Return the user's file that defines the target, else the one that its dotted name leads to."""
        file = None if target is None else source_file(innermost(target))
        if file is not None and is_users(file):
            return file
        found = self._roots(dotted, None, ())
        module = find_module(found[0]) if found else None
        return module.file if module is not None else None

    def _roots(self, dotted: str, target: Any, modules: Iterable[str]) -> list[str]:
        """Return the names of the modules at which the search for imports starts."""
        path = dotted.rpartition(".")[0]
        while path and find_module(path) is None:  # a dotted name may end in a class and its method
            path = path.rpartition(".")[0]
        inner = innermost(target)
        named = [path, getattr(target, "__module__", ""), getattr(inner, "__module__", ""), *modules]
        return list(dict.fromkeys(name for name in named if isinstance(name, str) and name))

    def _reached(self, names: Iterable[str], executed: Iterable[UserModule] = ()) -> list[UserModule]:
        """Return the user's modules that importing `names` executes, or may execute later, themselves included.

        A module that is loaded leads to others by what its names stand for, too, however they were imported.
        """
        reached: dict[Path, UserModule] = {}
        waiting: list[tuple[UserModule, Mapping[str, Any]]] = []

        def add(name: str) -> None:
            for part in _with_parents(name):
                module = find_module(part)
                if module is not None:
                    waiting.append((module, vars(sys.modules[part]) if part in sys.modules else {}))

        for name in names:
            add(name)
        waiting += [(module, _loaded(module)) for module in executed]
        while waiting:
            module, namespace = waiting.pop()
            if module.file in reached:
                continue
            reached[module.file] = module
            for name in self._imported(module):
                add(name)
            for behind in behind_names(namespace, submodules=self._imports_computed(module)):
                other = user_module(behind)
                if other is not None:
                    waiting.append((other, behind))
        return list(reached.values())

    def _imports_computed(self, module: UserModule) -> bool:
        """Return whether importing a module calls functions that import others by computed names."""
        outside = [node for node in self._tree(module).body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
        named = {getattr(node, "attr", getattr(node, "id", "")) for part in outside for node in ast.walk(part)}
        return bool(named & {"import_module", "__import__", "iter_modules", "walk_packages"})

    def _imported(self, module: UserModule) -> list[str]:
        """Return the names of all modules that a file imports, anywhere in it."""
        package = module.name if module.file.stem == "__init__" else module.name.rpartition(".")[0]
        return [name for node in ast.walk(self._tree(module)) for name in _names(node, package)]

    def _tree(self, module: UserModule) -> ast.Module:
        if module.file.suffix == ".py":
            try:
                return ast.parse(self._read(module.file))
            except (SyntaxError, ValueError):  # a file that is imported only elsewhere, such as for another version of Python
                pass
        return ast.Module([], [])

    def _read(self, file: Path) -> bytes:
        if file not in self._contents:
            self._contents[file] = file.read_bytes()
        return self._contents[file]

    def _hash(self, file: Path) -> str:
        return hashlib.sha256(self._read(file)).hexdigest()[:12]


def innermost(target: Any) -> Any:
    """Return the function or class behind partial objects, decorators, bound methods and instances."""
    while True:
        inner = target.func if isinstance(target, partial) else getattr(target, "__wrapped__", target)
        if inner is target:
            break
        target = inner
    return target if inspect.isroutine(target) or inspect.isclass(target) else type(target)


def source_file(target: Any) -> Path | None:
    """Return the file that defines a function or class; None for built-in ones."""
    try:
        file = inspect.getsourcefile(target)
    except TypeError:
        return None
    return None if file is None else Path(file)


def find_module(name: str) -> UserModule | None:
    """Return a module of the user's by its full name, imported or not; None for all others."""
    loaded = sys.modules.get(name)
    file = _unloaded(name) if loaded is None else getattr(loaded, "__file__", None)
    return UserModule(name, Path(file)) if isinstance(file, str) and is_users(Path(file)) else None


def _unloaded(name: str) -> str | None:
    """Return the file that importing a name would execute. importlib's own search would import the packages around it."""
    package, _, _ = name.rpartition(".")
    try:
        if not package:
            spec = importlib.util.find_spec(name)
        else:
            places = _places(package)
            spec = PathFinder.find_spec(name, places) if places else None
    except (ImportError, ValueError, AttributeError):
        return None
    return spec.origin if spec is not None and spec.has_location else None


def _places(package: str) -> list[str]:
    """Return the folders in which a package's modules are searched; an empty list for what is no package."""
    if package in sys.modules:
        return list(getattr(sys.modules[package], "__path__", ()))
    parent = package.rpartition(".")[0]
    if not parent:
        spec = importlib.util.find_spec(package)
    else:
        places = _places(parent)
        spec = PathFinder.find_spec(package, places) if places else None
    return list(spec.submodule_search_locations or ()) if spec is not None else []


def _loaded(module: UserModule) -> Mapping[str, Any]:
    """Return the globals of a module; an empty mapping where another one, or none, is loaded under its name."""
    loaded = vars(sys.modules[module.name]) if module.name in sys.modules else {}
    return loaded if user_module(loaded) == module else {}


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[: i + 1]) for i in range(len(parts)))


def _names(node: ast.AST, package: str) -> list[str]:
    """Return the modules that a statement imports; `from a import b` may mean the module a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = _absolute("." * node.level + (node.module or ""), package)
        return [base, *(f"{base}.{alias.name}" for alias in node.names if alias.name != "*")] if base else []
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
        function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if function in ("import_module", "__import__"):
            return [name] if (name := _absolute(node.args[0].value, package)) else []
    return []


def _absolute(name: str, package: str) -> str:
    """Return the full name of a module; empty for a relative import that leads outside its package."""
    try:
        return importlib.util.resolve_name(name, package or None) if name.startswith(".") else name
    except ImportError:
        return ""
