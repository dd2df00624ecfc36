"""A model cut at its target layer: logits = head(trunk(images)).

The caller's module is never modified: all work is done on a copy in eval mode, which shares its parameters and buffers
but has its own module objects.
"""

import copy
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

import torch
from torch import Tensor, fx, nn

from evalkit.errors import UserError, did_you_mean, first_line
from evalkit.models import graph as cutting

log = logging.getLogger(__name__)

Context = tuple[Tensor, ...]
"""Tensors (N, ...) that the head reads besides the activations: none where the layer separates the graph."""


class SplitModel:
    """A CNN classifier cut at the output of `layer`.

    Args:
        module: Network from normalised images (N,3,H,W) to logits (N,C), in any mode; it is not changed. Its
            parameters are shared, so move it to its device and dtype first.
        layer: Dotted name of a submodule (`features.29`), of one call of a repeated one (`layer4.2.relu_2`, counted
            from 0), or of a functional node (`relu`). Its output (N,K,h,w) is the activations A.
        mean: Mean of the normalisation, per colour channel, for images in [0,1].
        std: Standard deviation of the normalisation, per colour channel, for images in [0,1].

    Raises:
        UserError: the layer is unknown, ambiguous, or does not influence the output.
    """

    def __init__(self, module: nn.Module, layer: str, *, mean: Sequence[float], std: Sequence[float]) -> None:
        self.module = _sharing_copy(module)
        self.layer = layer
        example = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
        self.device, self.dtype = example.device, example.dtype
        self.mean = torch.tensor(mean, device=self.device, dtype=self.dtype).view(1, -1, 1, 1)
        self.std = torch.tensor(std, device=self.device, dtype=self.dtype).view(1, -1, 1, 1)
        self.autocast: torch.dtype | None = None
        """Set to torch.bfloat16 to run the trunk, but not the head, in that precision."""
        self._cut: _GraphCut | _HookCut
        self._checked = False
        self._layout = torch.contiguous_format
        try:
            traced = cutting.trace(self.module)
        except Exception as reason:  # torch.fx documents no closed set of errors; a hook is slower but correct
            self._fall_back(f"torch.fx cannot trace {type(module).__name__} ({reason})")
        else:
            self._cut = _GraphCut(traced, layer)

    def _fall_back(self, why: str) -> None:
        log.warning("%s: falling back to a hook, which repeats the whole network", why)
        self._cut = _HookCut(self.module, self.layer)

    def trunk(self, images: Tensor) -> tuple[Tensor, Context]:
        """Map images (N,3,H,W) in [0,1] to activations A (N,K,h,w) and the head's context, without gradients."""
        with torch.no_grad():
            normalised = (images.to(self.device, self.dtype) - self.mean) / self.std
            if not self._checked:
                self._check(normalised[:1])
            with self._precision():
                activations, context = self._cut.trunk(normalised.contiguous(memory_format=self._layout))
        if activations.dim() != 4:
            raise UserError(
                f"layer '{self.layer}' puts out {tuple(activations.shape)}, not (images, channels, height, width): "
                "choose a convolutional layer"
            )
        return self._plain(activations), tuple(self._plain(c) for c in context)

    def _plain(self, tensor: Tensor) -> Tensor:
        """Convert to the model's precision and to contiguous memory, since methods may call `view`."""
        return (tensor.to(self.dtype) if tensor.is_floating_point() else tensor).contiguous()

    def head(self, activations: Tensor, context: Context = ()) -> Tensor:
        """Map activations (N,K,h,w) and the context of the same images to logits (N,C); differentiable, inputs are not changed."""
        # Cloned, because an in-place ReLU right after the cut would overwrite the caller's tensors.
        return self._cut.head(activations.clone(), tuple(c.clone() for c in context))

    def __call__(self, images: Tensor) -> Tensor:
        """Map images (N,3,H,W) in [0,1] to logits (N,C), without gradients."""
        with torch.no_grad():
            return self.head(*self.trunk(images))

    @property
    def head_graph(self) -> fx.GraphModule | None:
        """The traced head: its first placeholder is the activations, the others are the context. None where a hook is used."""
        return self._cut.after if isinstance(self._cut, _GraphCut) else None

    @cached_property
    def layers(self) -> list[str]:
        """Names that `layer` accepts, in the order in which the data passes them."""
        return list(self._cut.layers)

    @property
    def layout(self) -> torch.memory_format:
        """Memory format of the images in the trunk, chosen on the first images."""
        return self._layout

    def _precision(self) -> AbstractContextManager[object]:
        return nullcontext() if self.autocast is None else torch.autocast(self.device.type, self.autocast)

    def _check(self, normalised: Tensor) -> None:
        """Compare head(trunk(x)) with the model on the first image; use the hook where they differ or the cut cannot run."""
        whole = self.module(normalised)
        if not isinstance(whole, Tensor) or whole.dim() != 2:
            raise UserError(f"{type(self.module).__name__} must return logits (images, classes) as one tensor")
        self._checked = True
        if isinstance(self._cut, _HookCut):
            return  # the hook runs the model itself
        activations, context = self._cut.trunk(normalised)
        if activations.dim() != 4:
            return  # the caller reports the shape
        if not all(isinstance(c, Tensor) and c.dim() > 0 and len(c) == len(normalised) for c in context):
            self._fall_back(f"behind '{self.layer}', {type(self.module).__name__} reads something that is no tensor of the batch")
            return
        cut = self.head(activations, context)

        def differs(logits: Tensor) -> bool:
            return not torch.allclose(logits, whole, rtol=1e-4, atol=1e-4 * float(whole.nan_to_num().abs().max()), equal_nan=True)

        if differs(cut):
            if differs(self.module(normalised)):
                raise UserError(
                    f"{type(self.module).__name__} is not deterministic: two passes over one image differ in eval mode, "
                    "for example because of a functional dropout without training=False"
                )
            self._fall_back(f"cutting {type(self.module).__name__} at '{self.layer}' changes its output")
        else:
            self._choose_layout(normalised, activations)

    def _choose_layout(self, normalised: Tensor, activations: Tensor) -> None:
        """Use channels-last images where the trunk accepts them.

        Convolutions are then 1.5 to nearly 2 times as fast on a CPU, whatever the layout of the weights. A network that
        calls `view` on its activations may fail; it keeps contiguous images.
        """
        try:
            channels_last, _ = self._cut.trunk(normalised.contiguous(memory_format=torch.channels_last))
        except RuntimeError as reason:
            log.info("%s runs on contiguous images only: %s", type(self.module).__name__, first_line(reason))
            return
        largest = float(activations.nan_to_num().abs().max())
        if torch.allclose(channels_last, activations, rtol=1e-4, atol=1e-4 * largest, equal_nan=True):
            self._layout = torch.channels_last


def _sharing_copy(module: nn.Module) -> nn.Module:
    """Copy all module objects, in eval mode; every tensor is shared."""
    memo: dict[int, object] = {}
    for part in module.modules():
        values = [*part.parameters(recurse=False), *part.buffers(recurse=False), *vars(part).values()]
        memo.update({id(tensor): tensor for tensor in values if isinstance(tensor, Tensor)})
    try:
        return copy.deepcopy(module, memo).eval()
    except (TypeError, RuntimeError) as reason:  # locks, open files, tensors that are part of a graph
        raise UserError(
            f"{type(module).__name__} cannot be copied ({first_line(reason)}): keep such attributes out of the module"
        ) from reason


class _GraphCut:
    """The graph in two parts: what does not depend on the layer's output, and what does."""

    def __init__(self, traced: cutting.Traced, layer: str) -> None:
        node = traced.node(layer)
        self.layers = traced.layers
        after = cutting.descendants(node)
        nodes = list(traced.graph.nodes)
        output = nodes[-1].args[0]
        if not isinstance(output, fx.Node):
            raise UserError(f"{type(traced.module).__name__} must return logits (images, classes) as one tensor")
        if output is not node and output not in after:
            raise UserError(f"layer '{layer}' does not influence the output")
        beside = cutting.crossing(traced.graph, node)
        inputs = [n for n in nodes if n.op == "placeholder"][:1]
        before = [n for n in nodes if n not in after and n.op not in ("placeholder", "output")]
        behind = [n for n in nodes if n in after and n.op != "output"]
        self.before = cutting.extract(traced.module, before, inputs, (node, beside))
        self.after = cutting.extract(traced.module, behind, [node, *beside], output)

    def trunk(self, normalised: Tensor) -> tuple[Tensor, Context]:
        activations, context = self.before(normalised)
        return activations, tuple(context)

    def head(self, activations: Tensor, context: Context) -> Tensor:
        return self.after(activations, *context)


class _HookCut:
    """A forward hook that reads or replaces the layer's output; the head repeats the whole network."""

    def __init__(self, module: nn.Module, layer: str) -> None:
        parts = dict(module.named_modules())
        self.layers = [name for name in parts if name]
        if layer not in self.layers:
            raise UserError(f"layer '{layer}' is not in {type(module).__name__}{did_you_mean(layer, self.layers)}")
        self.module, self.target = module, parts[layer]

    def trunk(self, normalised: Tensor) -> tuple[Tensor, Context]:
        seen: list[Tensor] = []

        def keep(_module: nn.Module, _args: object, out: object) -> None:
            if not isinstance(out, Tensor):
                raise UserError(f"the layer puts out {type(out).__name__}, not one tensor; choose a layer that does")
            seen.append(out.clone())

        handle = self.target.register_forward_hook(keep)
        try:
            self.module(normalised)
        finally:
            handle.remove()
        if len(seen) != 1:
            raise UserError(f"the layer is called {len(seen)} times in one forward pass; choose one that is called once")
        return seen[0], (normalised,)

    def head(self, activations: Tensor, context: Context) -> Tensor:
        handle = self.target.register_forward_hook(lambda _module, _args, _out: activations)
        try:
            return self.module(*context)
        finally:
            handle.remove()
