"""What can be chosen, as tables."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from evalkit.config import choices, compose_jobs, read_choice
from evalkit.models import channelwise, graph, zoo
from evalkit.models.proposal import NoLayer
from evalkit.models.split import SplitModel
from evalkit.probe import Probe


def models(conf: Path | None) -> Table:
    """Every entry of conf/model."""
    caption = "and any other network of torchvision (model=resnet18, model=resnet50.IMAGENET1K_V2) or timm (model=timm/resnet10t)"
    table = Table("model", "target layer", "input", "top-1 %", "weights", title="models: evalkit run model=NAME", caption=caption)
    for name in choices("model", conf):
        entry = read_choice("model", name, conf)
        size = entry["crop"] or entry["resize"]
        table.add_row(name, *(escape(_text(value)) for value in (entry["layer"], size, entry["expected_top1"], entry["weights"])))
    return table


def methods(conf: Path | None) -> Table:
    """Every entry of conf/method."""
    table = Table("method", "options", "about", title="methods: evalkit run 'method=[NAME,NAME]' method.NAME.OPTION=VALUE")
    for name in choices("method", conf):
        content, about = method_entry(name, conf)
        options = ", ".join(f"{key}={_text(value)}" for key, value in content.items() if key != "_target_")
        target = str(content.get("_target_", "?"))
        own = "" if target.startswith("evalkit.") else f"{target}; "
        table.add_row(name, escape(options), escape(own + about))
    return table


def method_entry(name: str, conf: Path | None) -> tuple[dict[str, Any], str]:
    """Settings of a yaml file of conf/method, and its first remark."""
    text, content = read_choice("method", name, conf, as_text=True), read_choice("method", name, conf)
    about = next((line[2:] for line in text.splitlines() if line.startswith("# ") and "@package" not in line), "")
    return content.get("method", {}).get(name, content), about


def data(conf: Path | None) -> Table:
    """Every entry of conf/data."""
    table = Table("data", "keys (??? must be given)", "about", title="data: evalkit run data=NAME data.KEY=...")
    for name in choices("data", conf):
        text = read_choice("data", name, conf, as_text=True)
        entry = read_choice("data", name, conf)
        keys = ", ".join(f"{key}={_text(value)}" for key, value in entry.items() if key not in ("name", "_target_"))
        table.add_row(name, escape(keys), escape(text.splitlines()[0].removeprefix("# ")))
    return table


def layers(model: str, overrides: list[str], conf: Path | None) -> Table:
    """All layers with maps (K,h,w) that a model config could explain; the configured or proposed one marked, with its tier."""
    if not any(override.startswith("model.layer=") for override in overrides) and model == "custom":
        overrides = [*overrides, "model.layer=auto"]  # it is what the list is for
    overrides = [f"model={model}", *overrides, "model.weights=null", "data=digits"]
    caption = None
    try:
        config = compose_jobs(overrides, conf=conf)[0].config.model
    except NoLayer as reason:
        config, caption = compose_jobs([*overrides, "model.layer=''"], conf=conf)[0].config.model, escape(str(reason))
    module = zoo.build(config)[0].eval()
    images = torch.rand(2, 3, *zoo.input_size(config))
    chosen = ""
    if config.layer:
        probe = Probe(SplitModel(module, config.layer, mean=config.mean, std=config.std), images)
        chosen = f"Ablation-CAM there: tier {probe.tier.number}, {probe.tier.reason}"
    title = f"layers of {model}, in the order of the data"
    table = Table("layer", "channels", "height x width", "separates", "", title=title, caption=caption)
    for name, shape, separates in explainable(module, images):
        mark = chosen if name == config.layer else ""
        cells = (name, str(shape[1]), f"{shape[2]} x {shape[3]}", separates, mark)
        table.add_row(*map(escape, cells), style="bold" if mark else None)
    return table


def explainable(module: nn.Module, images: Tensor) -> Iterator[tuple[str, torch.Size, str]]:
    """Name, shape and whether it separates the network, of everything (N,K,h,w) that `layer` may name, in the order of the data.

    `module` is in eval mode; of the images (N,3,H,W) only the size matters.
    """
    try:
        traced = graph.trace(module)
    except Exception:  # what torch.fx cannot trace is explained by a hook on a module
        yield from ((name, shape, "?") for name, shape in _hooked(module, images))
        return
    graph.propagate(module, traced.graph, images)
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    for name, node in sorted(traced.layers.items(), key=lambda entry: order[entry[1]]):
        if len(channelwise.shape(node)) == 4:
            yield name, channelwise.shape(node), "no" if graph.crossing(traced.graph, node) else "yes"


def _hooked(module: nn.Module, images: Tensor) -> list[tuple[str, torch.Size]]:
    """The modules that put out maps, in the order in which they finish."""
    found: list[tuple[str, torch.Size]] = []

    def watch(name: str, part: nn.Module) -> RemovableHandle:
        def keep(_module: nn.Module, _inputs: Any, out: Any) -> None:
            if isinstance(out, Tensor) and out.dim() == 4:
                found.append((name, out.shape))

        return part.register_forward_hook(keep)

    handles = [watch(name, part) for name, part in module.named_modules() if name]
    try:
        with torch.no_grad():
            module(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _text(value: object) -> str:
    return "-" if value is None else str(value)
