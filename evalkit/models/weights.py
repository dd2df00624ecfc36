"""Weights of a network: where they come from, how they fit, and their hash."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from evalkit.errors import UserError, did_you_mean, first_line
from evalkit.files import WEIGHTS_SUFFIXES, local
from evalkit.imports import import_timm
from evalkit.models import weights_file
from evalkit.models.catalogue import TIMM_FACTORY
from evalkit.models.fitting import fit
from evalkit.models.settings import ModelConfig


def fill(module: nn.Module, config: ModelConfig) -> None:
    """Load the weights that `model.weights` names into a module. Raises UserError where they cannot be read or do not fit."""
    fit(module, _content(config), config)


def origin(module: nn.Module, other: nn.Module, config: ModelConfig) -> str:
    """Return where the weights of a network that its factory built come from; it starts with "random" where that is from the seed.

    `other` is the network as built with another seed. Parameters that differ between the two are random; the rest are set by the
    factory, which loads them or makes them all alike. Buffers, as of noise or a running mean, are judged only without parameters.
    """
    ours, theirs = dict(module.named_parameters()), dict(other.named_parameters())
    if not ours:
        same = hash_weights(module.state_dict()) == hash_weights(other.state_dict())
        return f"set by {config.factory}" if same else f"random (seed {config.seed})"
    random = [name for name, value in ours.items() if name not in theirs or not torch.equal(_dense(value), _dense(theirs[name]))]
    if not random:
        return f"set by {config.factory}"
    # where nothing else varies, what is left are the zeros and ones with which layers begin
    if not any(_varies(_dense(value)) for name, value in ours.items() if name not in random):
        return f"random (seed {config.seed})"
    more = f" and {len(random) - 3} more" if random[3:] else ""
    return f"random in part ({', '.join(random[:3])}{more}, seed {config.seed}), the rest set by {config.factory}"


def _varies(value: Tensor) -> bool:
    return bool((value != value.flatten()[:1]).any())


def _dense(value: Tensor) -> Tensor:
    return value if value.layout == torch.strided else value.to_dense()


def require_values(module: nn.Module, config: ModelConfig) -> None:
    """Raise UserError where parameters or buffers have no values: those on the meta device, and those of lazy modules."""
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(value):
            raise UserError(
                f"{config.factory}: '{name}' has no shape yet, since its module is lazy; run one image through it in the factory"
            )
        if value.is_meta:
            raise UserError(f"{config.factory}: '{name}' is on the meta device, so it has no values; build the network on the CPU")


def hash_weights(state: Mapping[str, Any]) -> str:
    """Return a hash over all parameters, buffers and extra state, whatever file or download they come from."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        for part in _bytes(state[name]):
            digest.update(part)
    return digest.hexdigest()[:16]


def _bytes(value: Any) -> Iterator[Any]:
    """Yield the bytes of a value in a state dict. The hash of plain tensors must stay as it is: run folders are known by it."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        if value.is_quantized:
            one = value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric)
            yield from _bytes(
                [value.q_scale(), value.q_zero_point()] if one else [value.q_per_channel_scales(), value.q_per_channel_zero_points()]
            )
            value = value.int_repr()
        yield _dense(value).resolve_conj().resolve_neg().contiguous().flatten().view(torch.uint8).numpy().data
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            yield repr(key).encode()
            yield from _bytes(value[key])
    elif isinstance(value, list | tuple | set | frozenset):
        yield repr(len(value)).encode()
        for inner in sorted(value, key=repr) if isinstance(value, set | frozenset) else value:
            yield from _bytes(inner)
    elif isinstance(value, np.ndarray):
        yield value.tobytes()
    else:  # an address in memory is another one each time
        yield re.sub(r" at 0x[0-9a-f]+", "", repr(value)).encode()


def _content(config: ModelConfig) -> Any:
    weights = str(config.weights)
    if weights.startswith("embedded:"):
        with resources.as_file(resources.files("evalkit.models") / "weights" / weights.removeprefix("embedded:")) as path:
            return load_file(path)
    if "://" in weights:
        raise UserError(f"model.weights={weights} is an address: download the file, and give its path")
    file = local(weights)
    by_name = config.factory == TIMM_FACTORY or config.factory.startswith("torchvision.models.")
    if weights.endswith(WEIGHTS_SUFFIXES) or "/" in weights or file.is_file() or (file.exists() and not by_name):
        return weights_file.read(file)
    if not by_name:
        raise UserError(
            f"model.weights={weights} is no file, and {config.factory} has no weights by name; give a file, or null for random weights"
        )
    return _from_timm(config, weights) if config.factory == TIMM_FACTORY else _from_torchvision(config.factory, weights)


def _from_torchvision(factory: str, name: str) -> Mapping[str, Any]:
    model = factory.rpartition(".")[2]
    available = torchvision.models.get_model_weights(model)
    if name not in available.__members__:
        raise UserError(f"torchvision has no weights '{name}' for {model}{did_you_mean(name, available.__members__)}")
    try:
        return available[name].get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as reason:
        raise UserError(
            f"cannot download {name} for {model} ({reason}); fetch {available[name].url} elsewhere and set model.weights to the file, "
            "or model.weights=null for random weights"
        ) from reason


def _from_timm(config: ModelConfig, tag: str) -> Mapping[str, Any]:
    """Return the weights of a pretrained tag, as timm itself loads and converts them."""
    timm = import_timm(f"model.weights={tag}")
    model = str(config.args.get("model_name")).partition(".")[0]
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{model}.*")]
    if tag not in tags:
        raise UserError(f"timm has no weights '{tag}' for {model}{did_you_mean(tag, tags)}")
    try:
        module: nn.Module = timm.create_model(**{**config.args, "model_name": f"{model}.{tag}"}, pretrained=True)
    except (OSError, RuntimeError) as reason:  # URLError and the Hub's own errors are OSErrors
        settings = timm.get_pretrained_cfg(f"{model}.{tag}")
        raise UserError(
            f"cannot download {tag} for {model} ({first_line(reason)}); fetch {_timm_address(settings)} elsewhere and set model.weights "
            "to the file, or model.weights=null for random weights"
        ) from reason
    return module.state_dict()


def _timm_address(settings: Any) -> str:
    hub = settings.hf_hub_id
    return f"https://huggingface.co/{hub}/resolve/main/model.safetensors" if hub else str(settings.url)
