"""Grids: where the positions of a layer's output lie in the image, and which of its tokens lie nowhere.

A convolution puts out maps (N,K,h,w). Transformers put out the same values in another order: channels last (N,h,w,K), or tokens
(N,T,K), of which the first may be prefix tokens (a class token, a distillation token, registers) and the others are the rows of
an h x w grid, one after another. Methods read maps; a `Grid` converts between the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Any, Literal

import torch
from torch import Tensor, nn

from evalkit.errors import UserError

Layout = Literal["maps", "channels_last", "tokens"]
Chosen = Literal["auto", "channels_last"] | tuple[int, int]
"""`model.grid`: "auto", "channels_last", or height and width of a grid of tokens."""

_PREFIX_PARAMETERS = {
    "cls_token", "class_token", "class_embedding", "dist_token", "distillation_token", "reg_token", "register_tokens", "reg_tokens",
}  # fmt: skip
"""Names under which networks keep the values with which prefix tokens begin."""

_USUAL = (0, 1, 2)
"""Numbers of prefix tokens tried where the network says nothing: none, a class token, and a distillation token beside it."""


@dataclass(frozen=True)
class Grid:
    """How one layer's output is read as maps of `height` x `width`; `prefix` tokens stand in front of them."""

    layout: Layout
    height: int
    width: int
    prefix: int = 0

    def split(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map a layer's output to maps (N,K,h,w) and, where there are any, its prefix tokens (N,p,K). Both may be views."""
        if self.layout == "maps":
            return output, None
        if self.layout == "channels_last":
            return output.permute(0, 3, 1, 2), None
        tokens = output[:, self.prefix :].transpose(1, 2)
        return tokens.unflatten(2, (self.height, self.width)), output[:, : self.prefix] if self.prefix else None

    def join(self, maps: Any, prefix: Any = None) -> Any:
        """Map maps and prefix tokens to the layer's output: the inverse of `split`, for tensors and for torch.fx's proxies."""
        if self.layout == "maps":
            return maps
        if self.layout == "channels_last":
            return maps.permute(0, 2, 3, 1)
        tokens = maps.flatten(2).transpose(1, 2)
        return tokens if prefix is None else torch.cat([prefix, tokens], 1)

    def __str__(self) -> str:
        """Describe the grid in words."""
        if self.layout == "maps":
            return f"{self.height} x {self.width}"
        behind = f" behind {self.prefix} prefix token{'s' if self.prefix > 1 else ''}" if self.prefix else ""
        return (
            f"{self.height} x {self.width}, channels last"
            if self.layout == "channels_last"
            else f"{self.height} x {self.width} tokens{behind}"
        )


def prefix_tokens(module: nn.Module) -> int | None:
    """Return how many prefix tokens a network says that it has: timm's `num_prefix_tokens`, else its parameters by their names.

    None where it says nothing. Parameters are (1,p,K), (1,1,p,K) or (K,), as in the vision transformers of torchvision (`class_token`)
    and Hugging Face (`cls_token`, `distillation_token`, `register_tokens`).
    """
    said = getattr(module, "num_prefix_tokens", None)
    if isinstance(said, int):
        return said
    found = {name: value for name, value in module.named_parameters() if name.rpartition(".")[2] in _PREFIX_PARAMETERS}
    return sum(value.numel() // value.shape[-1] for value in found.values()) if found else None


def find_grid(
    size: Sequence[int], images: Sequence[int], said: int | None, chosen: Chosen = "auto", prefix: int | None = None
) -> Grid | None:
    """Return the grid of an output of `size` for images of size (N,C,H,W); None where none fits.

    Args:
        size: Shape of the output, the number of images first.
        images: Shape of the images; only their height and width matter.
        said: The number of prefix tokens that the network says it has (see `prefix_tokens`).
        chosen: `model.grid`. With "auto", four axes are maps, unless only the first two after the batch have the proportions of the image.
        prefix: `model.prefix_tokens`, or None to try `said`, then 0, 1 and 2, until the rest is a grid with the proportions of the image.
    """
    if len(size) == 4:
        if chosen == "channels_last" or (chosen == "auto" and _fits(size[1], size[2], images) and not _fits(size[2], size[3], images)):
            return Grid("channels_last", size[1], size[2]) if not prefix else None
        return Grid("maps", size[2], size[3]) if chosen == "auto" and not prefix else None
    if len(size) != 3 or chosen == "channels_last":
        return None
    if isinstance(chosen, tuple):
        before = size[1] - chosen[0] * chosen[1]
        return Grid("tokens", *chosen, before) if before == (max(before, 0) if prefix is None else prefix) else None
    tried = [prefix] if prefix is not None else [*([said] if said is not None else []), *_USUAL]
    for before in tried:
        sides = _sides(size[1] - before, images[2] / images[3])
        if sides is not None:
            return Grid("tokens", *sides, before)
    return None


def grid_of(output: Tensor, images: Tensor, layer: str, said: int | None, chosen: Chosen = "auto", prefix: int | None = None) -> Grid:
    """Return the grid of a layer's output (see `find_grid`). Raises UserError, with what to set, where none fits."""
    size, place = tuple(output.shape), f"layer '{layer}' puts out {tuple(output.shape)}"
    grid = find_grid(size, images.shape, said, chosen, prefix)
    if grid is not None:
        return grid
    settings = [f"model.grid={chosen if isinstance(chosen, str) else f'[{chosen[0]},{chosen[1]}]'}"] * (chosen != "auto")
    settings += [f"model.prefix_tokens={prefix}"] * (prefix is not None)
    if settings and len(size) in (3, 4):
        raise UserError(f"{place}, which does not fit {' and '.join(settings)}{_arithmetic(size, chosen, prefix)}")
    if len(size) == 3:
        raise UserError(
            f"{place}: as tokens (images, tokens, channels) these form no grid with the proportions of {images.shape[2]}x{images.shape[3]} "
            "images; set model.grid=[HEIGHT,WIDTH] and, for tokens in front of it, model.prefix_tokens=N, or choose another layer"
        )
    raise UserError(
        f"{place}, neither maps (images, channels, height, width) nor tokens (images, tokens, channels): choose a layer in front of "
        "the pooling or of the class token's head"
    )


def _arithmetic(size: Sequence[int], chosen: Chosen, prefix: int | None) -> str:
    """Return the numbers of tokens that do not add up, in words."""
    if len(size) == 4:
        return ": four axes are maps (auto) or channels_last, without prefix tokens"
    if chosen == "channels_last":
        return ": channels_last is for outputs with four axes"
    wanted = (
        f"{chosen[0]}x{chosen[1]} and {prefix or 0} prefix tokens are {chosen[0] * chosen[1] + (prefix or 0)} tokens"
        if isinstance(chosen, tuple)
        else ""
    )
    return f": {wanted}, not {size[1]}" if wanted else f": the {size[1]} tokens without them form no grid with the proportions of the image"


def in_proportion(height: int, width: int, images: Sequence[int]) -> bool:
    """Return whether maps of images of size (N,C,H,W) can have this size: one position more or less, since convolutions pad."""
    return abs(height - width * images[2] / images[3]) <= 1


def _fits(height: int, width: int, images: Sequence[int]) -> bool:
    return height * width > 1 and in_proportion(height, width, images)


def _sides(tokens: int, proportion: float) -> tuple[int, int] | None:
    """Return height and width of a grid of so many patches, whose proportion differs only by rounding down; None where there is none."""
    if tokens < 1:
        return None
    sides = [(tokens // width, width) for width in range(1, tokens + 1) if tokens % width == 0]
    height, width = min(sides, key=lambda side: abs(log(side[0] / side[1] / proportion)))
    return (height, width) if abs(height - width * proportion) < 1 else None
