"""Loading of a model from its config: it is built, cut and checked."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evalkit.data.decode import Preprocess
from evalkit.data.labels import Classes, load_classes, load_quantity
from evalkit.errors import UserError
from evalkit.executed import UserModule, executed_modules
from evalkit.imports import arguments_refused, failure, find
from evalkit.models.copies import uncompiled
from evalkit.models.failing import Failed, cannot_process, device_and_dtype
from evalkit.models.influence import Proposal
from evalkit.models.outputs import check_meaning, reads_positions
from evalkit.models.proposal import NoLayer, propose
from evalkit.models.readout import Readout
from evalkit.models.settings import ModelConfig
from evalkit.models.split import SplitModel
from evalkit.models.weights import fill, hash_weights, origin, require_values

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be evaluated. `weights` says where they come from; it starts with "random" where they are not trained."""

    module: nn.Module
    """The module as its factory built it, with its weights; `nets` work on copies that share them."""
    nets: Sequence[SplitModel]
    """The module cut at each of the configured layers."""
    preprocess: Preprocess
    classes: Classes
    weights: str
    weights_hash: str
    executed: Sequence[UserModule] = ()
    """The user's modules that were seen to be executed when the module was built."""

    @property
    def net(self) -> SplitModel:
        """The module cut at the only layer, or at the last one named: it computes all scores, and what does not depend on the layer."""
        return self.nets[-1]


def load(config: ModelConfig, device: torch.device, size: tuple[int, int] | None = None) -> LoadedModel:
    """Build, load, move and cut a model, and check it on an image of `size` (height, width), by default `input_size`.

    Raises UserError for every error in the config.
    """
    with executed_modules() as executed:
        module, weights = build(config)
    module.to(device)
    nets = [cut(module, config, layer) for layer in config.layers]
    outputs = _check(nets, config, size or input_size(config), device)
    if config.output == "binary" and isinstance(config.classes, tuple) and len(config.classes) != 2:
        raise UserError(
            f"model.classes gives {len(config.classes)} name{'s' * (len(config.classes) != 1)}, and model.output=binary needs two, the one "
            "for z < 0 first, as in 'model.classes=[no,yes]'"
        )
    quantity = config.output == "raw" and nets[-1].readout.shape != "(N,C)"
    classes = load_quantity(config.classes, config.class_map) if quantity else load_classes(config.classes, outputs, config.class_map)
    return LoadedModel(module, nets, preprocessing(config), classes, weights, hash_weights(module.state_dict()), executed)


def preprocessing(config: ModelConfig) -> Preprocess:
    """Return what turns a picture into the network's image, before its normalisation."""
    return Preprocess(config.resize, config.crop, config.interpolation, config.channels)


def cut(module: nn.Module, config: ModelConfig, layer: str) -> SplitModel:
    """Return the module cut at one layer, with the settings of its config. Raises UserError as `SplitModel` does."""
    return SplitModel(
        module, layer, mean=config.mean, std=config.std, grid=config.grid, prefix=config.prefix_tokens, readout=readout(config)
    )


def readout(config: ModelConfig) -> Readout:
    """Return what makes scores of what the network returns. Raises UserError where `score` is no function that can be imported."""
    score = None if config.score is None else find(config.score, "model.score")
    classes = 1000 if config.classes == "imagenet" else len(config.classes) if isinstance(config.classes, tuple) else None
    return Readout(config.select, score, config.output if config.output in ("binary", "raw") else None, classes)


def build(config: ModelConfig) -> tuple[nn.Module, str]:
    """Return the module with its weights, on the CPU, and where the weights come from."""
    module = _construct(config, config.seed)
    if config.weights is not None:
        fill(module, config)
    require_values(module, config)
    return module, config.weights or origin(module, _construct(config, config.seed + 1), config)


def proposed_layer(config: ModelConfig, size: tuple[int, int] | None = None) -> Proposal:
    """Propose the layer for `layer: auto` (see `propose`) on images of `size` (height, width), by default `input_size`.

    It does not depend on weights. Raises UserError where there is none.
    """
    size = size or input_size(config)
    try:
        with torch.device("meta"):  # nothing is computed there, so a constructor that reads its own values fails
            module = _construct(config, config.seed)
            images = images_for(module, config, size)  # two, since a graph may hold the batch size
        return propose(module, images, readout(config))
    except Exception:  # raised again below unless only the meta device is its cause
        pass
    module = _construct(config, config.seed)
    if device_and_dtype(module)[1] in (torch.float16, torch.bfloat16):  # values so coarse hide which of them others influence
        try:
            module = _construct(config, config.seed).float()
            return propose(module, images_for(module, config, size), readout(config))
        except Exception:  # its forward may need the other precision
            module = _construct(config, config.seed)
    try:
        return propose(module, images_for(module, config, size), readout(config))
    except UserError:
        raise
    except Exception as reason:  # a user's forward may raise anything
        raise NoLayer(f"{cannot_process(module, config.factory, config.channels, size, reason)}, so no layer can be proposed") from reason


def images_for(module: nn.Module, config: ModelConfig, size: tuple[int, int]) -> Tensor:
    """Return two random images (2,C,H,W) of `size`, on the module's device and in its precision."""
    device, dtype = device_and_dtype(module)
    return torch.rand(2, config.channels, *size, device=device, dtype=dtype)


def _construct(config: ModelConfig, seed: int) -> nn.Module:
    factory = find(config.factory, "model.factory")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            with arguments_refused():
                module = factory(**config.args)
        except KeyboardInterrupt:
            raise
        except BaseException as reason:  # a user's constructor may raise anything
            raise UserError(f"model.factory={config.factory} cannot be called with model.args={config.args}: {failure(reason)}") from reason
    if not isinstance(module, nn.Module):
        raise UserError(f"model.factory={config.factory} returned {type(module).__name__}, not a torch.nn.Module")
    return uncompiled(module)


def fixed_size(config: ModelConfig) -> tuple[int, int] | None:
    """Return height and width after preprocessing; None where they depend on the image."""
    if config.crop is not None:
        return config.crop, config.crop
    return config.resize if isinstance(config.resize, tuple) else None


def input_size(config: ModelConfig) -> tuple[int, int]:
    """Return height and width for test images: the fixed size, or a square where the config does not fix it."""
    side = config.resize if isinstance(config.resize, int) else 224
    return fixed_size(config) or (side, side)


def _check(nets: Sequence[SplitModel], config: ModelConfig, size: tuple[int, int], device: torch.device) -> int:
    """Run one random image through each net and return the number of outputs."""
    net = nets[-1]
    image = torch.rand(1, config.channels, *size, generator=torch.Generator().manual_seed(0)).to(device)
    for name, part in net.module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None:
            raise UserError(f"{config.factory}: '{name}' has no running statistics, so its output depends on the other images of the batch")
    try:
        outputs: int = [each(image).shape[1] for each in nets][-1]
    except Failed as failed:
        reason = failed.__cause__
        assert isinstance(reason, Exception)
        raise cannot_process(net.module, config.factory, config.channels, size, reason) from reason
    if outputs < 2 and config.output == "softmax":
        raise UserError(
            f"{config.factory} has {outputs} output, and a softmax needs two classes or more: set model.output=binary where its sign tells "
            "two classes apart, sigmoid where it scores one label, or raw where it is a quantity, as in regression"
        )
    if not outputs:
        raise UserError(f"{config.factory} has no outputs, so there is no class to explain")
    check_meaning(net, torch.cat([image, image.flip(3)]), config.output)
    for each in nets:
        if not reads_positions(each, image):
            log.warning(_unread(each.layer, config))
    return outputs


def _unread(layer: str, config: ModelConfig) -> str:
    try:
        instead = f"model.layer=auto takes '{proposed_layer(config).layer}'"
    except UserError:
        instead = "choose an earlier one"
    return (
        f"the scores do not depend on the positions of layer '{layer}', since behind it only prefix tokens are read: gradients and drops "
        f"are zero there, and their maps empty; {instead}"
    )
