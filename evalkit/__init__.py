"""evalkit: how faithful are CAM explanations? One protocol, any CNN, any method, every image's scores kept."""

from evalkit import methods
from evalkit.models.split import SplitModel
from evalkit.probe import Probe

__all__ = ["Probe", "SplitModel", "methods"]
