"""Networks without a yaml file of their own: any torchvision or timm classifier, by its name.

Examples are `resnet18`, or with one of its weights `resnet18.IMAGENET1K_V1`; `timm/resnet10t`, or with one of its
pretrained tags `timm/resnet50.a1_in1k`. The settings are read from the library's metadata of the weights. The default
weights of a bare name are written out, since a library may change its defaults.
"""

import importlib.util
import math
from collections.abc import Iterable
from typing import Any

import torchvision
from torchvision.models import get_model_weights
from torchvision.models import list_models as torchvision_names

from evalkit.errors import UserError, did_you_mean, nearest
from evalkit.imports import import_timm

TIMM = "timm/"
TIMM_FACTORY = "timm.create_model"

_TORCHVISION_ARGS: dict[str, dict[str, Any]] = {
    # The published weights contain the auxiliary heads, and were trained with another normalisation.
    "googlenet": {"transform_input": True, "aux_logits": True, "init_weights": False},
    "inception_v3": {"transform_input": True, "aux_logits": True, "init_weights": False},
}


def entry(name: str) -> dict[str, Any] | None:
    """Return what conf/model/NAME.yaml would hold; None where no library has such a network.

    Raises UserError: the network has no such weights or no classes, or timm is not installed.
    """
    if name.startswith(TIMM):
        return _from_timm(name.removeprefix(TIMM))
    model, _, weights = name.partition(".")
    return _from_torchvision(model, weights) if model in torchvision_names(torchvision.models) else None


def names() -> list[str]:
    """Return the names that need no `timm/` in front."""
    return torchvision_names(torchvision.models)


def elsewhere(name: str, known: Iterable[str]) -> str:
    """Return what to say of a name that is not `known`: where timm has it, how to write it, else a similar name, here or in timm.

    timm is imported for that, where it is installed.
    """
    model = name.partition(".")[0]
    installed = importlib.util.find_spec("timm") is not None
    theirs = import_timm(f"model={TIMM}{name}").list_models() if installed else []
    if model in theirs:
        return f" in evalkit and torchvision, but timm has it: model={TIMM}{name}"
    if nearest(name, known) is None and not installed:
        get = f"in evalkit's folder, pip install '.[timm]', then model={TIMM}{name}"
        return f" in evalkit and torchvision; if it is one of timm, which is not installed: {get}"
    if nearest(name, known) is None and (near := nearest(model, theirs)) is not None:
        return f" in evalkit and torchvision; did you mean timm's {near}: model={TIMM}{near}?"
    return did_you_mean(name, known)


def _from_torchvision(model: str, chosen: str) -> dict[str, Any]:
    available = get_model_weights(model)
    if chosen and chosen not in available.__members__:
        installed = importlib.util.find_spec("timm") is not None
        if installed and f"{model}.{chosen}" in import_timm(f"model={TIMM}{model}").list_pretrained(f"{model}.*"):
            raise UserError(f"torchvision has no weights '{chosen}' for {model}, but timm has them: model={TIMM}{model}.{chosen}")
        raise UserError(f"torchvision has no weights '{chosen}' for {model}{did_you_mean(chosen, available.__members__)}")
    weights = available[chosen] if chosen else available.DEFAULT
    if not weights.meta.get("categories"):
        raise UserError(f"model={model}.{weights.name} has no classifier, only features: it has no class scores to explain")
    transforms = weights.transforms()
    resize, crop = transforms.resize_size[0], transforms.crop_size[0]
    return {
        "name": f"{model}.{weights.name}" if chosen else model,
        "factory": f"torchvision.models.{model}",
        # A vision transformer is built for one image size.
        "args": {"image_size": crop} if model.startswith("vit_") else _TORCHVISION_ARGS.get(model, {}),
        "weights": weights.name,
        **_preprocessing(resize, crop, transforms.interpolation.value, transforms.mean, transforms.std),
        "classes": "imagenet",
        "expected_top1": weights.meta["_metrics"]["ImageNet-1K"]["acc@1"],
        "expected_top1_source": "torchvision's documentation of the weights, ImageNet val",
        **_REST,
    }


def _from_timm(name: str) -> dict[str, Any]:
    timm = import_timm(f"model={TIMM}{name}")
    try:
        settings = timm.get_pretrained_cfg(name)
    except RuntimeError as reason:  # timm has no such tag
        model, _, tag = name.partition(".")
        tags = [tagged.partition(".")[2] for tagged in timm.list_pretrained(f"{model}.*")]
        raise UserError(f"timm has no weights '{tag}' for {model}{did_you_mean(tag, tags)}") from reason
    if settings is None:
        raise UserError(f"timm has no model '{name}'{did_you_mean(name, timm.list_models())}")
    if settings.num_classes < 2:
        raise UserError(f"model={TIMM}{name} has no classifier, only features: it has no class scores to explain")
    data = timm.data.resolve_data_config(pretrained_cfg=settings.to_dict())
    crop = data["input_size"][1]
    resize = math.floor(crop / data["crop_pct"])
    return {
        "name": f"timm-{name}",
        "factory": TIMM_FACTORY,
        "args": {"model_name": f"{settings.architecture}.{settings.tag}" if settings.tag else settings.architecture},
        # Where timm publishes no weights under this name, the user must set them: "???" is Hydra's mandatory value.
        "weights": settings.tag if settings.tag and settings.has_weights else "???",
        **_preprocessing(
            [resize, resize] if data["crop_mode"] == "squash" else resize, crop, data["interpolation"], data["mean"], data["std"]
        ),
        "classes": "imagenet" if settings.num_classes == 1000 else None,
        "expected_top1": None,  # timm's package does not contain it
        "expected_top1_source": None,
        **_REST,
    }


def _preprocessing(resize: int | list[int], crop: int, interpolation: str, mean: Any, std: Any) -> dict[str, Any]:
    return {"resize": resize, "crop": crop, "interpolation": interpolation, "mean": list(mean), "std": list(std)}


_REST: dict[str, Any] = {"seed": 0, "layer": "auto", "class_map": None, "output": "softmax", "paper_table": None}
