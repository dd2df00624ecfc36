"""What provenance.json says of a run: its identity, computed here, and the versions and hardware that made it."""

import hashlib
import inspect
import platform
import subprocess
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import evalkit
from evalkit.evaluation.session import Session
from evalkit.imports import find
from evalkit.methods.pixel import guided
from evalkit.runs.identity import Identity

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
    settings = config.model.model_dump(
        mode="json", exclude={"expected_top1", "expected_top1_source", "paper_table", "seed", "weights", "classes", "class_map"}
    )
    names = hashlib.sha256(repr((list(model.classes.keys or []), sorted(model.classes.map.items()))).encode()).hexdigest()[:16]
    code = {}
    for name, method in session.methods.items():
        if isinstance(method, partial):
            code[f"method.{name}"] = source_hash(method.func)
            if method.func is guided and "method" in method.keywords:  # it takes another method by its dotted path
                code[f"method.{name}.method"] = source_hash(find(method.keywords["method"], f"method.{name}.method"))
    code["model.factory"] = source_hash(find(config.model.factory, "model.factory"))
    facts = {
        "model": {**settings, "weights_hash": model.weights_hash, "classes_hash": names},
        "data": {"name": config.data.get("name"), "fingerprint": session.source.fingerprint},
        "method": config.method,
        "code": {name: digest for name, digest in code.items() if digest is not None},
        "protocol": config.protocol.model_dump(mode="json"),
        **config.model_dump(mode="json", include={"target", "images", "sample", "limit", "precision", "decode", "measures"}),
        "seed": config.seed if config.sample is not None else None,
    }
    return Identity(facts)


def provenance(session: Session) -> dict[str, Any]:
    """Return what provenance.json holds besides the identity: weights, class names, commit, versions, hardware."""
    model, config = session.model, session.config
    return {
        "weights": model.weights,
        "expected_top1": config.model.expected_top1,
        "expected_top1_source": config.model.expected_top1_source,
        "paper_table": config.model.paper_table,
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
    """Return a hash of the file that defines a user's method or model; None for this package and installed libraries.

    The hash keeps an edited method from reusing the numbers of its previous version.
    """
    function = inspect.unwrap(function)
    if inspect.isbuiltin(function):
        return None
    file = inspect.getsourcefile(function if inspect.isroutine(function) or inspect.isclass(function) else type(function))
    if file is None or "site-packages" in Path(file).parts or Path(file).is_relative_to(PACKAGE):
        return None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]


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
