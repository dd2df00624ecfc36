"""Unmodified implementations of other libraries as methods: any class of pytorch-grad-cam, torch-cam and captum, by name.

Each gets the same network, layer, normalised images and target classes as the methods of this package, with a temporary
copy of the network. A method that draws random numbers runs image by image, seeded by each image's index, so that its
maps depend neither on the batch nor on earlier calls.
"""

import contextlib
import importlib
import inspect
import io
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import captum.attr
import numpy as np
import torch
from torch import Tensor, fx, nn

from evalkit.errors import UserError, did_you_mean, one_of, whole
from evalkit.methods.pixel import fill_image, normalised
from evalkit.models.standin import stand_in
from evalkit.probe import Probe

log = logging.getLogger(__name__)

Explain = Callable[[Probe, nn.Module, nn.Module], Tensor]
"""A function from a batch, a copy of its model and the copy's target layer to maps (N,h,w)."""

_OURS = {
    "model", "forward_func", "layer", "target_layer", "target_layers", "input_tensor", "inputs", "targets", "target", "target_idx",
    "baselines", "class_idx", "scores", "normalized", "self", "args", "kwargs",
}  # fmt: skip
"""Arguments that the adapters pass themselves."""

_HAVE_RULES_AS_MODULES = ("DeepLift", "LRP")
_FUNCTIONS = (
    "leaky_relu",
    "leaky_relu_",
    "elu",
    "elu_",
    "softplus",
    "sigmoid",
    "sigmoid_",
    "tanh",
    "tanh_",
    "prelu",
    "selu",
    "gelu",
    "silu",
)
"""Activations that those classes handle, or refuse, only where the network calls them as modules."""

_HOOK_RECTIFIERS = (*_HAVE_RULES_AS_MODULES, "GuidedBackprop", "Deconvolution", "GuidedGradCam")
"""captum's classes, with their Layer and Neuron forms, that handle only activations which are modules and called once."""


def pytorch_grad_cam(probe: Probe, name: str = "GradCAM", seed: int = 0, **options: Any) -> Tensor:
    """Return the maps of pytorch-grad-cam's class `name` (N,H,W), at the size of the image.

    That library clips a map at zero, scales it to [0,1], resizes it with OpenCV (bilinear), scales it again and rounds
    to float32; none of this can be switched off. `options` go to the constructor or, if it does not accept them, to the
    call (`eigen_smooth`, `aug_smooth`); FinerCAM compares the target with its nearest classes. Raises UserError for an
    unknown class or option, RefineCAM, a network in bfloat16, or where the package is missing.
    """
    _refuse_several_layers(name)
    if probe.net.dtype == torch.bfloat16:
        raise UserError("pytorch_grad_cam computes with numpy, which has no bfloat16: leave it out, or let the factory return net.float()")
    library = _library("pytorch_grad_cam")
    cls = _find(library, name, "pytorch-grad-cam", lambda c: hasattr(c, "forward") and "target_layers" in _takes(c))
    init, call = _sorted(_resolved(options, library), name, [cls], [cls.__call__, cls.forward])
    target = importlib.import_module("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget

    def explain(part: Probe, module: nn.Module, layer: nn.Module) -> Tensor:
        cam, classes = cls(model=module, target_layers=[layer], **init), part.targets.tolist()
        if name == "FinerCAM":  # with targets, it would compute its base method
            return torch.from_numpy(cam(input_tensor=normalised(part), targets=None, target_idx=classes[0], **call))
        return torch.from_numpy(cam(input_tensor=normalised(part), targets=[target(c) for c in classes], **call))

    return _run(probe, explain, seed, one_by_one=name == "FinerCAM")


def torch_cam(probe: Probe, name: str = "GradCAM", seed: int = 0, **options: Any) -> Tensor:
    """Return the maps of torch-cam's class `name` (N,h,w), before that library's min-max normalisation.

    All classes but CAM clip at zero, which cannot be switched off, and NaN counts as zero in the sum over channels.
    `options` and errors as in `pytorch_grad_cam`; LeGrad is refused too.
    """
    _refuse_several_layers(name)
    if name == "LeGrad":
        raise UserError("torch-cam's LeGrad reads the attention of torchvision's vision transformers, not a layer: choose another class")
    library = _library("torchcam.methods")
    cls = _find(library, name, "torch-cam", lambda c: "target_layer" in _takes(c))
    init, call = _sorted(_resolved(options, library), name, [cls], [cls.__call__, getattr(cls, "_get_weights", cls.__call__)])

    def explain(part: Probe, module: nn.Module, layer: nn.Module) -> Tensor:
        extractor = cls(module, layer, **init)
        scores = module(normalised(part))
        maps: Tensor = extractor(class_idx=part.targets.tolist(), scores=scores, normalized=False, **call)[0]
        return maps

    return _run(probe, explain, seed)


def _refuse_several_layers(name: str) -> None:
    """Raise UserError for RefineCAM, which multiplies the maps of several layers."""
    if name == "RefineCAM":
        raise UserError(
            "RefineCAM multiplies the maps of several layers, and at one layer, as methods are called here, it is only its base method: "
            "name that method, as in name=GradCAMPlusPlus, whose maps of several layers model.fuse combines"
        )


def captum_attr(
    probe: Probe, name: str = "LayerGradCam", baseline: str = "mean", channels: str = "sum", seed: int = 0, **options: Any
) -> Tensor:
    """Return captum's attribution `name`: for the target layer (N,h,w) or, if the class takes no layer, for the image (N,H,W).

    captum normalises nothing. Channels, of the layer or of the image, are summed (`channels="sum"`) or replaced by their largest absolute
    value ("max", usual for gradients). Methods with a baseline start from the image of `baseline`, a fill of the protocol:
    "mean" is 0 after normalisation, captum's own default; "black" or "blur". `options` go to the constructor or to
    `attribute`; NoiseTunnel takes the name of another class as `attribution_method`. DeepLift, LRP and the guided methods
    get a network in which every ReLU is a module of its own, as captum requires; DeepLift's and LRP's rules do not include
    the ceiling of a ReLU6. Networks that call another activation as a function would get wrong maps from these two, and
    raise UserError. Other errors as in `pytorch_grad_cam`.
    """
    one_of(channels, ("sum", "max"), "channels")
    chosen = _Attribution.named(name, options)

    def explain(part: Probe, module: nn.Module, layer: nn.Module) -> Tensor:
        if chosen.reads_modules:
            _refuse_functions(name, module)
        start = fill_image(part, baseline, "baseline")
        # Classes that require a distribution of baselines refuse a single image, and get the same one twice.
        arguments = {"target": part.targets, "baselines": torch.cat([start, start]) if chosen.distribution else start}
        out = chosen.run(module, layer, normalised(part), arguments)
        if not isinstance(out, Tensor) or out.dim() != 4:
            raise UserError(f"captum's {name} returns {tuple(getattr(out, 'shape', ()))}, not one value per channel and position")
        return out.sum(1) if channels == "sum" else out.abs().amax(1)

    return _run(probe, explain, seed, rectifiers=chosen.hooks_rectifiers, one_by_one=chosen.distribution)


def _explains_the_image(name: str = "LayerGradCam", **options: Any) -> bool:
    of_the_class = {key: value for key, value in options.items() if key not in _takes(captum_attr)}
    return not _Attribution.named(name, of_the_class).takes_layer


captum_attr.layer_free = _explains_the_image  # type: ignore[attr-defined]


@dataclass(frozen=True)
class _Attribution:
    """A class of captum with its options; `inner` is the class that it wraps (NoiseTunnel), or None."""

    cls: Any
    inner: Any
    init: dict[str, Any]
    call: dict[str, Any]

    @staticmethod
    def named(name: str, options: dict[str, Any]) -> "_Attribution":
        """Find the class by name. Raises UserError for an unknown class or option, or a missing option that it requires."""
        cls, inner = _captum_class(name), None
        if "attribution_method" in _takes(cls) and "attribution_method" in options:
            inner = _captum_class(str(options["attribution_method"]))
        rest = {key: value for key, value in options.items() if inner is None or key != "attribution_method"}
        attribute = [cls.attribute, *([inner.attribute] if inner else [])]
        init, call = _sorted(_resolved(rest, captum.attr), name, [cls], attribute)
        missing = (_required(cls) | _required(cls.attribute)) - _OURS - set(options)
        if missing:
            raise UserError(f"captum's {name} needs the option '{min(missing)}'")
        return _Attribution(cls, inner, init, call)

    @property
    def distribution(self) -> bool:
        """Whether the class requires a distribution of baselines."""
        return "baselines" in _required((self.inner or self.cls).attribute)

    @property
    def takes_layer(self) -> bool:
        return "layer" in _takes(self.inner or self.cls)

    @property
    def hooks_rectifiers(self) -> bool:
        return self._is_one_of(_HOOK_RECTIFIERS)

    @property
    def reads_modules(self) -> bool:
        return self._is_one_of(_HAVE_RULES_AS_MODULES)

    def _is_one_of(self, names: tuple[str, ...]) -> bool:
        return any(part in c.__name__ for part in names for c in (self.cls, self.inner) if c)

    def run(self, module: nn.Module, layer: nn.Module, images: Tensor, arguments: Mapping[str, Any]) -> Any:
        """Return attribute(images), called with those of the `arguments` that it takes."""
        inner = self.inner or self.cls
        takes, at = _takes(inner.attribute), [layer] if self.takes_layer else []
        method = inner(module, *at, **({} if self.inner else self.init))
        if self.inner:
            method = self.cls(method, **self.init)
        return method.attribute(images, **{key: value for key, value in arguments.items() if key in takes}, **self.call)


def _captum_class(name: str) -> Any:
    if name.endswith("FeaturePermutation"):
        raise UserError(f"captum's {name} explains an image by the other images of its batch, which are arbitrary here")
    fits = {*_OURS, "attribution_method"}
    base = captum.attr.Attribution
    return _find(captum.attr, name, "captum", lambda c: issubclass(c, base) and hasattr(c, "attribute") and _required(c) <= fits)


def _refuse_functions(name: str, module: nn.Module) -> None:
    """Raise UserError for a traced network that calls an activation as a function: torch.fx has a node with its name."""
    for node in module.graph.nodes if isinstance(module, fx.GraphModule) else ():
        called = getattr(node.target, "__name__", node.target) if node.op in ("call_function", "call_method") else None
        if called in _FUNCTIONS:
            raise UserError(f"captum's {name} has rules for modules only, and the network calls {called} as a function: make it a module")


def _library(path: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except ImportError as reason:
        raise UserError(f"cannot import {path} ({reason}); in evalkit's folder, pip install '.[peers]'") from reason


def _find(library: ModuleType, name: str, called: str, fits: Callable[[Any], bool]) -> Any:
    if not isinstance(name, str):
        raise UserError(f"name={name} must be the name of one class of {called}")
    classes = {key: value for key, value in vars(library).items() if inspect.isclass(value) and fits(value)}
    if name not in classes:
        raise UserError(f"{called} has no class '{name}' that makes maps{did_you_mean(name, classes)}")
    return classes[name]


def _takes(function: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def _required(function: Any) -> set[str]:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {key for key, parameter in _takes(function).items() if parameter.default is parameter.empty and parameter.kind in named}


def _resolved(options: Mapping[str, Any], library: ModuleType) -> dict[str, Any]:
    """Convert options from YAML: lists become tuples, and the name in `base_method` becomes that class of the library."""
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    base = values.get("base_method")
    if isinstance(base, str):
        values["base_method"] = _find(library, base, library.__name__, lambda c: "model" in _takes(c))
    return values


def _sorted(options: Mapping[str, Any], name: str, first: list[Any], then: list[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options for the constructor and for the call. Raises UserError for one that neither accepts."""
    init, call = ({key for function in functions for key in _takes(function)} - _OURS for functions in (first, then))
    for key in options:
        if key not in init | call:
            raise UserError(f"{name} has no option '{key}'{did_you_mean(key, init | call)}")
    return {k: v for k, v in options.items() if k in init}, {k: v for k, v in options.items() if k not in init}


def _run(probe: Probe, explain: Explain, seed: int, *, rectifiers: bool = False, one_by_one: bool = False) -> Tensor:
    """Explain the batch, or image by image where `one_by_one` is set or random numbers were drawn."""
    alone = len(probe.images) == 1
    _ = probe.activations  # how they lie is known from the first pass on
    if alone or not one_by_one:
        with torch.enable_grad(), _quiet(), _random_state_restored(probe), stand_in(probe.net, rectifiers=rectifiers) as (module, layer):
            before = _seeded(whole(seed, "seed", least=0), int(probe.indices[0]))
            maps = explain(probe, module, layer).detach().to(probe.images.device)
            if alone or _random_state() == before:
                return maps
    parts = [probe.again(probe.images[i : i + 1], slice(i, i + 1)) for i in range(len(probe.images))]
    return torch.cat([_run(part, explain, seed, rectifiers=rectifiers) for part in parts])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Send progress bars and prints of libraries to the debug log."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        yield
    if output.getvalue():
        log.debug("%s", output.getvalue().strip())


@contextlib.contextmanager
def _random_state_restored(probe: Probe) -> Iterator[None]:
    state = np.random.get_state()
    try:
        with torch.random.fork_rng([probe.images.device] if probe.images.is_cuda else []):
            yield
    finally:
        np.random.set_state(state)


def _seeded(seed: int, index: int) -> object:
    number = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
    torch.manual_seed(number)
    np.random.seed(number)
    return _random_state()


def _random_state() -> object:
    """Return the state of torch's and numpy's global generators, to be compared; each random number changes it."""
    legacy = np.random.get_state(legacy=False)["state"]
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [bytes(state.numpy()) for state in (torch.get_rng_state(), *cuda)], bytes(legacy["key"]), legacy["pos"]
