"""Open the device and model of a configuration, in the same way for runs, photographs and benchmarks."""

import torch

from evalkit.config.schema import RunConfig
from evalkit.errors import UserError
from evalkit.evaluation.allocator import keep_freed_memory
from evalkit.models import zoo


def open_device(config: RunConfig, local_rank: int = 0) -> torch.device:
    """Choose the device and set options of the whole process: the precision of products, and on the CPU the allocator.

    `local_rank` is this worker's number on its machine. Raises UserError where the configured device is missing.
    """
    device = pick_device(config.device, local_rank)
    torch.backends.cuda.matmul.allow_tf32 = config.precision == "tf32"  # full float32 unless TF32 is configured
    torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
    if device.type == "cpu":
        keep_freed_memory()
    return device


def open_model(config: RunConfig, device: torch.device, size: tuple[int, int] | None = None) -> zoo.LoadedModel:
    """Load the model onto the device, in the configured precision. `size` and errors as in `zoo.load`."""
    model = zoo.load(config.model, device, size)
    if config.precision == "bf16":
        for net in model.nets:
            net.autocast = torch.bfloat16
    return model


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device of a name; `auto` and `cuda` mean this worker's own GPU, `auto` the CPU where there is none.

    Raises UserError for cuda without a GPU, and for a GPU that does not exist.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(f"device={name}, but torch sees no GPU here; use device=auto or device=cpu")
    number = name.partition(":")[2]
    if number:
        if int(number) >= torch.cuda.device_count():
            raise UserError(f"device={name}, but the GPUs here are cuda:0 to cuda:{torch.cuda.device_count() - 1}")
        return torch.device(name)
    return torch.device("cuda", local_rank % torch.cuda.device_count())
