"""Checks of what a network's outputs mean: every score and method takes them for logits, one row an image."""

import logging
import re

import torch
from torch import Tensor

from evalkit.errors import UserError
from evalkit.models.outlets import weighted_sum
from evalkit.models.split import SplitModel, close
from evalkit.scores import scored

log = logging.getLogger(__name__)

_SHAPING = re.compile("(View|UnsafeView|Reshape|ReshapeAlias|Squeeze|Unsqueeze|Clone|ToCopy|Clamp|Select|Slice|Index|Permute|T)Backward")
"""Operations that change at most the shape of probabilities, by their names in autograd."""

_TO_PROBABILITIES = {"SigmoidBackward": "sigmoid", "HardsigmoidBackward": "sigmoid", "SoftmaxBackward": "softmax"}
"""Operations whose values are probabilities, by their names in autograd."""


def check_meaning(net: SplitModel, images: Tensor, output: str) -> None:
    """Check that outputs are logits, on images (N,3,H,W) as in `SplitModel`; `output` is model.output. Of "raw", any number is one.

    Warns of log-probabilities under "softmax": confidences are right then, and scores are log-probabilities. Raises UserError
    for probabilities, which a second softmax or sigmoid flattens and whose gradients vanish on confident images.
    """
    if output == "raw":
        return
    columns = slice(1, None) if output == "binary" else slice(None)  # of -z and z, the second is what the network returns
    activations, context = net.trunk(images)
    with torch.enable_grad():
        recorded = net.head(activations.requires_grad_(), context)
    ending, outputs = _ending(recorded, pair=output == "binary"), recorded.detach().double()[:, columns]
    with torch.no_grad():
        if not bool(outputs.isfinite().all()):
            return  # see `check_on_images`
        if ending is not None:
            raise UserError(
                f"{net.name} ends in a {ending}, so it returns probabilities, and model.output={output} needs logits; {_away(net)}"
            )
        if outputs.shape[1] > 1 and bool((outputs <= 0).all()) and bool((outputs.logsumexp(1).abs() < 1e-3).all()):
            _log_probabilities(net, output)
            return
        if not bool((outputs >= 0).all()):
            return
        more = torch.cat([outputs, *(net.head(varied, context).double()[:, columns] for varied in _varied(activations))])
    more = more[more.isfinite().all(1)]  # such large activations may overflow
    if close(more, more[:1].expand_as(more), 1e-6):
        return  # a network that does not look at the image: see `check_on_images`
    sums = more.sum(1)
    normalised = outputs.shape[1] > 1 and bool((more >= 0).all()) and close(sums, sums[:1].expand_as(sums), 2e-3) and float(sums[0]) > 0
    if normalised:
        raise UserError(
            f"the outputs of {net.name} are never negative and always sum to {float(sums[0]):.4g}, as behind a softmax: they are "
            f"probabilities, and model.output={output} needs logits; {_away(net)}"
        )
    if not bool(((more >= 0) & (more <= 1)).all()):
        return
    if all(bool(near.double().mean() > 0.05) for near in (more < 1e-2, more > 1 - 1e-2)):  # dead rectifiers are at 0 only
        raise UserError(
            f"the outputs of {net.name} stay between 0 and 1, as behind a sigmoid: they are probabilities, and model.output={output} "
            f"needs logits; {_away(net)}"
        )
    log.warning("all outputs of %s tried lie between 0 and 1: if it applies a sigmoid or softmax, %s", net.name, _away(net))


def reads_positions(net: SplitModel, images: Tensor) -> bool:
    """Return whether the outputs depend on the positions of the layer, on images (N,3,H,W) as in `SplitModel`, of which some have passed.

    They do not where only a class token is read behind it: all gradients with respect to the positions are exactly 0, and those
    with respect to the prefix tokens are not. Without prefix tokens, or without gradients, the answer is True.
    """
    if not net.grid.prefix:
        return True
    activations, context = net.trunk(images)
    tensors = activations.requires_grad_(), context[0].requires_grad_()
    with torch.enable_grad():
        total = weighted_sum(net.head(tensors[0], (tensors[1], *context[1:])))
    if not total.requires_grad:
        return True
    positions, prefix = (g is not None and bool((g != 0).any()) for g in torch.autograd.grad(total, tensors, allow_unused=True))
    return positions or not prefix


def check_on_images(net: SplitModel, images: Tensor) -> None:
    """Check the outputs on a few images (N,3,H,W) of the data set.

    Warns where different images have the same logits, or some no finite ones. Raises UserError where an image's logits depend on
    the batch, or where those of the images and of noise have no finite maximum.
    """
    with torch.no_grad():
        together = net(images)
        alone = torch.cat([net(image[None]) for image in images])
        noise = torch.rand(1, *images.shape[1:], generator=torch.Generator().manual_seed(0))
        all_logits = torch.cat([alone, net(noise.to(images.device))])
    if not close(together, alone, net.slack):
        raise UserError(
            f"{net.name} puts out other {net.readout.noun} for an image of the data set when another image is in its batch, for example "
            "because of a normalisation over the batch or of dynamic quantisation; hand over a network that treats each image by itself"
        )
    finite = scored(all_logits, all_logits.argmax(1))
    if not bool(finite.any()):
        damaged = [name for name, tensor in net.module.state_dict().items() if _not_finite(tensor)]
        why = f"weights hold nan or infinity ({', '.join(damaged[:3])})" if damaged else f"its values may overflow in {net.dtype}"
        remedy = "give other weights" if net.readout.score is None else "give other weights or another function"
        raise UserError(f"the {net.readout.noun} of {net.name} are not finite for any image tried: {why.replace('torch.', '')}; {remedy}")
    if not bool(finite[: len(images)].all()):
        log.warning(
            "%s has no finite %s for an image of the data set: such images are excluded from every metric", net.name, net.readout.noun
        )
        return
    for number in range(1, len(images)):
        if not torch.equal(images[number], images[0]) and close(alone[number], alone[0], 1e-6):
            log.warning(
                "%s puts out the same %s for two different images of the data set: check its weights, and that model.mean and "
                "model.std are those of its training",
                net.name,
                net.readout.noun,
            )
            return


def _away(net: SplitModel) -> str:
    if net.readout.score is not None:
        return "let the network and the function return the values before it"
    return "hand over the network without it: set model.factory to a function that returns the values before it"


def _log_probabilities(net: SplitModel, output: str) -> None:
    if output != "softmax":
        raise UserError(
            f"{net.name} returns log-probabilities, as behind a log_softmax, and model.output={output} needs logits; {_away(net)}"
        )
    log.warning(
        "%s returns log-probabilities, as behind a log_softmax: confidences are right, but scores and gradients are those of "
        "log-probabilities, not of logits; to use logits, %s",
        net.name,
        _away(net),
    )


def _varied(activations: Tensor) -> list[Tensor]:
    """Return the activations scaled, and random ones, so large that a sigmoid is near 0 or 1 and that linear outputs leave [0,1]."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(activations.shape, generator=generator).to(activations)
    return [values * factor for values in (activations, noise) for factor in (-1e4, -100, 100, 1e4)]


def _ending(outputs: Tensor, *, pair: bool = False) -> str | None:
    """Return "softmax" or "sigmoid" where autograd recorded one as the last operation of the outputs, or of z in a `pair` -z and z."""
    node = outputs.grad_fn
    if pair and node is not None:
        node = node.next_functions[-1][0]
    while node is not None and _SHAPING.match(node.name()):
        node = next((before for before, _ in node.next_functions), None)
    return None if node is None else _TO_PROBABILITIES.get(node.name().rstrip("0123456789"))


def _not_finite(tensor: object) -> bool:
    return isinstance(tensor, Tensor) and tensor.is_floating_point() and bool(tensor.isnan().any() | (tensor == torch.inf).any())
