"""Grids: where the positions of a layer's output lie in the image, and which of its tokens lie nowhere.

A convolution puts out maps (N,K,h,w). Transformers put out the same values in another order: channels last (N,h,w,K), or tokens
(N,T,K), of which the first may be prefix tokens (a class token, a distillation token, registers) and the others are the rows of
an h x w grid, one after another; a few networks have their class token at the end. Methods read maps; a `Grid` converts between the two.

Shapes alone do not tell these orders apart: 36 channels of 16 positions look like 6 x 6 tokens of 16 channels. Where two readings fit,
`Evidence` decides, and where that does not either, the output is not read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Any, Literal

import torch
from torch import Tensor, nn

from evalkit.errors import UserError
from evalkit.models.evidence import Evidence, lies

Layout = Literal["maps", "channels_last", "tokens"]
Chosen = Literal["auto", "maps", "channels_last"] | tuple[int, int]
"""`model.grid`: "auto", "maps", "channels_last", or height and width of a grid of tokens."""

_USUAL = (0, 1, 2)
"""Numbers of prefix tokens tried where the network says nothing: none, a class token, and a distillation token beside it."""

_STEPS = (1, 2, 4, 8)
"""Factors by which the sides of a grid shrink without a convolution or pooling, as where patches are merged."""


@dataclass(frozen=True)
class Grid:
    """How one layer's output is read as maps of `height` x `width`; `prefix` tokens stand in front of them, or -`prefix` behind."""

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
        first, last = (output[:, : self.prefix], output[:, self.prefix :])
        tokens, others = (first, last) if self.prefix < 0 else (last, first)
        return tokens.transpose(1, 2).unflatten(2, (self.height, self.width)), others if self.prefix else None

    def join(self, maps: Any, prefix: Any = None) -> Any:
        """Map maps and prefix tokens to the layer's output: the inverse of `split`, for tensors and for torch.fx's proxies."""
        if self.layout == "maps":
            return maps
        if self.layout == "channels_last":
            return maps.permute(0, 2, 3, 1)
        tokens = maps.flatten(2).transpose(1, 2)
        if prefix is None:
            return tokens
        return torch.cat([tokens, prefix] if self.prefix < 0 else [prefix, tokens], 1)

    def __str__(self) -> str:
        """Describe the grid in words."""
        if self.layout == "maps":
            return f"{self.height} x {self.width}"
        behind = f" behind {_prefix(self.prefix)}" if self.prefix > 0 else ""
        behind = f" in front of {_prefix(-self.prefix)} at the end" if self.prefix < 0 else behind
        return (
            f"{self.height} x {self.width}, channels last"
            if self.layout == "channels_last"
            else f"{self.height} x {self.width} tokens{behind}"
        )


def find_grid(
    size: torch.Size,
    images: Sequence[int],
    evidence: Evidence,
    part: nn.Module | None = None,
    chosen: Chosen = "auto",
    prefix: int | None = None,
) -> Grid | None:
    """Return the grid of an output of `size` for images of size (N,C,H,W); None where none fits, or two do and nothing decides.

    Args:
        size: Shape of the output, the number of images first.
        images: Shape of the images; only their height and width matter.
        evidence: What the network tells (see `observe`).
        part: The module that puts it out; None for a function.
        chosen: `model.grid`. With "auto", four axes are maps, unless only the first two after the batch have the proportions of the image.
        prefix: `model.prefix_tokens`, negative for tokens at the end; None to take what the network says, else to try 0, 1 and 2, until
            the rest is a grid with the proportions of the image.
    """
    found = _read(size, images, evidence, part, chosen, prefix)
    return found if isinstance(found, Grid) else None


def grid_of(
    output: Tensor,
    images: Tensor,
    layer: str,
    evidence: Evidence,
    part: nn.Module | None = None,
    chosen: Chosen = "auto",
    prefix: int | None = None,
) -> Grid:
    """Return the grid of a layer's output (see `find_grid`). Raises UserError, with what to set, where none fits."""
    found = _read(output.shape, images.shape, evidence, part, chosen, prefix)
    if isinstance(found, str):
        raise UserError(f"layer '{layer}' puts out {tuple(output.shape)}{found}")
    return found


def needs_evidence(size: Sequence[int], images: Sequence[int]) -> bool:
    """Return whether the shape of an output alone does not tell how it lies."""
    return len(size) == 3 or (len(size) == 4 and _fits(size[1], size[2], images) and _fits(size[2], size[3], images))


def _read(
    size: torch.Size, images: Sequence[int], evidence: Evidence, part: nn.Module | None, chosen: Chosen, prefix: int | None
) -> Grid | str:
    """Return the grid, or the end of a sentence that says why there is none."""
    settings = [f"model.grid={chosen if isinstance(chosen, str) else f'[{chosen[0]},{chosen[1]}]'}"] * (chosen != "auto")
    settings += [f"model.prefix_tokens={prefix}"] * (prefix is not None)
    misfit = f", which does not fit {' and '.join(settings)}: "
    if len(size) == 4:
        if isinstance(chosen, tuple) or prefix:
            return f"{misfit}four axes are maps or channels_last, without prefix tokens"
        layout = _layout(size, images, evidence, part) if chosen == "auto" else chosen
        if layout is None:
            return (
                f": as maps (images, channels, height, width) and as (images, height, width, channels) it has the proportions of "
                f"{images[2]}x{images[3]} images: set model.grid=maps or model.grid=channels_last"
            )
        return Grid(layout, *(size[2:] if layout == "maps" else size[1:3]))
    if len(size) != 3:
        return (
            ", neither maps (images, channels, height, width) nor tokens (images, tokens, channels): choose a layer in front of "
            "the pooling or of the class token's head"
        )
    if isinstance(chosen, tuple):
        return _as_chosen(size[1], evidence, chosen, prefix) or misfit + _arithmetic(size[1], images, evidence, chosen, prefix)
    if chosen != "auto":
        return f"{misfit}{chosen} is for outputs with four axes"
    return _tokens(size, images, evidence, part, prefix, misfit)


def _layout(size: torch.Size, images: Sequence[int], evidence: Evidence, part: nn.Module | None) -> Layout | None:
    """Return the layout of four axes; None where both fit and nothing decides."""
    first, last = _fits(size[2], size[3], images), _fits(size[1], size[2], images)
    if not (first and last):
        return "channels_last" if last else "maps"
    own = lies(part, size)
    if own is not None:
        return "maps" if own == "first" else "channels_last"
    if not evidence.reads_last:
        return "maps"
    first = (size[2], size[3]) in evidence.sizes and size[1] in evidence.channels
    last = _follows(size[1], size[2], evidence, images) and size[3] in evidence.channels
    return None if first == last else "maps" if first else "channels_last"


def _as_chosen(tokens: int, evidence: Evidence, chosen: tuple[int, int], prefix: int | None) -> Grid | None:
    """Return the grid that is set, where the number of tokens, and what the network says of its prefix tokens, allow it."""
    others = tokens - chosen[0] * chosen[1]
    if prefix is not None:
        return Grid("tokens", *chosen, prefix) if others == abs(prefix) else None
    if others < 0 or (others and evidence.said not in (None, others)):
        return None
    return Grid("tokens", *chosen, -others if evidence.behind(tokens, others) else others)


def _arithmetic(tokens: int, images: Sequence[int], evidence: Evidence, chosen: tuple[int, int], prefix: int | None) -> str:
    """Return the numbers of tokens that do not add up, in words, and a grid that fits."""
    others = abs(prefix) if prefix is not None else evidence.said or 0
    wanted = chosen[0] * chosen[1]
    if others >= tokens:
        return f"{wanted + others} tokens, not {tokens}"
    less = f" less {_prefix(others)} are {tokens - others}" if others else ""
    sides = _sides(tokens - others, images[2] / images[3])
    fitting = f", for example [{sides[0]},{sides[1]}]" if sides is not None else ""
    more = tokens - wanted
    here = f"; if {more} tokens stand in front of the grid, set model.prefix_tokens={more}" if more > 0 and prefix is None else ""
    return f"{tokens} tokens{less}{fitting}, not {chosen[0]}x{chosen[1]} = {wanted}{here}"


def _tokens(
    size: torch.Size, images: Sequence[int], evidence: Evidence, part: nn.Module | None, prefix: int | None, misfit: str
) -> Grid | str:
    """Return the grid of three axes, taken for tokens (N,T,K), or why they are not read so."""
    own, second = lies(part, size), _grid_of_tokens(size[1], images, evidence, prefix)
    other = _grid_of_tokens(size[2], images, evidence, prefix) if own is None else None
    if own == "first" or (other is not None and other.height * other.width > 1 and _unclear(size, second, evidence)):
        sure = own == "first" or second is None or size[2] not in evidence.channels
        kind = "as (images, channels, positions)" if sure else "as (images, tokens, channels) or (images, channels, positions)"
        return (
            f", read {kind}: choose a layer before the positions are flattened, or set model.grid=[HEIGHT,WIDTH] if the second axis holds "
            "the tokens"
        )
    if second is not None:
        return second
    if prefix is not None:
        return f"{misfit}the {size[1]} tokens without them form no grid with the proportions of the image"
    ask = "set model.grid=[HEIGHT,WIDTH] and model.prefix_tokens=N"
    if evidence.said:
        return (
            f": the network says that it has {_prefix(evidence.said)}, and the other {size[1] - evidence.said} tokens are no grid of "
            f"{images[2]}x{images[3]} images that follows from its first one, as where tokens are dropped: choose a layer before that, "
            f"or {ask}"
        )
    return (
        f": as tokens (images, tokens, channels) these form no grid with the proportions of {images[2]}x{images[3]} "
        "images that follows from the network's first one, as where tokens are dropped: choose another layer, or set "
        "model.grid=[HEIGHT,WIDTH] and, for tokens in front of it, model.prefix_tokens=N"
    )


def _unclear(size: torch.Size, second: Grid | None, evidence: Evidence) -> bool:
    """Return whether three axes of which the third fits as positions are not surely tokens, by the numbers of channels."""
    return second is None or size[1] in evidence.channels or size[2] not in evidence.channels


def _grid_of_tokens(tokens: int, images: Sequence[int], evidence: Evidence, prefix: int | None) -> Grid | None:
    """Return the first grid of so many tokens, prefix tokens included, that follows from the network's grids."""
    said, proportion = evidence.said, images[2] / images[3]
    tried = [prefix] if prefix is not None else [said, 0] if said else _USUAL if said is None else [0]
    for before in tried:
        sides = _sides(tokens - abs(before), proportion)
        if sides is None or not _follows(*sides, evidence, images, exactly=bool(before) and _has(tokens, before, evidence)):
            continue
        if prefix is None and said and not before and sides not in evidence.sizes and tokens + said not in evidence.counts:
            continue  # without the class token that the network has, and not as many tokens as are with it elsewhere
        return Grid("tokens", *sides, -before if prefix is None and evidence.behind(tokens, before) else before)
    return None


def _has(tokens: int, before: int, evidence: Evidence) -> bool:
    """Return whether the network has prefix tokens together with a whole grid elsewhere, of which fewer tokens may be a choice."""
    return any(height * width + abs(before) in evidence.counts for height, width in evidence.sizes if height * width + abs(before) > tokens)


def _follows(height: int, width: int, evidence: Evidence, images: Sequence[int], *, exactly: bool = False) -> bool:
    """Return whether a grid is one that convolutions put out, or, unless `exactly`, one with shorter sides by a usual factor."""
    first = (_sides(tokens - before, images[2] / images[3]) for tokens in evidence.counts for before in (0, evidence.said or 1))
    sizes = evidence.sizes or {sides for sides in [next((one for one in first if one is not None), None)] if sides is not None}
    if not sizes:
        return True
    steps = (1,) if exactly else _STEPS
    return any(height in _shorter(high, step) and width in _shorter(wide, step) for high, wide in sizes for step in steps)


def _shorter(side: int, step: int) -> tuple[int, int]:
    return side // step, -(-side // step)


def _prefix(count: int) -> str:
    return f"{count} prefix token{'s' if count > 1 else ''}"


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
