"""Which module may know which, read off the syntax trees: imports inside functions count as those at the top do."""

import ast
from graphlib import TopologicalSorter

import pytest
from builders import ROOT

FILES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in (ROOT / "evalkit").rglob("*.py")
}


def imported(name: str) -> set[str]:
    """Modules of this package, and the top names of others, that a module imports; not what it imports for its types alone."""
    found: set[str] = set()
    tree = ast.parse(FILES[name].read_text())
    for_types = {
        inner for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) for inner in ast.walk(node)
    }
    for node in set(ast.walk(tree)) - for_types:
        paths = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            paths = [inner if (inner := f"{node.module}.{alias.name}") in FILES else str(node.module) for alias in node.names]
        found |= {path if path in FILES else path.partition(".")[0] for path in paths}
    return found


GRAPH = {name: imported(name) for name in FILES}


def reached(name: str) -> set[str]:
    """All that a module imports, however indirectly, with the faces of the packages on the way."""
    seen, waiting = set(), [name]
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            waiting += [*GRAPH.get(one, ()), *([one.rpartition(".")[0]] if one in FILES and one != "evalkit" else [])]
    return seen - {name}


def rooms(*names: str) -> list[str]:
    return [module for module in FILES if module.startswith(tuple(f"evalkit.{name}" for name in names))]


@pytest.mark.parametrize(
    ("who", "never"),
    [
        (
            rooms("methods", "ablation", "probe", "protocol", "models.split"),
            ("evalkit.config", "hydra", "rich", "evalkit.data", "evalkit.runs"),
        ),
        (rooms("analysis", "output"), ("torch", "torchvision")),
        (
            rooms(
                *(
                    f"verify.{name}"
                    for name in ("compare", "ending", "expected", "outcome", "record", "sample", "structure", "tolerances", "words")
                )
            ),
            ("torch", "torchvision"),
        ),
        (rooms("evaluation"), ("evalkit.runs", "evalkit.launch", "evalkit.cli")),
        ([module for module in FILES if not module.startswith(("evalkit.cli", "evalkit.__main__"))], ("evalkit.cli",)),
    ],
)
def test_who_never_reaches_whom(who, never):
    assert who and not {(module, one) for module in who for one in reached(module) if one.startswith(never)}


def test_no_circle_among_modules_nor_among_packages():
    tuple(TopologicalSorter(GRAPH).static_order())
    packages: dict[str, set[str]] = {}
    for module, others in GRAPH.items():
        package = ".".join(module.split(".")[:2])
        packages.setdefault(package, set()).update(".".join(other.split(".")[:2]) for other in others if other in FILES)
    tuple(TopologicalSorter({package: others - {package} for package, others in packages.items()}).static_order())
