"""Exact drops at the tokens of transformers, against a loop over the whole network: which tier, and what looks alike but is not."""

import copy
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from builders import HALF
from reference import brute_force_drops
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from evalkit import Probe, SplitModel
from evalkit.ablation.tokens import NormThenLinear

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 5}


def vit(**options) -> nn.Module:
    return timm.models.VisionTransformer(**SMALL, **options)


def unfused() -> nn.Module:
    """A network whose attention is written as products and a softmax."""
    module = vit()
    for block in module.blocks:
        block.attn.fused_attn = False
    return module


def of_torchvision() -> nn.Module:
    return VisionTransformer(image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=24, mlp_dim=48, num_classes=5)


NETWORKS = {
    "class token": (vit, "blocks.1", 2),
    "without biases": (lambda: vit(qkv_bias=False), "blocks.1", 2),
    "layer scale, registers, normalised queries": (lambda: vit(init_values=0.1, reg_tokens=2, qk_norm=True), "blocks.1", 2),
    "products and a softmax": (unfused, "blocks.1", 2),
    "behind the norm": (vit, "blocks.2.norm1", 2),
    "distilled": (lambda: VisionTransformerDistilled(**SMALL), "blocks.1", 2),
    "a bias by position": (lambda: Beit(**SMALL, use_rel_pos_bias=True, init_values=0.1, global_pool="token"), "blocks.1", 2),
    "rotary positions": (lambda: Eva(**SMALL, use_rot_pos_emb=True, global_pool="token"), "blocks.1", 2),
    "nn.MultiheadAttention": (of_torchvision, "encoder.layers.encoder_layer_1", 2),
    "attention pooling": (lambda: vit(class_token=False, global_pool="map"), "blocks.2", 2),
    "two blocks": (vit, "blocks.0", 3),
    "two blocks of torchvision": (of_torchvision, "encoder.layers.encoder_layer_0", 3),
    "average": (lambda: vit(global_pool="avg"), "blocks.1", 3),
    "average, no class token": (lambda: vit(class_token=False, global_pool="avg", reg_tokens=2), "blocks.1", 3),
}


def random_weights(module: nn.Module) -> nn.Module:
    """Draw all parameters, so that no gain is 1, no bias 0 and no drop small."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0.3, 0.5)
        if parameter.dim() > 1:
            nn.init.normal_(parameter, 0, 1.5 / parameter[0].numel() ** 0.5)
    return module.eval()


def largest_error(module: nn.Module, layer: str, dtype: torch.dtype, batch: int) -> tuple[Probe, float]:
    """Return a probe, and the error of its drops as a fraction of the largest drop."""
    module, images = copy.deepcopy(module).to(dtype), torch.rand(batch, 3, 32, 32, dtype=dtype)
    probe = Probe(SplitModel(module, layer, mean=HALF, std=HALF), images, targets=torch.randint(0, 5, (batch,)))
    channels = torch.randperm(probe.activations.shape[1])[:8]
    prefix = probe.net.grid.prefix
    expected = brute_force_drops(module, layer, (images - 0.5) / 0.5, probe.targets, channels.tolist(), prefix)
    assert expected.abs().max() > 1e-3
    error = float((probe.drops[:, channels] - expected).abs().max() / expected.abs().max())
    assert not probe.written(by_value=True)
    return probe, error


@pytest.mark.parametrize("name", NETWORKS)
def test_drops_equal_those_of_the_whole_network(name):
    factory, layer, tier = NETWORKS[name]
    module = random_weights(factory())
    single, error = largest_error(module, layer, torch.float32, 1)
    assert single.tier.number == tier and error <= 1e-4
    double, error = largest_error(module, layer, torch.float64, 3)
    assert double.tier.number == tier and error <= 1e-10


def test_a_class_tokens_attention_is_not_made_for_each_variant():
    for name, (factory, layer, _) in NETWORKS.items():
        probe, _ = largest_error(random_weights(factory()), layer, torch.float64, 1)
        if name in ("class token", "distilled", "a bias by position", "nn.MultiheadAttention", "attention pooling", "behind the norm"):
            assert isinstance(probe.tier, NormThenLinear) and probe.tier.parts.attentions and not probe.tier.parts.plain


@pytest.mark.parametrize("name", ["class token", "rotary positions", "distilled", "two blocks", "attention pooling"])
@pytest.mark.parametrize(("batch", "budget"), [(1, 2**28), (3, 1)])
def test_all_classes_and_regions(name, batch, budget):
    factory, layer, _ = NETWORKS[name]
    net = SplitModel(random_weights(factory()).double(), layer, mean=HALF, std=HALF)
    probe = Probe(net, torch.rand(batch, 3, 32, 32, dtype=torch.float64), byte_budget=budget)
    regions = torch.rand(5, *probe.activations.shape[2:]) < 0.3
    with torch.no_grad():
        by_class = probe.tier.drops(probe.activations, probe.context, probe.logits, None, budget)
        for i in range(batch):
            context = tuple(t[i : i + 1] for t in probe.context)
            for v, region in enumerate(regions):
                ablated = probe.activations[i : i + 1].masked_fill(region, 0)
                lost = probe.scores[i] - net.head(ablated, context)[0, probe.targets[i]]
                assert float(probe.region_drops(regions)[i, v] - lost) == pytest.approx(0, abs=1e-10)
            for k in torch.randperm(24)[:5]:
                ablated = probe.activations[i : i + 1].clone()
                ablated[:, k] = 0
                assert torch.allclose(by_class[i, k], probe.logits[i] - net.head(ablated, context)[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize(("dtype", "slack"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_a_channel_that_holds_most_of_the_variance(dtype, slack):
    """Against float64, since the loop in float32 has errors of its own."""
    module = random_weights(vit())
    module.blocks[1].mlp.fc2.bias.data[7] = 300
    module = module.double()
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    expected = brute_force_drops(module, "blocks.1", (images - 0.5) / 0.5, torch.tensor([0, 3]), range(24), 1)
    probe = Probe(SplitModel(module.to(dtype), "blocks.1", mean=HALF, std=HALF), images.to(dtype), targets=torch.tensor([0, 3]))
    assert probe.tier.number == 2
    rounding = 8 * torch.finfo(dtype).eps * float(probe.logits.abs().max())  # of a logit, whatever the size of the drop
    assert float((probe.drops - expected).abs().max()) <= slack * float(expected.abs().max()) + rounding


def test_weights_may_change_between_two_probes():
    module = random_weights(vit()).double()
    net, images = SplitModel(module, "blocks.1", mean=HALF, std=HALF), torch.rand(2, 3, 32, 32, dtype=torch.float64)
    for _ in range(2):
        probe = Probe(net, images)
        expected = brute_force_drops(module, "blocks.1", (images - 0.5) / 0.5, probe.targets, range(24), 1)
        assert probe.tier.number == 2 and torch.allclose(probe.drops, expected, rtol=0, atol=1e-10 * float(expected.abs().max()))
        random_weights(module)


class Block(nn.Module):
    """Tokens under a class token, then one attention with what follows it, which the tests replace in part."""

    def __init__(self, edit: str) -> None:
        super().__init__()
        self.edit = edit
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 24))
        self.patches, self.cut = nn.Conv2d(3, 24, 8, 8), nn.Linear(24, 24)
        self.norm1, self.norm2, self.over_tokens, self.batch_norm = nn.LayerNorm(24), nn.LayerNorm(24), nn.LayerNorm(17), nn.BatchNorm1d(17)
        self.q, self.k, self.v, self.proj = (nn.Linear(24, 24) for _ in range(4))
        self.attention = nn.MultiheadAttention(24, 2, batch_first=True)
        self.along, self.score, self.activation = nn.Conv1d(24, 24, 3, padding=1), nn.Linear(24, 1), nn.ReLU(inplace=True)
        self.head, self.second = nn.Linear(24, 5), nn.Linear(24, 5)
        self.register_buffer("mask", torch.randn(17, 17))

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = self.cut(torch.cat([self.cls_token.expand(x.size(0), -1, -1), x], 1))
        return getattr(self, self.edit)(x)

    def attended(self, x: Tensor, **options) -> Tensor:
        heads = (layer(x).unflatten(2, (2, 12)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.proj(F.scaled_dot_product_attention(*heads, **options).transpose(1, 2).flatten(2))

    def separate(self, x: Tensor) -> Tensor:
        return self.head(self.norm2(x + self.attended(self.norm1(x)))[:, 0])

    def masked(self, x: Tensor) -> Tensor:
        return self.head((x + self.attended(self.norm1(x), attn_mask=self.mask > 0.5 - torch.eye(17)))[:, 0:1].flatten(1))

    def mask_of_the_class_token(self, x: Tensor) -> Tensor:
        return self.head((x + self.attended(self.norm1(x), attn_mask=self.mask * x[:, 0, :1].unsqueeze(2).unsqueeze(3)))[:, 0])

    def scaled(self, x: Tensor) -> Tensor:
        return self.head((x + self.attended(self.norm1(x), scale=0.7)).select(1, 0))

    def mask_of_the_image(self, x: Tensor) -> Tensor:
        return self.head((x + self.attended(self.norm1(x), attn_mask=x.mean(2)[:, None, None]))[:, 0])

    def causal(self, x: Tensor) -> Tensor:
        return self.head((x + self.attended(self.norm1(x), is_causal=True))[:, -1])

    def last_token(self, x: Tensor) -> Tensor:
        return self.head((x + self.attended(self.norm1(x)))[:, -1])

    def norm_over_positions(self, x: Tensor) -> Tensor:
        return self.head(self.over_tokens((x + self.attended(self.norm1(x))).transpose(1, 2)).transpose(1, 2)[:, 0])

    def norm_over_positions_first(self, x: Tensor) -> Tensor:
        return self.head((x + self.attended(self.over_tokens(x.transpose(1, 2)).transpose(1, 2)))[:, 0])

    def batch_norm_of_positions(self, x: Tensor) -> Tensor:
        return self.head(self.batch_norm(x + self.attended(self.norm1(x)))[:, 0])

    def pooling_of_other_positions(self, x: Tensor) -> Tensor:
        x = x + self.attended(self.norm1(x))
        return self.head(x[:, 0] + (self.score(x).softmax(1) * x).sum(1))

    def softmax_over_positions(self, x: Tensor) -> Tensor:
        return self.head((x + self.attended(self.norm1(x))).softmax(1)[:, 0])

    def neighbours(self, x: Tensor) -> Tensor:
        return self.head(self.along((x + self.attended(self.norm1(x))).transpose(1, 2)).transpose(1, 2)[:, 0])

    def rolled(self, x: Tensor) -> Tensor:
        return self.head((x + self.attended(self.norm1(x))).roll(3, 1)[:, 0])

    def mixed_by_reshape(self, x: Tensor) -> Tensor:
        return self.head((x + self.attended(self.norm1(x))).reshape(-1, 24, 17).transpose(1, 2)[:, 0])

    def second_reader_of_the_tokens(self, x: Tensor) -> Tensor:
        return self.head((x + self.attended(self.norm1(x)))[:, 0]) + self.second(x.amax(1))

    def second_reader_of_the_norm(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        return self.head((x + self.attended(normed))[:, 0]) + self.second(normed.amax(1))

    def second_reader_of_the_values(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        return self.head((x + self.attended(normed))[:, 0]) + self.second(self.v(normed).amax(1))

    def queries_of_another_token(self, x: Tensor) -> Tensor:
        return self.head((x + self.attended(self.norm1(x)))[:, 5])

    def another_key(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        return self.head((x + self.attention(normed, self.norm2(normed), normed, need_weights=False)[0])[:, 0])

    def weights_of_attention(self, x: Tensor) -> Tensor:
        mixed, weights = self.attention(*[self.norm1(x)] * 3, need_weights=True)
        return self.head((x + mixed)[:, 0]) + weights[:, 0, :5]

    def in_place(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        x += self.attended(normed)
        return self.head(self.activation(x)[:, 0])

    def flipped_values(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        return self.head((x + self.proj(F.scaled_dot_product_attention(self.q(normed), self.k(normed), self.v(normed).flip(1))))[:, 0])


EDITS: dict[str, int] = {
    "separate": 2, "masked": 2, "mask_of_the_class_token": 2, "scaled": 2, "second_reader_of_the_values": 2, "flipped_values": 2,
    "mask_of_the_image": 3, "causal": 3, "last_token": 3, "queries_of_another_token": 3, "norm_over_positions": 3,
    "norm_over_positions_first": 3, "batch_norm_of_positions": 3, "pooling_of_other_positions": 3, "softmax_over_positions": 3,
    "neighbours": 3, "rolled": 3, "mixed_by_reshape": 3, "second_reader_of_the_tokens": 3, "second_reader_of_the_norm": 3,
    "another_key": 3, "weights_of_attention": 3, "in_place": 3,
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_what_looks_alike(edit, caplog):
    """Tiers as they are read off the graph: none of them was corrected by the check against the plain head."""
    module = random_weights(Block(edit))
    for dtype, batch, slack in ((torch.float32, 1, 1e-4), (torch.float64, 3, 1e-10)):
        probe, error = largest_error(module, "cut", dtype, batch)
        assert (probe.tier.number, error <= slack) == (EDITS[edit], True)
    assert not [record.message for record in caplog.records if record.levelname == "WARNING"]


def test_a_wrong_shortcut_is_found(monkeypatch: pytest.MonkeyPatch, caplog):
    honest: Callable[..., Tensor] = NormThenLinear.drops
    monkeypatch.setattr(NormThenLinear, "drops", lambda self, *args: honest(self, *args) * 1.5)
    probe, error = largest_error(random_weights(vit()), "blocks.1", torch.float64, 1)
    assert probe.tier.number == 3 and error <= 1e-10 and "differs from the plain head" in caplog.text
