"""evalkit measures how faithful CAM explanations are: one protocol, any network, any method, with the scores of every image kept."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalkit import methods
    from evalkit.analysis.load import load_runs
    from evalkit.analysis.summary import compare, summarise
    from evalkit.errors import UserError
    from evalkit.models.readout import Readout
    from evalkit.models.split import SplitModel
    from evalkit.probe import Probe

__all__ = ["Probe", "Readout", "SplitModel", "UserError", "compare", "load_runs", "methods", "summarise"]

_MODULES = {
    "Probe": "evalkit.probe",
    "Readout": "evalkit.models.readout",
    "SplitModel": "evalkit.models.split",
    "UserError": "evalkit.errors",
    "compare": "evalkit.analysis.summary",
    "load_runs": "evalkit.analysis.load",
    "summarise": "evalkit.analysis.summary",
}


def __getattr__(name: str) -> Any:
    if name == "methods":  # imported on first use, so that reading tables does not import torch
        return import_module("evalkit.methods")
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'evalkit' has no attribute '{name}'")
