"""evalkit: how faithful are CAM explanations? One protocol, any CNN, any method, every image's scores kept."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalkit import methods
    from evalkit.models.split import SplitModel
    from evalkit.probe import Probe

__all__ = ["Probe", "SplitModel", "methods"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: whoever only reads tables does not wait for torch.
    if name == "methods":
        return import_module("evalkit.methods")
    if name in __all__:
        return getattr(import_module("evalkit.probe"), name)
    raise AttributeError(f"module 'evalkit' has no attribute '{name}'")
