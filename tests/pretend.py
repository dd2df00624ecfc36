"""An accelerator for machines without one: its tensors claim the device `pretend:0`, their numbers lie on the CPU.

    with Accelerator() as accelerator:
        images = images.to(DEVICE)
        ...
    print(table(accelerator.waits))

Inside the block an operation on tensors of different devices raises RuntimeError, as on CUDA, and `waits` counts where the
host waits for the device: for values, for masks as indices, for copies to the host, and for copies to the device unless they
are `non_blocking`. It measures no times. It needs torch 2.10 or newer; elsewhere `MISSING` holds the reason.
"""

import linecache
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import evalkit

MISSING = ""
"""Why there is no such accelerator; empty where there is one."""

try:
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend("pretend")
    DEVICE = torch.device("pretend", 0)
except (ImportError, AttributeError) as error:  # a private interface
    MISSING = f"torch {torch.__version__} has no backend in Python ({error})"

PACKAGE = f"{Path(evalkit.__file__).parent}/"

_READS_VALUES = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2", "unique_dim", "_linalg_svd"}
"""Operations whose result the host needs at once. An SVD asks whether it converged."""

_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
"""Operations that take indices from the host too, and count the True in a mask."""


class Wait(NamedTuple):
    """A place where the host waits for the device."""

    method: str
    """The method whose maps are computed; empty outside methods."""
    file: str
    line: int
    function: str
    operation: str


class _DeviceTensor(Tensor):
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: Tensor) -> "_DeviceTensor":
        return torch.Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype, device=DEVICE
        )

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __repr__(self) -> str:
        return f"{type(self).__name__}({tuple(self.shape)}, {self.dtype})"

    def tolist(self) -> object:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        raise RuntimeError(f"{operation} on a tensor of {DEVICE} outside its Accelerator")


class Accelerator(TorchDispatchMode):
    """A context in which tensors can be moved to `DEVICE`; `waits` counts the waits of the host."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[Wait] = Counter()

    def __enter__(self) -> "Accelerator":
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) is made on the CPU and then moved
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # module.to(DEVICE) changes the parameters' class
        return super().__enter__()

    def __exit__(self, *reason: object) -> None:
        super().__exit__(*reason)
        torch._C._set_only_lift_cpu_tensors(False)
        torch.__future__.set_overwrite_module_params_on_conversion(False)

    @contextmanager
    def counting(self) -> Iterator[Counter[Wait]]:
        """Count the waits of one block."""
        before, counted = self.waits.copy(), Counter()
        yield counted
        counted.update(self.waits - before)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name, kwargs = operation.overloadpacket.__name__, dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        ours = [tensor for tensor in tensors if isinstance(tensor, _DeviceTensor)]
        result_is_ours = bool(ours)
        if name == "copy_":
            result_is_ours = isinstance(args[0], _DeviceTensor)
            self._count_move(args[1], result_is_ours, non_blocking=len(args) > 2 and args[2])
        elif kwargs.get("device") is not None:
            result_is_ours = kwargs["device"].type == DEVICE.type
            kwargs["device"] = torch.device("cpu")
            if name == "_to_copy":
                self._count_move(args[0], result_is_ours, non_blocking=kwargs.get("non_blocking"))
        elif ours:
            indices = [index for index in args[1] if index is not None] if name in _INDEXING else []
            for tensor in tensors:
                if not isinstance(tensor, _DeviceTensor) and tensor.dim() and not any(tensor is index for index in indices):
                    raise RuntimeError(f"{name}: tensors of {DEVICE} and cpu")
            if any(not isinstance(index, _DeviceTensor) or index.dtype in (torch.bool, torch.uint8) for index in indices):
                self._count(name)
            if name in _READS_VALUES:
                self._count(name)
        result = operation(*tree_map(_values, args), **tree_map(_values, kwargs))
        if operation._schema.is_mutable:
            changed = kwargs["out"] if "out" in kwargs else args[0]
            assert not isinstance(changed, _DeviceTensor) or changed.shape == changed.values.shape, f"{name} changes a shape in place"
            return changed
        return tree_map(lambda x: _DeviceTensor(x) if isinstance(x, Tensor) else x, result) if result_is_ours else result

    def _count_move(self, source: Tensor, onto_device: bool, non_blocking: bool | None) -> None:
        from_device = isinstance(source, _DeviceTensor)
        if from_device and not onto_device:
            self._count("to the host")
        elif onto_device and not from_device and not non_blocking:
            self._count("to the device")

    def _count(self, operation: str) -> None:
        place, method, frame = None, "", sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            if place is None and code.co_filename.startswith(PACKAGE):
                place = code.co_filename.removeprefix(PACKAGE), frame.f_lineno, code.co_name
            if code.co_name == "apply_method":
                method = frame.f_locals["name"]
            frame = frame.f_back
        self.waits[Wait(method, *(place or ("outside the package", 0, "")), operation)] += 1


def table(waits: Counter[Wait], batches: int = 1) -> str:
    """Format waits by line, the most frequent first, as waits per batch."""
    lines = []
    for wait, count in waits.most_common():
        source = linecache.getline(f"{PACKAGE}{wait.file}", wait.line).strip()
        place = f"{wait.file}:{wait.line} ({wait.function}, {wait.operation})"
        lines.append(f"{count / batches:8.2f}  {wait.method:20}  {place}  {source[:80]}")
    return "\n".join(lines)


def _values(x: object) -> object:
    return x.values if isinstance(x, _DeviceTensor) else x
