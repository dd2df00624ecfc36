"""Random networks against a plain loop over the untouched module: right, or refused where nothing can be right.

EVALKIT_TEST_NETWORKS=300 tries as many; the gate tries a few, other ones each time.
"""

import copy
import os

import pytest
import torch
from builders import HALF, fresh_random
from random_nets import SIDE, Drawn, draw
from torch import Tensor

from evalkit import Probe, SplitModel
from evalkit.errors import UserError
from evalkit.methods import grad_cam
from evalkit.models.outputs import check_meaning, check_on_images

NUMBER = int(os.environ.get("EVALKIT_TEST_NETWORKS", "9"))


def replaced(module: torch.nn.Module, layer: str, image: Tensor, change) -> Tensor:
    """Run a copy of the module on one image (1,3,H,W), with the layer's output changed."""
    handle = module.get_submodule(layer).register_forward_hook(lambda _module, _args, out: change(out.clone()))
    try:
        outputs = module((image - 0.5) / 0.5)
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs
        return logits[:, None] if logits.dim() == 1 else logits
    finally:
        handle.remove()


def by_loop(drawn: Drawn, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits (N,C), drops of the predicted class (N,K) and Grad-CAM maps (N,h,w), one image and one channel at a time."""
    module = copy.deepcopy(drawn.net)
    for part in module.modules():
        part.training = False
    logits, drops, maps = [], [], []
    for image in images.split(1):
        kept: list[Tensor] = []

        def keep(out: Tensor, kept: list[Tensor] = kept) -> Tensor:
            kept.append(out.detach().clone().requires_grad_())
            return kept[0].clone()

        z = replaced(module, drawn.layer, image, keep)
        target = int(z.argmax())
        (gradient,) = torch.autograd.grad(z[0, target], kept)
        weights = gradient.mean((2, 3), keepdim=True)
        maps.append((weights * kept[0].detach()).sum(1).relu()[0])
        with torch.no_grad():
            scores = [replaced(module, drawn.layer, image, lambda out, k=k: zeroed(out, k))[0, target] for k in range(kept[0].shape[1])]
        logits.append(z.detach()[0])
        drops.append(z.detach()[0, target] - torch.stack(scores))
    return torch.stack(logits), torch.stack(drops), torch.stack(maps)


def zeroed(out: Tensor, k: int) -> Tensor:
    out[:, k] = 0
    return out


@pytest.mark.parametrize("number", range(NUMBER))
def test_right_or_refused(number):
    """What depends on the batch or on chance in `forward` may pass where the numbers hardly show it, as behind dead rectifiers."""
    seed = fresh_random().randrange(2**31) + number
    drawn = draw(seed)
    images = torch.rand(3, 3, SIDE, SIDE, dtype=torch.float64)
    before = {name: tensor.clone() for name, tensor in drawn.net.state_dict().items()}
    try:
        net = SplitModel(drawn.net, drawn.layer, mean=HALF, std=HALF)
        check_meaning(net, images[:2], "softmax")
        check_on_images(net, images[:2])
        probe = Probe(net, images)
        found = probe.logits, probe.drops, grad_cam(probe)
    except UserError as reason:
        assert "\n" not in str(reason)
        assert drawn.refused_for is not None, f"seed {seed}, {drawn.facts}: {reason}"
        return
    assert drawn.refused_for in (None, "batch", "random"), f"seed {seed}, {drawn.facts}: accepted"
    for name, value, expected in zip(("logits", "drops", "Grad-CAM"), found, by_loop(drawn, images), strict=True):
        slack = 1e-6 if drawn.refused_for is None else 1e-2
        assert torch.allclose(value.double(), expected, rtol=10 * slack, atol=slack), f"seed {seed}, {drawn.facts}: {name}"
    assert all(torch.equal(before[name], tensor) for name, tensor in drawn.net.state_dict().items())
