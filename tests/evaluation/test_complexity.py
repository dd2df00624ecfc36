"""ADCC's parts against scipy, against pytorch-grad-cam, and at their edges."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from evalkit.evaluation.complexity import coherency, complexity


@pytest.mark.parametrize("n", [1, 5])
def test_coherency_is_pearsons_correlation(n):
    maps, again = torch.randn(n, 8, 6) * 1e-12, torch.rand(n, 8, 6) * 1e4
    found = coherency(maps, again)
    for i in range(n):
        rho = pearsonr(maps[i].double().flatten(), again[i].double().flatten()).statistic
        assert float(found[i]) == pytest.approx((1 + rho) / 2, abs=1e-5)


def test_coherency_at_its_edges():
    maps = torch.rand(1, 8, 6)
    assert float(coherency(maps, maps * 3 + 1)) == pytest.approx(1)
    assert float(coherency(maps, -maps)) == pytest.approx(0, abs=1e-6)
    flat = torch.full_like(maps, 0.1)  # not exact in binary: its deviation must still count as none
    bad = maps.clone()
    bad[0, 1, 1] = torch.nan
    for one, other in ((maps, flat), (flat, maps), (flat, flat), (maps, bad), (bad, maps)):
        assert coherency(one, other).isnan().all()
    assert (coherency(torch.rand(200, 3, 3), torch.rand(200, 3, 3)) <= 1).all()


def test_complexity():
    maps = torch.randn(4, 8, 6)
    for found, map_ in zip(complexity(maps), maps.double().numpy(), strict=True):
        assert float(found) == pytest.approx(((map_ - map_.min()) / (map_.max() - map_.min())).mean(), abs=1e-6)
    fake = torch.ones(1, 8, 6)
    fake[0, 0, 0] = 0  # the paper's Fake-CAM
    assert float(complexity(fake)) == pytest.approx(47 / 48)
    assert float(complexity(torch.ones(1, 8, 6))) == 0
    fake[0, 0, 0] = torch.inf
    assert complexity(fake).isnan().all()


def test_against_pytorch_grad_cam():
    arcc = pytest.importorskip("pytorch_grad_cam.metrics.arcc")
    maps, again = torch.rand(3, 9, 9), torch.rand(3, 9, 9)
    assert np.allclose(coherency(maps, again), (1 + arcc.batch_pearson_coherency(maps.numpy(), again.numpy())) / 2, atol=1e-5)
    normalised = (maps - maps.amin((1, 2), keepdim=True)) / (maps.amax((1, 2), keepdim=True) - maps.amin((1, 2), keepdim=True))
    assert np.allclose(complexity(maps), arcc.Complexity()(normalised.numpy()), atol=1e-6)
