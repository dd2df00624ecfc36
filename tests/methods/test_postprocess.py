"""Controls of methods against loops, and against what they are for: nothing in them comes from the network."""

import numpy as np
import pytest
import torch
from builders import fresh

from evalkit import Probe, protocol
from evalkit.errors import UserError
from evalkit.methods import controls, postprocess


@pytest.fixture
def probe(tiny_gap):
    return Probe(tiny_gap, torch.rand(3, 3, 20, 17), indices=torch.tensor([4, 7, 4]))


def drawn(*shape) -> torch.Tensor:
    return torch.from_numpy(fresh().normal(size=shape).astype(np.float32))


def test_blurred_is_a_weighted_mean_over_the_map_itself(probe):
    maps = drawn(3, 5, 8)
    found = postprocess.blurred(maps, probe, share=0.2)
    for one, blurred in zip(maps.double().numpy(), found, strict=True):
        for i in range(5):
            for j in range(8):
                weights = [(np.exp(-(((i - a) / 1.0) ** 2) / 2 - ((j - b) / 1.6) ** 2 / 2), one[a, b]) for a in range(5) for b in range(8)]
                expected = sum(weight * value for weight, value in weights) / sum(weight for weight, _ in weights)
                assert float(blurred[i, j]) == pytest.approx(expected, abs=1e-5)
    constant = postprocess.blurred(torch.full((3, 5, 8), 2.0), probe)
    assert torch.allclose(constant, torch.tensor(2.0))


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_dilated_is_the_smallest_square_that_spreads_the_maximum_far_enough(probe, share):
    maps = drawn(3, 5, 4)
    large = protocol.upsample(maps, (20, 17)).numpy()
    for one, dilated in zip(large, postprocess.dilated(maps, probe, share).numpy(), strict=True):
        for r in range(20):
            around = np.array([[one[max(0, i - r) : i + r + 1, max(0, j - r) : j + r + 1].max() for j in range(17)] for i in range(20)])
            if (around == one.max()).all():
                break  # the square before it is the largest that leaves the map not constant
            expected = around
            if (around == one.max()).mean() >= share:
                break
        assert np.array_equal(dilated, expected)
        assert (dilated < one.max()).any()


def test_dilated_is_almost_a_map_of_ones(probe):
    soft = protocol.soft_mask(postprocess.dilated(drawn(3, 5, 4), probe))
    assert (soft == 1).double().mean() >= 0.75 and (soft == 0).any((1, 2)).all()
    constant = torch.ones(3, 5, 4)
    assert torch.equal(postprocess.dilated(constant, probe), torch.ones(3, 20, 17))


def test_mixed_is_half_the_map_and_half_the_centre(probe):
    height, width = probe.activations.shape[2:]
    maps = drawn(3, height, width)
    maps[1] = 3.0
    centre = controls.centre(probe)
    found = postprocess.mixed(maps, probe)
    low, high = float(maps[0].min()), float(maps[0].max())
    assert torch.allclose(found[0], (maps[0] - low) / (high - low) / 2 + centre[0] / 2, atol=1e-6)
    assert torch.allclose(found[1], centre[1] / 2)
    assert torch.allclose(postprocess.mixed(maps, probe, share=1), centre)


def test_shuffled_keeps_the_values_and_depends_on_the_index_only(probe, tiny_gap):
    maps = drawn(3, 5, 8)
    maps[2] = maps[0]
    found = postprocess.shuffled(maps, probe)
    assert torch.equal(found.flatten(1).sort().values, maps.flatten(1).sort().values) and not torch.equal(found, maps)
    assert torch.equal(found[0], found[2])  # the same image, explained as another class
    alone = Probe(tiny_gap, probe.images[1:2], indices=torch.tensor([7]))
    assert torch.equal(postprocess.shuffled(maps[1:2], alone)[0], found[1])
    assert not torch.equal(postprocess.shuffled(maps, probe, seed=1), found)


def test_degraded_replaces_a_share_and_more_of_the_same(probe):
    maps = drawn(3, 10, 8)
    whole, none = postprocess.degraded(maps, probe, share=1.0), postprocess.degraded(maps, probe, share=0.0)
    assert torch.equal(none, protocol.soft_mask(maps))
    before = torch.zeros(3, 10, 8, dtype=torch.bool)
    for share, pixels in ((0.1, 8), (0.25, 20), (0.5, 40), (1.0, 80)):
        found = postprocess.degraded(maps, probe, share=share)
        replaced = found != none
        assert (replaced.flatten(1).sum(1) == pixels).all() and (replaced | ~before).all()
        assert torch.equal(found[replaced], whole[replaced])
        before = replaced
    assert whole.min() >= 0 and whole.max() < 1 and abs(float(whole.mean()) - 0.5) < 0.1
    assert not torch.equal(whole[0], whole[1]) and torch.equal(whole[0], whole[2])


@pytest.mark.parametrize("seed", [0, 3])
def test_noise_of_degraded_is_not_the_control_random(tiny_gap, seed):
    images = Probe(tiny_gap, torch.rand(40, 3, 6, 5), indices=torch.arange(40))
    noise = controls.random(images, seed).flatten(1).double()
    found = postprocess.degraded(torch.rand_like(images.activations[:, 0]), images, share=1.0, seed=seed).flatten(1).double()
    assert found.shape == noise.shape
    assert abs(np.corrcoef(found.flatten(), noise.flatten())[0, 1]) < 5 / found.numel() ** 0.5


@pytest.mark.parametrize("name", ["blurred", "dilated", "mixed", "shuffled", "degraded"])
def test_what_is_not_finite_stays_so_and_the_rest_is_untouched(probe, name):
    maps = drawn(3, 5, 8)
    control = getattr(postprocess, name)
    before, expected = maps.clone(), control(maps, probe)
    assert torch.equal(maps, before)
    maps[1, 2, 3] = torch.nan
    found = control(maps, probe)
    assert not found[1].isfinite().all()
    assert torch.equal(found[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize(
    ("name", "share"), [("blurred", 0), ("dilated", 0), ("mixed", 1.1), ("degraded", -0.1), ("mixed", "half"), ("blurred", True)]
)
def test_a_share_that_is_none(probe, name, share):
    with pytest.raises(UserError, match=f"share={share} must be a number from 0 to 1"):
        getattr(postprocess, name)(drawn(3, 5, 8), probe, share)
