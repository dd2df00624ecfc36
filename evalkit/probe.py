"""Probe: what CAM methods read of a model for one batch, computed on first use and kept."""

from collections.abc import Callable, Sequence
from functools import cached_property, wraps
from typing import TypeVar

import torch
from torch import Tensor

from evalkit.ablation import BYTE_BUDGET, Tier, class_weights, tier_of
from evalkit.errors import UserError
from evalkit.models.cuts import Context
from evalkit.models.split import SplitModel
from evalkit.pixels import in_unit_range

T = TypeVar("T", bound=Tensor | tuple[Tensor, Context])


def shared(compute: Callable[["Probe"], T]) -> cached_property[T]:
    """Make a cached property, one tensor for all methods; `Probe.written` detects that a method has changed it."""

    @wraps(compute)
    def once(probe: "Probe") -> T:
        value = compute(probe)
        probe._watch(compute.__name__, value)
        return value

    return cached_property(once)


class Probe:
    """One batch of images and the split model that processes it.

    Args:
        net: the model.
        images: (N,3,H,W), floats in [0,1] or uint8; of a network of other channels as many as its mean has numbers.
        targets: classes to explain (N,), or None for the predicted ones.
        indices: each image's position in its data set (N,); seeds the random control. Default 0..N-1.
        byte_budget: bytes that the ablated variants of one chunk may take (`evalkit.ablation`); changes no number.

    Raises:
        UserError: the images are not a batch of images of the network's channels, or a target is not a class of the model.
    """

    def __init__(
        self,
        net: SplitModel,
        images: Tensor,
        targets: Tensor | Sequence[int] | None = None,
        indices: Tensor | None = None,
        *,
        byte_budget: int = BYTE_BUDGET,
    ) -> None:
        images = _checked(images, net.channels).to(net.device)
        self._set(net, in_unit_range(images, net.dtype), targets, indices, byte_budget)

    def _set(
        self,
        net: SplitModel,
        images: Tensor,
        targets: Tensor | Sequence[int] | None,
        indices: Tensor | None,
        byte_budget: int,
        *,
        targets_checked: bool = False,
    ) -> None:
        self.net, self.images, self.byte_budget = net, images, byte_budget
        self._targets, self._targets_checked = targets, targets_checked
        self.indices = torch.arange(len(images)) if indices is None else indices
        self._others: dict[SplitModel, Probe] = {}
        self._watched: dict[str, tuple[object, list[tuple[Tensor, int, Tensor]]]] = {}
        self._watch("images", images)
        self._network = self._state_of_network()

    def again(self, images: Tensor, rows: slice = slice(None)) -> "Probe":
        """Return a probe of other images (n,channels,H,W) in [0,1] with the targets and indices of these n `rows`.

        Nothing is checked again, since a check makes the host wait for the device.
        """
        probe = Probe.__new__(Probe)
        moved = images.to(self.net.device, self.net.dtype)
        probe._set(self.net, moved, self.targets[rows], self.indices[rows], self.byte_budget, targets_checked=True)
        return probe

    def at(self, net: SplitModel) -> "Probe":
        """Return the probe of the same images, targets and indices for the same network cut at another layer; one for each layer."""
        if net is self.net:
            return self
        if net not in self._others:
            other = Probe.__new__(Probe)
            other._set(net, self.images, self.targets, self.indices, self.byte_budget, targets_checked=True)
            self._others[net] = other
        return self._others[net]

    @property
    def with_all_tokens(self) -> "Probe":
        """The probe whose activations hold the prefix tokens too, (N,K,1,T); the probe itself where there are none."""
        positions = self.activations[0, 0].numel()  # first: the network reads its grid from the first activations
        prefix = self.context[0].shape[1] if self.net.grid.prefix else 0
        return self.at(self.net.with_tokens(prefix + positions)) if prefix else self

    def written(self, *, by_value: bool = False) -> list[str]:
        """Return the names of what was written into or replaced; a method must do neither, since all methods share it.

        Probes made by `at` are included. `by_value` compares sums too: this also detects writes through numpy or `.data`, which
        autograd does not count. The host then waits once for the device.
        """
        tensors = [(name, *entry) for name, (_, entries) in self._watched.items() for entry in entries]
        changed = {name for name, (value, _) in self._watched.items() if vars(self).get(name) is not value}
        changed |= {name for name, tensor, version, _ in tensors if tensor._version != version}
        if by_value:
            differs = torch.stack([(_sum(tensor) != before).to(self.net.device) for _, tensor, _, before in tensors]).tolist()
            changed |= {name for (name, *_), written in zip(tensors, differs, strict=True) if written}
        names = ["activations" if name == "_trunk" else name for name in self._watched if name in changed]
        names += [] if self._network == self._state_of_network() else ["network"]
        return [*names, *(name for other in self._others.values() for name in other.written(by_value=by_value))]

    def _watch(self, name: str, value: Tensor | tuple[Tensor, Context]) -> None:
        tensors = [value] if isinstance(value, Tensor) else [value[0], *value[1]]
        self._watched[name] = value, [(tensor, tensor._version, _sum(tensor)) for tensor in tensors]

    def _state_of_network(self) -> list[int]:
        module = self.net.module
        return [*(p._version for p in module.parameters()), *(part.training for part in module.modules())]

    @shared
    def _trunk(self) -> tuple[Tensor, Context]:
        return self.net.trunk(self.images)

    @property
    def activations(self) -> Tensor:
        """A, the target layer's output (N,K,h,w)."""
        return self._trunk[0]

    @property
    def context(self) -> Context:
        """The head's inputs besides A; empty where the layer separates the network."""
        return self._trunk[1]

    @shared
    def logits(self) -> Tensor:
        """Class scores before softmax (N,C)."""
        with torch.no_grad(), self.net.told(self.images):
            return self.net.head(*self._trunk)

    @shared
    def targets(self) -> Tensor:
        """The classes being explained (N,)."""
        if self._targets is None:
            return self.logits.argmax(1)
        targets, classes = torch.as_tensor(self._targets), self.logits.shape[1]
        if self._targets_checked:
            return targets
        if targets.is_floating_point() or targets.dim() != 1:
            raise UserError(f"targets must be class indices ({len(self.images)},), whole numbers")
        if len(targets) != len(self.images) or bool(((targets < 0) | (targets >= classes)).any()):
            raise UserError(f"targets must be class indices from 0 to {classes - 1}, one for each of {len(self.images)} images")
        return targets.to(self.logits.device, torch.int64, non_blocking=True)

    @shared
    def scores(self) -> Tensor:
        """y, the logit of each image's target class (N,)."""
        return self.logits.gather(1, self.targets[:, None])[:, 0]

    @shared
    def gradients(self) -> Tensor:
        """dy/dA (N,K,h,w), through the head only."""
        return self._gradients("score")

    def scored_gradients(self, score: str) -> Tensor:
        """Return dy/dA (N,K,h,w) with y as in `score_and_drops`, by autograd in the network's own precision.

        The sigmoid's gradient is the logit's times y (1 - y), one number per image; it is exactly 0 where y rounds to 1, in
        float32 for logits above 24 ln 2 = 16.6, in float64 above 36.7.
        """
        return self.gradients if score == "score" else self._gradients(score)

    def _gradients(self, score: str) -> Tensor:
        activations = self.activations.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.net.head(activations, self.context)
            outputs = {"score": lambda: logits, "softmax": lambda: logits.softmax(1), "sigmoid": logits.sigmoid}[self._of_output(score)]()
            total = outputs.gather(1, self.targets[:, None]).sum()
        found = torch.autograd.grad(total, activations, allow_unused=True)[0] if total.requires_grad else None
        if found is None:
            raise UserError(
                f"{self.net.name} stops gradients between layer '{self.net.layer}' and its outputs, as detach, torch.no_grad, numpy and "
                "quantised layers do: remove that, or choose methods without gradients"
            )
        return found

    @property
    def tier(self) -> Tier:
        """The way in which the drops are computed (see `evalkit.ablation`)."""
        return tier_of(self.net, self.activations, self.context)

    @shared
    def drops(self) -> Tensor:
        """y - y^k for each ablated channel k (N,K)."""
        with torch.no_grad():
            return self.tier.drops(self.activations, self.context, self.logits, self.targets, self.byte_budget)[:, :, 0]

    @shared
    def softmax_drops(self) -> Tensor:
        """The drop of the target's softmax confidence for each ablated channel (N,K), in float64."""
        drops = []
        with torch.no_grad():
            for i in range(len(self.images)):  # one image at a time, since all classes are needed
                row = slice(i, i + 1)
                context = tuple(tensor[row] for tensor in self.context)
                by_class = self.tier.drops(self.activations[row], context, self.logits[row], None, self.byte_budget)[0].double()
                logits, target = self.logits[row].double(), self.targets[row]
                by_class = torch.where(logits == -torch.inf, 0, by_class)  # an excluded class stays so, and -inf - -inf is nan
                drops.append(_confidence_drop(_log_odds(logits, target), _log_odds(logits - by_class, target)))
        return torch.stack(drops)

    def score_and_drops(self, score: str) -> tuple[Tensor, Tensor]:
        """Return y (N,) and y - y^k (N,K), y being the target's logit ("score"), or in float64 its "softmax" or "sigmoid".

        Of a network with output=binary both are its confidence, the sigmoid: a softmax of its scores -z and z would be that of 2 z.
        Raises UserError for both where output=raw.
        """
        score = self._of_output(score)
        if score == "score":
            return self.scores, self.drops
        if score == "softmax":
            return self.logits.double().softmax(1).gather(1, self.targets[:, None])[:, 0], self.softmax_drops
        y, drops = self.scores.double(), self.drops.double()
        return y.sigmoid(), _confidence_drop(y[:, None], y[:, None] - drops)

    def score_of(self, logits: Tensor, image: int, score: str) -> Tensor:
        """Return y (V,) of one image's explained class from logits (V,C) of its variants; `score` and errors as in `score_and_drops`."""
        score, target = self._of_output(score), self.targets[image : image + 1]
        scored = {"score": lambda: logits, "softmax": lambda: logits.double().softmax(1), "sigmoid": lambda: logits.double().sigmoid()}
        return scored[score]().index_select(1, target)[:, 0]

    def _of_output(self, score: str) -> str:
        """Return "score", "softmax" or "sigmoid" as the network's output means it. Raises UserError where it has no confidence."""
        output = self.net.readout.output
        if output == "raw" and score != "score":
            raise UserError(f"model.output=raw has no {score}: choose methods of the score itself, as ablation_cam and grad_cam are")
        return "sigmoid" if output == "binary" and score == "softmax" else score

    def region_drops(self, regions: Tensor) -> Tensor:
        """Return y - y^v (N,V), y^v with all channels zero inside region v; `regions` are masks (V,h,w) of the activations' cells."""
        with torch.no_grad():
            return self.tier.region_drops(self.activations, self.context, self.logits, self.targets, regions, self.byte_budget)

    @shared
    def class_weights(self) -> Tensor:
        """The weights from each channel to the target class (N,K). Raises UserError unless the head is GAP + linear."""
        weights = class_weights(self.net, self.activations, self.context)
        if weights is None:
            raise UserError(
                f"cam needs global average pooling directly on layer '{self.net.layer}' and one linear layer behind it, which "
                f"{type(self.net.module).__name__} does not have; use grad_cam, its generalisation"
            )
        return weights.detach()[self.targets]


def _checked(images: object, channels: int) -> Tensor:
    """Return the images themselves. Raises UserError unless they are a batch of images of so many channels, in [0,1] or uint8."""
    # One mean for all channels of RGB is a normalisation too.
    fits = isinstance(images, Tensor) and images.dim() == 4 and images.shape[1] in (channels, 3 if channels == 1 else channels)
    if not isinstance(images, Tensor) or not fits or not (images.is_floating_point() or images.dtype == torch.uint8):
        kind = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise UserError(f"images must be a float tensor (N,{channels},H,W) in [0,1], or uint8, not {kind}")
    if not len(images):
        raise UserError("images must hold at least one image")
    if images.is_floating_point() and bool((images.amin() < -1e-3) | (images.amax() > 1 + 1e-3)):
        raise UserError("images must lie in [0,1]: divide by 255, and leave the normalisation to the SplitModel")
    return images


def _sum(tensor: Tensor) -> Tensor:
    """Sum the bits, read as whole numbers: exact in any order, and nan equals itself."""
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.detach().contiguous().view(bits).sum(dtype=torch.int64)


def _log_odds(logits: Tensor, target: Tensor) -> Tensor:
    """Return the log-odds (K,) of one class (1,) against all others for logits (K,C); their sigmoid is the class's softmax."""
    others = logits.clone()
    others[:, target] = -torch.inf
    return logits[:, target][:, 0] - others.logsumexp(1)


def _confidence_drop(before: Tensor, after: Tensor) -> Tensor:
    """Return sigmoid(before) - sigmoid(after), from the complements where confidences are near 1 and would lose digits."""
    return torch.where(before > 0, (-after).sigmoid() - (-before).sigmoid(), before.sigmoid() - after.sigmoid())
