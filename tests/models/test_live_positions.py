"""Graphs in plain operations, and without what nobody reads: the same values for any batch, from fewer positions."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from evalkit.models.expand import writes
from evalkit.models.live_positions import without_dead_positions


class Tokens(nn.Module):
    """Whatever is done with tokens (N,7,6); a linear layer counts the positions on which it runs."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.linear, self.norm, self.attention = nn.Linear(6, 6), nn.LayerNorm(6), nn.MultiheadAttention(6, 2, batch_first=True)
        self.position = nn.Parameter(torch.randn(1, 7, 6))
        self.gain = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def reduced(function) -> tuple[fx.GraphModule, fx.GraphModule, bool]:
    """The traced module, and what is left of it."""
    head = fx.symbolic_trace(Tokens(function).double().eval())
    found = without_dead_positions(head, torch.rand(1, 7, 6, dtype=torch.float64))
    assert found is not None
    return head, *found


def positions(head: fx.GraphModule, x: Tensor) -> int:
    """Return on how many positions of each image the linear layer runs."""
    seen = []
    handle = head.get_submodule("linear").register_forward_hook(lambda _layer, _inputs, out: seen.append(out.numel() // (6 * len(x))))
    head(x)
    handle.remove()
    return sum(seen)


@pytest.mark.parametrize(
    ("function", "left"),
    [
        (lambda m, x: m.linear(x)[:, 0], 1),
        (lambda m, x: m.linear(x)[:, -2:, 1:3], 2),
        (lambda m, x: m.linear(x).select(1, 3), 1),
        (lambda m, x: m.linear(x)[:, :2][:, 1], 1),
        (lambda m, x: m.linear(F.gelu(m.norm(x)) * m.gain + m.position)[:, 2], 1),
        (lambda m, x: m.linear(x).transpose(1, 2)[:, :, 4], 1),
        (lambda m, x: m.linear(x).permute(2, 0, 1)[:, :, 4].t(), 1),
        (lambda m, x: m.linear(x).reshape(x.shape[0], 7, 2, 3).flatten(2)[:, 1], 1),
        (lambda m, x: m.linear(x).view(x.size(0), x.size(1), -1, 3)[:, 1].flatten(1), 1),
        (lambda m, x: m.linear(x).unflatten(2, (2, 3)).unbind(2)[1][:, 1], 1),
        (lambda m, x: m.linear(x).chunk(3, -1)[1][:, 1], 1),
        (lambda m, x: torch.cat([x[:, :2], m.linear(x), x], 1)[:, 4], 1),
        (lambda m, x: torch.cat([x[:, :2], m.linear(x), x], 1)[:, 1:4].flatten(1), 2),
        (lambda m, x: torch.cat([m.linear(x), x], 2)[:, 4], 1),
        (lambda m, x: (m.linear(x) @ x.transpose(1, 2)).softmax(-1)[:, 3], 1),
        (lambda m, x: F.scaled_dot_product_attention(m.linear(x), x, x, attn_mask=x @ x.transpose(1, 2))[:, 3], 1),
        (lambda m, x: m.linear(m.attention(x, x, x, need_weights=False)[0])[:, 3], 1),
        (lambda m, x: m.linear(x)[:, 0] + m.linear(x).mean(1), 8),
        # What reads other positions, or lies otherwise, keeps all seven.
        (lambda m, x: m.linear(x).flip(1)[:, 0], 7),
        (lambda m, x: m.linear(x).cumsum(1)[:, 3], 7),
        (lambda m, x: m.linear(x).softmax(1)[:, 3], 7),
        (lambda m, x: F.layer_norm(m.linear(x), (7, 6))[:, 3], 7),
        (lambda m, x: (m.linear(x).transpose(1, 2) @ x)[:, 3], 7),
        (lambda m, x: (x.transpose(1, 2) @ m.linear(x))[:, 3], 7),
        (lambda m, x: F.scaled_dot_product_attention(x, x, m.linear(x))[:, 3], 7),
        (lambda m, x: F.scaled_dot_product_attention(m.linear(x), x, x, is_causal=True)[:, 3], 7),
        (lambda m, x: m.linear(x).reshape(-1, 6, 7)[:, 3], 7),
        (lambda m, x: F.conv1d(m.linear(x), m.position[0, :, None, :3].expand(7, 7, 3))[:, 3], 7),
        (lambda m, x: m.linear(x)[:, [0, 3]].flatten(1), 7),
        (lambda m, x: m.linear(x)[:, 1:].mean(1), 7),
    ],
)
def test_the_same_values_from_fewer_positions(function, left):
    head, less, _ = reduced(function)
    for batch in (1, 2, 5):
        x = torch.randn(batch, 7, 6, dtype=torch.float64)
        with torch.no_grad():
            assert torch.allclose(less(x), head(x), rtol=0, atol=1e-12)
            assert positions(less, x) == left


def test_a_whole_number_that_is_read_from_values_is_no_size():
    head, less, _ = reduced(lambda m, x: m.linear(x)[:, 0] * x.sum().mul(10).round().int().item())
    for x in torch.randn(3, 4, 7, 6, dtype=torch.float64):
        assert torch.allclose(less(x), head(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("function", "does"),
    [
        (lambda _, x: x.mul_(2), True), (lambda _, x: F.relu(x, True), True), (lambda _, x: F.relu(x, inplace=True), True),
        (lambda _, x: torch.add(x, 1, out=x), True), (lambda _, x: torch.relu_(x), True), (lambda _, x: x * 2, False),
        (lambda _, x: F.dropout(x, training=False, inplace=True), False), (lambda m, x: m.linear(x), False),
    ],
)  # fmt: skip
def test_what_writes_is_left_alone(function, does):
    head = fx.symbolic_trace(Tokens(function).eval())
    assert writes(head) is does
    assert (without_dead_positions(head, torch.rand(1, 7, 6)) is None) is does
