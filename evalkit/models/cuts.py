"""The two ways to cut a network at a layer: by its graph, or by a hook on a module."""

from torch import Tensor, fx, nn

from evalkit.errors import UserError, did_you_mean
from evalkit.models import graph as cutting
from evalkit.models import outlets
from evalkit.models.grid import Grid
from evalkit.models.readout import Readout, described

Context = tuple[Tensor, ...]
"""Tensors (N, ...) that the head reads besides the activations: none where the layer separates the graph."""


class GraphCut:
    """The graph in two parts: what does not depend on the layer's output, and what does.

    Raises UserError: the layer is unknown, ambiguous, or does not influence the output.
    """

    def __init__(self, traced: cutting.Traced, layer: str) -> None:
        (output,) = next(reversed(traced.graph.nodes)).args
        if not isinstance(output, fx.Node):
            raise TypeError(f"it returns {described(output)}")
        node = traced.node(layer)
        self.layers = traced.layers
        after = cutting.descendants(node)
        if output is not node and output not in after:
            raise UserError(f"layer '{layer}' does not influence the output")
        beside = cutting.crossing(traced.graph, node)
        sizes = {}
        for tensor in cutting.measured(traced.graph, node):
            with traced.graph.inserting_after(tensor):
                sizes[tensor] = traced.graph.call_function(cutting.carried, (tensor,))
        beside += sizes.values()
        nodes = list(traced.graph.nodes)
        inputs = [n for n in nodes if n.op == "placeholder"][:1]
        before = [n for n in nodes if n not in after and n.op not in ("placeholder", "output")]
        behind = [n for n in nodes if n in after and n.op != "output"]
        self.before = cutting.extract(traced.root, before, inputs, (node, beside))
        self.after = cutting.extract(traced.root, behind, [node, *beside], output, sizes)
        self._behind: dict[tuple[str, int], fx.GraphModule] = {}

    def behind(self, grid: Grid) -> fx.GraphModule:
        """Return the head that reads maps, and the prefix tokens if there are any; it is made once, since methods ask for each batch."""
        key = grid.layout, (grid.prefix > 0) - (grid.prefix < 0)
        if key not in self._behind:
            self._behind[key] = cutting.behind_grid(self.after, grid)
        return self._behind[key]

    def trunk(self, normalised: Tensor) -> tuple[Tensor, Context]:
        """Map normalised images (N,3,H,W) to the layer's output as it lies, and what else the head reads."""
        activations, context = self.before(normalised)
        return activations, tuple(context)

    def head(self, activations: Tensor, context: Context) -> Tensor:
        """Map the layer's output as it lies, and what else the head reads, to logits (N,C)."""
        return self.after(activations, *context)


class HookCut:
    """A forward hook that reads or replaces the layer's output; the head repeats the whole network.

    Raises UserError: the layer is no module; `why` says why only modules can be explained.
    """

    def __init__(self, module: nn.Module, readout: Readout, layer: str, why: str) -> None:
        parts = dict(module.named_modules())
        self.layers = [name for name in parts if name]
        name, _, place = layer.partition(":")
        if name not in self.layers or not (place.isdecimal() or place == layer[len(name) :] == ""):
            known = did_you_mean(layer, self.layers)
            raise UserError(
                f"layer '{layer}' is no module of {type(module).__name__}, and only modules can be explained, since {why}{known}"
            )
        self.module, self.readout, self.layer, self.target = module, readout, layer, parts[name]
        self.why = why
        self.place = int(place) if place else None

    def trunk(self, normalised: Tensor) -> tuple[Tensor, Context]:
        """Map normalised images (N,3,H,W) to the layer's output as it lies, and what else the head reads."""
        seen: list[Tensor] = []

        def keep(_module: nn.Module, _args: object, out: object) -> None:
            seen.append(outlets.chosen(out, self.place, self.layer)[1].clone())

        with self.target.register_forward_hook(keep):
            self.module(normalised.clone())  # it may change its input, which the head needs again
        if not seen and any("forward" in vars(part) for part in self.module.modules()):
            raise UserError(
                f"layer '{self.layer}' is not called in one forward pass: forward was replaced on the object, and what replaces it may "
                "call another object's layers; override forward in a subclass instead"
            )
        if len(seen) != 1:
            times = "not called" if not seen else f"called {len(seen)} times"
            raise UserError(f"layer '{self.layer}' is {times} in one forward pass; choose one that is called once")
        return seen[0], (normalised,)

    def head(self, activations: Tensor, context: Context) -> Tensor:
        """Map the layer's output as it lies, and what else the head reads, to logits (N,C)."""

        def replace(_module: nn.Module, _args: object, out: object) -> object:
            return outlets.replaced(out, outlets.chosen(out, self.place, self.layer)[0], activations)

        with self.target.register_forward_hook(replace):
            logits: Tensor = self.readout(self.module(*context))
        return logits
