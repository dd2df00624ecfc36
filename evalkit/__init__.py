"""evalkit: how faithful are CAM explanations? One protocol, any CNN, any method, every image's scores kept."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalkit import methods
    from evalkit.analysis.load import load_runs
    from evalkit.analysis.summary import compare, summarise
    from evalkit.models.split import SplitModel
    from evalkit.probe import Probe

__all__ = ["Probe", "SplitModel", "compare", "load_runs", "methods", "summarise"]

_WHERE = {
    "Probe": "evalkit.probe",
    "SplitModel": "evalkit.models.split",
    "compare": "evalkit.analysis.summary",
    "load_runs": "evalkit.analysis.load",
    "summarise": "evalkit.analysis.summary",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: whoever only reads tables does not wait for torch.
    if name == "methods":
        return import_module("evalkit.methods")
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'evalkit' has no attribute '{name}'")
