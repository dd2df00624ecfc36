"""Tables of the models, methods, data sets and layers that can be chosen."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.markup import escape
from rich.table import Table

from evalkit.config.choices import choices, function_entry, read_choice

if TYPE_CHECKING:
    from evalkit.models.layers import Layer

NUMBERS = ("input", "top-1 %", "channels", "height x width")
"""Columns of numbers."""


def models(conf: Path | None) -> Table:
    """Return a table of the entries of conf/model."""
    caption = "and any other network of torchvision (model=resnet18, model=resnet50.IMAGENET1K_V2) or timm (model=timm/resnet10t)"
    table = _table("model", "target layer", "input", "top-1 %", "weights", title="models: evalkit run model=NAME", caption=caption)
    for name in choices("model", conf):
        entry = read_choice("model", name, conf)
        shown = (entry.get("layer"), entry.get("crop") or entry.get("resize"), entry.get("expected_top1"), entry.get("weights"))
        table.add_row(name, *(escape(_text(value)) for value in shown))  # one of the user's may take the rest from another
    return table


def methods(conf: Path | None) -> Table:
    """Return a table of the entries of conf/method."""
    return _functions("method", "methods: evalkit run 'method=[NAME,NAME]' method.NAME.OPTION=VALUE", conf)


def controls(conf: Path | None) -> Table:
    """Return a table of the entries of conf/control."""
    return _functions("control", "controls of methods: evalkit run '+control=[NAME,NAME]' control.NAME.OPTION=VALUE", conf)


def _functions(group: Literal["method", "control"], title: str, conf: Path | None) -> Table:
    table = _table(group, "options", "about", title=title)
    for name in choices(group, conf):
        content, about = function_entry(group, name, conf)
        options = ", ".join(f"{key}={_text(value)}" for key, value in content.items() if key != "_target_")
        target = str(content.get("_target_", "?"))
        own = "" if target.startswith("evalkit.") else f"{target}; "
        table.add_row(name, escape(options), escape(own + about))
    return table


def data(conf: Path | None) -> Table:
    """Return a table of the entries of conf/data."""
    table = _table("data", "keys (??? must be given)", "about", title="data: evalkit run data=NAME data.KEY=...")
    for name in choices("data", conf):
        text = read_choice("data", name, conf, as_text=True)
        entry = read_choice("data", name, conf)
        keys = ", ".join(f"{key}={_text(value)}" for key, value in entry.items() if key not in ("name", "_target_"))
        table.add_row(name, escape(keys), escape(text.splitlines()[0].removeprefix("# ")))
    return table


def layers(title: str, caption: str, found: Iterable["Layer"], about: Mapping[str, str]) -> Table:
    """Return a table of the layers that can be explained; `about` holds texts that mark rows, by layer."""
    table = _table("layer", "channels", "height x width", "separates", "", title=title, caption=escape(caption) or None)
    for layer in found:
        mark = about.get(layer.name, "")
        cells = (layer.name, str(layer.channels), str(layer.grid), layer.separates, mark)
        table.add_row(*map(escape, cells), style="bold" if mark else None)
    return table


def _table(*names: str, title: str, caption: str | None = None) -> Table:
    """Return a table whose names are folded, not cut off, where the terminal is narrow, and whose numbers stay whole."""
    table = Table(title=title, caption=caption)
    for name in names:
        table.add_column(name, overflow="fold", no_wrap=name in NUMBERS)
    return table


def _text(value: object) -> str:
    return "-" if value is None else str(value)
