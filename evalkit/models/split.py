"""A model cut at its target layer: logits = head(trunk(images)).

The caller's module is never modified: all work is done on a copy in eval mode, which shares its parameters and buffers
but has its own module objects.
"""

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, fx, nn

from evalkit.errors import UserError, cause, first_line
from evalkit.models import graph as cutting
from evalkit.models.copies import eval_copy, uncompiled_name
from evalkit.models.cuts import Context, GraphCut, HookCut
from evalkit.models.evidence import Evidence, observe
from evalkit.models.failing import Failed, cannot_process, device_and_dtype
from evalkit.models.grid import Chosen, Grid, grid_of, needs_evidence
from evalkit.models.normalisation import check_normalisation
from evalkit.models.readout import Readout, described

log = logging.getLogger(__name__)


class SplitModel:
    """A network cut at the output of `layer`.

    Args:
        module: Network from normalised images (N,3,H,W), or of other channels, to logits (N,C), or to what `readout` makes logits of,
            in any mode; it is not changed. Its parameters are shared, so move it to its device and dtype first.
        layer: Dotted name of a submodule (`features.29`), of one call of a repeated one (`layer4.2.relu_2`, counted
            from 0), of one of several tensors that it puts out (`blocks.10:1`), or of a functional node (`relu`). Its output is
            read as activations A (N,K,h,w), see `evalkit.models.grid`.
        mean: Mean of the normalisation, per channel, for images in [0,1].
        std: Standard deviation of the normalisation, per channel, for images in [0,1].
        grid: How the output lies: "auto" reads it from the network and the shapes, "maps" is (N,K,h,w), "channels_last" (N,h,w,K), and
            (h,w) the grid of the tokens (N,T,K).
        prefix: Number of tokens in front of the grid, negative for tokens behind it, or None to read it from the network and the shapes.
        readout: Makes logits (N,C) of what the network returns; by default a tensor, or the `logits` of a dict or of an object.

    Raises:
        UserError: the layer is unknown, ambiguous, or does not influence the output; mean and std are not those of images in
            [0,1]; the module is scripted or cannot be copied.
    """

    def __init__(
        self,
        module: nn.Module,
        layer: str,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        grid: Chosen = "auto",
        prefix: int | None = None,
        readout: Readout | None = None,
    ) -> None:
        check_normalisation(mean, std)
        self.readout = Readout() if readout is None else replace(readout)
        self.module = eval_copy(module)
        self.name = self.readout.named(type(self.module).__name__)
        """What messages call the network, with the function that makes its scores, if there is one."""
        self.layer = uncompiled_name(layer)
        self.device, self.dtype = device_and_dtype(self.module)
        self.mean = torch.tensor(mean, device=self.device, dtype=self.dtype).view(1, -1, 1, 1)
        self.std = torch.tensor(std, device=self.device, dtype=self.dtype).view(1, -1, 1, 1)
        self.channels = max(len(mean), len(std))
        """Channels of the images; 1 also where one number normalises all channels."""
        self.autocast: torch.dtype | None = None
        """Set to torch.bfloat16 to run the trunk, but not the head, in that precision."""
        self._cut: GraphCut | HookCut
        self._checked = False
        self._layout = torch.contiguous_format
        self._chosen = grid, prefix
        self._grids: dict[tuple[torch.Size, torch.Size], Grid] = {}
        """Grids by the sizes of an output and of its images."""
        self._views: dict[int, SplitModel] = {}
        self._cut_module()

    def _cut_module(self) -> None:
        try:
            self._cut = GraphCut(cutting.trace(self.module, self.readout), self.layer)
        except UserError:
            raise
        except Exception as reason:  # torch.fx documents no closed set of errors; a hook is slower but correct
            self._fall_back(f"torch.fx cannot trace {self.name} ({cause(reason)})")

    def _fall_back(self, why: str) -> None:
        self._cut = HookCut(self.module, self.readout, self.layer, why)

    def trunk(self, images: Tensor) -> tuple[Tensor, Context]:
        """Map images (N,3,H,W) in [0,1] to activations A (N,K,h,w) and the head's context, without gradients."""
        with torch.no_grad(), self.told(images):
            normalised = (images.to(self.device, self.dtype) - self.mean) / self.std
            if not self._checked:
                self._check(normalised[:1])
            with self._precision():
                output, context = self._cut.trunk(normalised.contiguous(memory_format=self._layout))
            if not isinstance(output, Tensor):
                raise UserError(f"layer '{self.layer}' puts out {described(output)}, not one tensor; choose a layer that does")
            self._check_length(output, len(images))
            if not self._grids and output.dim() == 3 and output.shape[1] == len(images) > 1:  # tokens first, of as many images as tokens?
                self._check_length(self._cut.trunk(normalised[:1].clone())[0], 1)
            activations, prefix = self._grid_of(output, normalised).split(output)
        context = context if prefix is None else (prefix, *context)
        return self._plain(activations), tuple(self._plain(c) for c in context)

    def _check_length(self, output: Tensor, images: int) -> None:
        if len(output) != images:
            order = " or where its order is (tokens, images, channels)" if output.dim() == 3 and output.shape[1] == images else ""
            raise UserError(
                f"layer '{self.layer}' puts out {len(output)} maps for {images} images, as where a network looks at several crops, mirror "
                f"images or windows{order}; choose a layer with one map an image, or hand over the network that sees one of them"
            )

    def _grid_of(self, output: Tensor, normalised: Tensor) -> Grid:
        """Return the grid of the layer's output for images of this size; order and prefix tokens are those of the first images."""
        sizes = output.shape[1:], normalised.shape[2:]
        if sizes not in self._grids:
            chosen, prefix = self._chosen
            needed = (chosen == "auto" or prefix is None) and needs_evidence(output.shape, normalised.shape)
            evidence = observe(self.module, normalised[:1], self.readout) if needed else Evidence()
            part = dict(self.module.named_modules()).get(self.layer)
            grid = grid_of(output, normalised, self.layer, evidence, part, chosen, prefix)
            if self._grids and (grid.layout, grid.prefix) != (self.grid.layout, self.grid.prefix):
                raise UserError(
                    f"layer '{self.layer}' puts out {self.grid} for images of one size and {grid} for another; "
                    "set model.grid and model.prefix_tokens, or model.resize"
                )
            self._grids[sizes] = grid
        return self._grids[sizes]

    def _plain(self, tensor: Tensor) -> Tensor:
        """Convert to the model's precision and to contiguous memory, since methods may call `view`."""
        return (tensor.to(self.dtype) if tensor.is_floating_point() else tensor).contiguous()

    def head(self, activations: Tensor, context: Context = ()) -> Tensor:
        """Map activations (N,K,h,w) and the context of the same images to logits (N,C); differentiable, inputs are not changed."""
        # Cloned, because an in-place ReLU right after the cut would overwrite the caller's tensors.
        cloned = [c.clone() for c in context]
        prefix = cloned.pop(0) if self.grid.prefix else None
        return self._cut.head(self.grid.join(activations.clone(), prefix), tuple(cloned))

    def __call__(self, images: Tensor) -> Tensor:
        """Map images (N,3,H,W) in [0,1] to logits (N,C), without gradients."""
        with torch.no_grad(), self.told(images):
            return self.head(*self.trunk(images))

    @contextmanager
    def told(self, images: Tensor) -> Iterator[None]:
        """Raise `Failed`, a UserError, for whatever the network raises on images (N,C,H,W), except where memory runs out."""
        try:
            yield
        except (UserError, torch.OutOfMemoryError):
            raise
        except Exception as reason:  # a user's forward may raise anything
            channels, *size = images.shape[1:]
            raise Failed(str(cannot_process(self.module, self.name, channels, (size[0], size[1]), reason))) from reason

    @property
    def grid(self) -> Grid:
        """How the layer's output is read as maps; known from the first images on."""
        if not self._grids:
            raise RuntimeError("the grid is read from the first images: call trunk before")
        return next(iter(self._grids.values()))

    def with_tokens(self, tokens: int) -> "SplitModel":
        """Return the same network cut at the same layer, whose activations are all its tokens, (N,K,1,tokens); made once."""
        if tokens not in self._views:
            view = copy.copy(self)
            view._chosen, view._grids, view._views = ((1, tokens), 0), {}, {}
            self._views[tokens] = view
        return self._views[tokens]

    @property
    def head_graph(self) -> fx.GraphModule | None:
        """The traced head: its first placeholder is the activations, the others are the context. None where a hook is used."""
        return self._cut.behind(self.grid) if isinstance(self._cut, GraphCut) else None

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

    def _check(self, image: Tensor) -> None:
        """Check the model on one image (1,3,H,W) and its mirror image, and use the hook where the graph cannot run or differs.

        Raises UserError: the module returns no logits, or logits that vary from pass to pass or with the batch's other images.
        """
        pair, traced = torch.cat([image, image.flip(3)]), self.readout.shape
        alone, again = self._logits(image), self._logits(image)
        # Far below `slack`, which noise would pass by chance; above what sums in another order change on a GPU.
        if not close(again, alone, min(self.slack, 256 * torch.finfo(self.dtype).eps)):
            raise UserError(
                f"{self.name} is not deterministic: two passes over one image differ in eval mode, "
                "for example because of a functional dropout without training=self.training"
            )
        together = self._logits(pair)
        if not close(together[:1], alone, self.slack):
            raise UserError(
                f"{self.name} puts out other logits for an image when another image is in its batch, for example because of a "
                "normalisation over the batch or of dynamic quantisation; hand over a network that treats each image by itself"
            )
        if isinstance(self._cut, GraphCut) and self.readout.shape != traced:
            self._cut_module()
        if isinstance(self._cut, GraphCut):
            self._check_graph(pair, together)
        if isinstance(self._cut, HookCut) and not close(self._cut.head(*self._cut.trunk(pair.clone())), together, self.slack):
            raise UserError(
                f"{self.name} is not deterministic: its logits change when '{self.layer}' is given its own output again, "
                "for example because of a functional dropout without training=self.training"
            )
        if isinstance(self._cut, HookCut):  # said here, since an error may come before
            log.warning("%s: falling back to a hook, which repeats the whole network", self._cut.why)
        self._checked = True

    def whole(self, normalised: Tensor) -> Tensor:
        """Map normalised images (N,3,H,W) to logits (N,C) by the module as it is, uncut; differentiable. A module may change its input."""
        logits: Tensor = self.readout(self.module(normalised))
        return logits

    def _logits(self, normalised: Tensor) -> Tensor:
        """Run the whole module. Raises UserError unless it returns logits, one row for each image."""
        return self.readout.checked(self.module(normalised.clone()), len(normalised), type(self.module).__name__)

    @property
    def slack(self) -> float:
        """Relative difference of logits that rounding may cause between batches, in the module's precision."""
        rounded = torch.backends.cuda.matmul.allow_tf32 or self.autocast is not None
        return max(1e-3, 16 * torch.finfo(self.dtype).eps, 2e-2 * rounded)

    def _check_graph(self, pair: Tensor, logits: Tensor) -> None:
        assert isinstance(self._cut, GraphCut)
        try:
            output, context = self._cut.trunk(pair.clone())
            if not isinstance(output, Tensor) or not output.dim() or len(output) != len(pair):
                return  # the caller reports the shape
            if not all(isinstance(c, Tensor) and c.dim() > 0 and len(c) == len(pair) for c in context):
                self._fall_back(f"behind '{self.layer}', {self.name} reads something that is no tensor of the batch")
                return
            copies = output.clone(), tuple(c.clone() for c in context)
            same = close(self._cut.head(*copies), logits, 1e-4)
        except torch.OutOfMemoryError:
            raise
        except Exception as reason:  # what was fixed while tracing may fail in any way
            self._fall_back(f"the graph that torch.fx traced of {self.name} does not run ({cause(reason)})")
            return
        if same:
            self._choose_layout(pair[:1], output[:1])
        else:
            self._fall_back(f"cutting {self.name} at '{self.layer}' changes its output")

    def _choose_layout(self, normalised: Tensor, activations: Tensor) -> None:
        """Use channels-last images where the trunk accepts them.

        Convolutions are then 1.5 to nearly 2 times as fast on a CPU, whatever the layout of the weights. A network that
        calls `view` on its activations may fail; it keeps contiguous images.
        """
        try:
            channels_last, _ = self._cut.trunk(normalised.clone(memory_format=torch.channels_last))
        except RuntimeError as reason:
            log.info("%s runs on contiguous images only: %s", self.name, first_line(reason))
            return
        if close(channels_last, activations, 1e-4):
            self._layout = torch.channels_last


def close(values: object, expected: Tensor, slack: float) -> bool:
    """Compare two tensors up to a fraction of the largest finite value. nan and infinities must be at the same places."""
    if not isinstance(values, Tensor) or values.shape != expected.shape:
        return False
    largest = float(expected.nan_to_num(posinf=0, neginf=0).abs().max())
    return torch.allclose(values, expected, rtol=slack, atol=slack * largest, equal_nan=True)
