"""What can be chosen, as tables."""

from pathlib import Path
from typing import Any

import torch
import yaml
from rich.markup import escape
from rich.table import Table
from torch.fx.passes.shape_prop import ShapeProp

from evalkit.config import choices, compose_jobs, read_choice
from evalkit.models import graph, zoo
from evalkit.models.split import SplitModel
from evalkit.probe import Probe


def models(conf: Path | None) -> Table:
    """Every entry of conf/model."""
    table = Table("model", "target layer", "input", "top-1 %", "weights", title="models: evalkit run model=NAME")
    for name in choices("model", conf):
        entry = read_choice("model", name, conf)
        size = entry["crop"] or entry["resize"]
        table.add_row(name, *(escape(_text(value)) for value in (entry["layer"], size, entry["expected_top1"], entry["weights"])))
    return table


def methods(conf: Path | None) -> Table:
    """Every entry of conf/method."""
    table = Table("method", "function", "about", title="methods: evalkit run 'method=[NAME,NAME]'")
    for name in choices("method", conf):
        text = read_choice("method", name, conf, as_text=True)
        about = next((line[2:] for line in text.splitlines() if line.startswith("# ") and "@package" not in line), "")
        content = yaml.safe_load(text)
        content = content.get("method", {}).get(name, content)
        table.add_row(name, escape(str(content.get("_target_", "?"))), escape(about))
    return table


def data(conf: Path | None) -> Table:
    """Every entry of conf/data."""
    table = Table("data", "keys (??? must be given)", "about", title="data: evalkit run data=NAME data.KEY=...")
    for name in choices("data", conf):
        text = read_choice("data", name, conf, as_text=True)
        entry = yaml.safe_load(text)
        keys = ", ".join(f"{key}={_text(value)}" for key, value in entry.items() if key not in ("name", "_target_"))
        table.add_row(name, escape(keys), escape(text.splitlines()[0].removeprefix("# ")))
    return table


def layers(model: str, overrides: list[str], conf: Path | None) -> Table:
    """All layers with maps (K,h,w) that a model config could explain; the configured one marked, with its tier."""
    if not any(override.startswith("model.layer=") for override in overrides) and model == "custom":
        overrides = [*overrides, "model.layer=''"]  # it is what the list is for
    config = compose_jobs([f"model={model}", *overrides, "model.weights=null", "data=digits"], conf=conf)[0].config.model
    module = zoo.build(config)[0].eval()
    images = torch.rand(2, 3, *zoo.input_size(config))
    chosen = ""
    if config.layer:
        probe = Probe(SplitModel(module, config.layer, mean=config.mean, std=config.std), images)
        chosen = f"Ablation-CAM there: tier {probe.tier.number}, {probe.tier.reason}"
    table = Table("layer", "channels", "height x width", "separates", "", title=f"layers of {model}, in the order of the data")
    traced = graph.trace(module)
    ShapeProp(torch.fx.GraphModule(module, traced.graph)).propagate(images)
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    for name, node in sorted(traced.layers.items(), key=lambda entry: order[entry[1]]):
        shape: Any = getattr(node.meta.get("tensor_meta"), "shape", ())
        if len(shape) == 4:
            mark = chosen if name == config.layer else ""
            separates = "yes" if not graph.crossing(traced.graph, node) else "no"
            table.add_row(escape(name), str(shape[1]), f"{shape[2]} x {shape[3]}", separates, escape(mark), style="bold" if mark else None)
    return table


def _text(value: object) -> str:
    return "-" if value is None else str(value)
