"""Proposal of the layer to explain where the config says `layer: auto`."""

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from evalkit.errors import UserError
from evalkit.models import graph
from evalkit.models.copies import eval_copy, uncompiled
from evalkit.models.evidence import Evidence, observe
from evalkit.models.graph import shape
from evalkit.models.grid import find_grid, in_proportion
from evalkit.models.influence import PASSES_ON, POOLS, Proposal, last_influential
from evalkit.models.readout import Readout


class NoLayer(UserError):
    """No layer can be proposed."""


def propose(module: nn.Module, images: Tensor, readout: Readout | None = None) -> Proposal:
    """Propose the layer whose maps the classifier pools, flattens or reads.

    It is the last output (N,K,h,w) with h·w > 1, those of poolings and dropout excepted, through which all data passes and
    after which there are learned weights: in VGG16 `features.29`, 14x14, not the 7x7 pooling after it; in SqueezeNet a layer
    before the class scores of each position. Of several names for one output, the outermost is returned. Where learned weights
    read tokens or channels-last maps behind it, or the module cannot be traced, see `last_influential`.

    Args:
        module: The network in eval mode, on any device; on the meta device nothing is computed.
        images: (N,C,H,W) on that device; only their size matters.
        readout: Makes scores of what the network returns; its function is not traced.

    Raises:
        NoLayer: there is no such output.
        Exception: whatever the module raises where it cannot process such images, or not on this device.
    """
    readout = readout or Readout()
    try:
        traced = graph.trace(module, readout.picked)
        graph.propagate(traced.root, traced.graph, images)
    except UserError:
        raise
    except Exception:  # the fault may be the images', the device's or the graph's; the module itself fails only in the first two cases
        traced = None
    proposal = None if traced is None else _last_maps(traced, images, observe(traced.root.network, images, readout.picked))
    if proposal is not None:
        return proposal
    if images.is_meta:
        raise NotImplementedError("what influences the outputs is found with values only")
    network = type(uncompiled(module)).__name__
    with warnings.catch_warnings():
        # torch only warns where it leaves an operation out of the gradients
        warnings.filterwarnings("error", ".*an autograd kernel was not registered", UserWarning)
        try:
            found = last_influential(module, images, readout)
        except UserWarning:
            found = None
    if found is None and _is_quantised(module):
        raise NoLayer(
            f"no gradient passes through {network}, parts of which are quantised, so no layer can be proposed: hand over the network as it "
            "was before quantisation"
        )
    if found is None and not _passes_gradients(module, images, readout):
        raise NoLayer(
            f"no gradient passes through {network}, as where forward runs under torch.no_grad, so no layer can be proposed: remove that, "
            "or set model.layer=... and choose methods without gradients, such as ablation_cam"
        )
    if found is None:
        raise NoLayer(
            f"{network} has no layer whose positions influence its outputs and behind which there are learned "
            "weights; to explain one of its layers, set model.layer=..."
        )
    return found


def _is_quantised(module: nn.Module) -> bool:
    """Return whether a part is one of torch's quantised modules, whose weights are no parameters."""
    return any("quantized" in type(part).__module__.split(".") for part in module.modules())


@torch.enable_grad()
def _passes_gradients(module: nn.Module, images: Tensor, readout: Readout) -> bool:
    """Return whether autograd records any of the outputs as a function of the images."""
    with torch.random.fork_rng(devices=[]):
        outputs = readout.picked(eval_copy(module)(images.clone().requires_grad_()))
    return not isinstance(outputs, Tensor) or outputs.requires_grad


def _last_maps(traced: graph.Traced, images: Tensor, evidence: Evidence) -> Proposal | None:
    """Return the last maps that the head reads; None where it reads tokens, or maps in another layout."""
    module, names, end = traced.root, _names(traced), next(iter(reversed(traced.graph.nodes)))
    for node in reversed(traced.graph.nodes):
        if (
            node not in names
            or not _is_map(module, node, images.shape, evidence)
            or _is_pooling(module, node)
            or _is_passed_on(module, node)
        ):
            continue
        behind = graph.descendants(node)
        if not any(_mixes(module, later) for later in behind) or graph.crossing(traced.graph, node) or end not in behind:
            continue
        if any(_mixes(module, later) and _is_sequence(module, later, images.shape, evidence) for later in behind):
            break
        name = min((names[same] for same in _same(module, node) if same in names), key=lambda layer: layer.count("."))
        height, width = shape(node)[2:]
        return Proposal(name, f"the last maps ({height} x {width}) through which all data passes")
    return None


def _names(traced: graph.Traced) -> dict[fx.Node, str]:
    """Return the name of every node; names of modules are preferred to functions, and containers to their contents."""
    modules = dict(traced.root.network.named_modules())

    def rank(name: str) -> tuple[bool, int]:
        is_module = name in modules or name.rpartition("_")[0] in traced.repeated
        return not is_module, name.count(".")

    names: dict[fx.Node, str] = {}
    for name in sorted(traced.layers, key=rank):
        names.setdefault(traced.layers[name], name)
    return names


def _same(module: nn.Module, node: fx.Node) -> Iterator[fx.Node]:
    """Yield the node and the nodes after it that only pass its value on: a container may end with them."""
    yield node
    while len(node.users) == 1 and _is_passed_on(module, next(iter(node.users))):
        node = next(iter(node.users))
        yield node


def _is_map(module: nn.Module, node: fx.Node, images: torch.Size, evidence: Evidence) -> bool:
    """Return whether this is (N,K,h,w) with more than one position. Channels last, (N,h,w,K), lacks the image's proportions."""
    size = shape(node)
    if len(size) != 4 or size[2] * size[3] < 2 or not in_proportion(size[2], size[3], images):
        return False
    part = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    grid = find_grid(size, images, evidence, part)
    return grid is not None and grid.layout == "maps"


def _is_sequence(module: nn.Module, node: fx.Node, images: torch.Size, evidence: Evidence) -> bool:
    """Return whether this has several positions in a layout other than that of maps."""
    size = shape(node)
    if len(size) == 4:
        return size[1] * size[2] > 1 and size[2] * size[3] > 1 and not _is_map(module, node, images, evidence)
    return len(size) == 3


def _is_pooling(module: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), POOLS)
    return "pool" in _called(node)


def _is_passed_on(module: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), PASSES_ON)
    return "dropout" in _called(node) or _called(node) == "contiguous"


def _called(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _mixes(module: nn.Module, node: fx.Node) -> bool:
    """Return whether a node has weights with two axes or more: it has learned to mix channels or positions."""
    if node.op == "call_module":
        return any(p.dim() > 1 for p in module.get_submodule(str(node.target)).parameters())
    return any(arg.op == "get_attr" and len(shape(arg)) > 1 for arg in node.all_input_nodes)
