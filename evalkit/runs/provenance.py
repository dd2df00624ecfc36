"""What provenance.json says of a run: its identity, computed here, and the versions and hardware that made it."""

import hashlib
import inspect
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import evalkit
from evalkit.evaluation.at_layers import function_of
from evalkit.evaluation.control_versions import ControlVersion
from evalkit.evaluation.session import Session
from evalkit.imports import dotted_names, find
from evalkit.layer_names import method_of
from evalkit.methods.pixel import guided
from evalkit.models.grid import Grid
from evalkit.runs.folder import RunFolder
from evalkit.runs.identity import Identity
from evalkit.runs.user_code import UserCode, source_file
from evalkit.until import facts as until_facts

VERSIONS = (
    "torch", "torchvision", "numpy", "pillow", "pyarrow", "hydra-core", "pandas", "captum", "timm", "grad-cam", "torchcam",
)  # fmt: skip
"""Packages that can affect numbers; the last three are optional."""

PACKAGE = Path(evalkit.__file__).parent
DECISIVE = ("ablation", "data", "evaluation", "methods", "models", "runs")
"""Subpackages whose code determines rows and stored maps."""


def identify(session: Session) -> Identity:
    """Return the identity of a run: the settings, hashes of weights and user code, and data that determine its numbers."""
    config, model = session.config, session.model
    settings = {**config.model.in_identity(), **_grids([net.grid for net in model.nets])}
    names = hashlib.sha256(repr((list(model.classes.keys or []), sorted(model.classes.map.items()))).encode()).hexdigest()[:16]
    facts = {
        "model": {**settings, "weights_hash": model.weights_hash, "classes_hash": names},
        "data": {"name": config.data.get("name"), "fingerprint": session.source.fingerprint},
        "method": _methods(session),
        "protocol": config.protocol.model_dump(mode="json"),
        **config.model_dump(mode="json", include={"target", "images", "sample", "limit", "precision", "decode"}),
        **config.measures_in_identity(),
        "seed": config.seed if config.sample is not None or config.until is not None else None,
    }
    question = config.question(session.methods)
    if question is not None:
        facts["until"] = until_facts(question, config.protocol.all_points(), config.images_per_shard)
    if config.until_from is not None:  # its images, asked of its methods
        asked = RunFolder(config.until_from).provenance["identity"].get("until", {})
        facts["until"] = {**asked, "shard_size": config.images_per_shard}
    code, earlier = _user_code(session, settings), _defining_files(session)
    return Identity({**facts, "code": code}, None if code == earlier else Identity({**facts, "code": earlier}))


def _methods(session: Session) -> dict[str, Any]:
    """Return the settings of each method, by the names of its rows; those of a control version are its control's."""
    config = session.config
    controls = {name: method.control for name, method in session.methods.items() if isinstance(method, ControlVersion)}
    methods = config.method
    if len(session.model.nets) > 1:
        methods = {name: config.method[method_of(name)] for name in session.methods if name not in controls}
    return {**methods, **{name: config.control[control] for name, control in controls.items()}}


def _grids(grids: Sequence[Grid]) -> dict[str, Any]:
    """Return how the outputs of the layers are read: of one layer as `_grid` does, of several as lists."""
    found = [_grid(grid) for grid in grids]
    if len(found) == 1:
        return found[0]
    return {key: [one.get(key) for one in found] for key in ("grid", "prefix_tokens")} if any(found) else {}


def _grid(grid: Grid) -> dict[str, Any]:
    """Return how the layer's output is read where that is not as maps, which earlier versions took for granted."""
    return {} if grid.layout == "maps" else {"grid": [grid.layout, grid.height, grid.width], "prefix_tokens": grid.prefix}


def _user_code(session: Session, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hashes of all of the user's files behind the model, the methods and the data source."""
    config, code = session.config, UserCode()
    classes = sorted({type(part).__module__ for part in session.model.module.modules()})  # found where a factory imports by a computed name
    factory = find(config.model.factory, "model.factory")
    found = code.facts("model.factory", config.model.factory, factory, classes, session.model.executed)
    named = [("model", {key: value for key, value in settings.items() if key not in ("name", "factory", "layer")})]
    named += [("data", {key: value for key, value in config.data.items() if key != "name"})]
    for key, own in [(f"{group}.{name}", one) for group in ("method", "control") for name, one in getattr(config, group).items()]:
        found |= code.facts(key, str(own["_target_"]), find(str(own["_target_"]), f"{key}._target_"))
        named += [(key, {name: value for name, value in own.items() if name != "_target_"})]
    for prefix, values in named:
        for key, dotted in dotted_names(values, prefix):
            target = find(dotted, key) if key in _guided(session) else None
            found |= code.facts(key, dotted, target)
    return found


def _guided(session: Session) -> dict[str, str]:
    """Return the methods that `guided` takes by their dotted names, by key."""
    methods = {name: parameters for name, (function, parameters) in _functions(session).items() if function is guided}
    return {f"method.{name}.method": parameters["method"] for name, parameters in methods.items() if "method" in parameters}


def _functions(session: Session) -> dict[str, tuple[Any, Mapping[str, Any]]]:
    """Return each configured method's function and parameters, once where it explains several layers."""
    several = len(session.model.nets) > 1
    methods = {name: method for name, method in session.methods.items() if not isinstance(method, ControlVersion)}
    return {method_of(name) if several else name: function_of(method) for name, method in methods.items()}


def _defining_files(session: Session) -> dict[str, Any]:
    """Return the hashes that earlier versions recorded: of the one file that defines the model's factory, and of each method's."""
    code = {f"method.{name}": function for name, (function, _) in _functions(session).items()}
    code |= {key: find(dotted, key) for key, dotted in _guided(session).items()}
    code["model.factory"] = find(session.config.model.factory, "model.factory")
    return {key: digest for key, function in code.items() if (digest := source_hash(function)) is not None}


def provenance(session: Session) -> dict[str, Any]:
    """Return what provenance.json holds besides the identity: weights, class names, commit, versions, hardware."""
    model, config = session.model, session.config
    return {
        "weights": model.weights,
        "expected_top1": config.model.expected_top1,
        "expected_top1_source": config.model.expected_top1_source,
        "paper_table": config.model.paper_table if len(model.nets) == 1 else None,  # the paper explains one layer
        "class_names": [model.classes.name(i) for i in range(model.classes.outputs)],
        "git_commit": _git_commit(),
        **shard_metadata(session),
        "versions": {name: metadata.version(name) for name in VERSIONS if _installed(name)},
        "python": platform.python_version(),
        "hardware": {"machine": platform.machine(), "processor": _processor(), "threads": torch.get_num_threads()},
    }


def shard_metadata(session: Session) -> dict[str, Any]:
    """Return the metadata of a shard: the code, torch version, device and batch size that computed it."""
    device = torch.cuda.get_device_name(session.device) if session.device.type == "cuda" else "cpu"
    code = "+".join(sorted({code_version(), *(session.stored.code if session.stored else ())}))
    return {"code": code, "torch": torch.__version__, "device": device, "batch_size": session.config.batch_size}


def source_hash(function: Any) -> str | None:
    """Return a hash of the one file that defines a user's function or class; None for this package and installed libraries."""
    function = inspect.unwrap(function)
    file = source_file(function if inspect.isroutine(function) or inspect.isclass(function) else type(function))
    if file is None or "site-packages" in file.parts or file.is_relative_to(PACKAGE):
        return None
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def code_version() -> str:
    """Return a hash over the modules that determine numbers: the packages in `DECISIVE` and the files at the root of evalkit."""
    files = [*PACKAGE.glob("*.py"), *(file for name in DECISIVE for file in (PACKAGE / name).rglob("*.py"))]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _git_commit() -> str | None:
    """Return the commit of the checkout; None for an installed package."""
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return None
    result = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return result.stdout.strip() or None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        return f"{len(names)} x {names[0]}" if names else platform.processor()
    return platform.processor()
