"""Linear imputation and the fill "road" against dense systems, written pixel by pixel, and against pytorch-grad-cam's imputer."""

import numpy as np
import pytest
import torch

from evalkit import protocol
from evalkit.errors import UserError
from evalkit.imputation import NOISE, Imputation, neighbour_sum
from evalkit.point import Point

SIZES = [(9, 12), (13, 7), (1, 6), (5, 1), (2, 2), (16, 16)]


def dense(image: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """One equation for each pixel, solved by numpy in float64."""
    channels, height, width = image.shape
    matrix, right = np.zeros((height * width, height * width)), np.zeros((height * width, channels))
    for y in range(height):
        for x in range(width):
            i = y * width + x
            if kept[y, x]:
                matrix[i, i], right[i] = 1, image[:, y, x]
                continue
            for v in range(max(y - 1, 0), min(y + 2, height)):
                for u in range(max(x - 1, 0), min(x + 2, width)):
                    if (v, u) != (y, x):
                        weight = 1 / 6 if v == y or u == x else 1 / 12
                        matrix[i, i] += weight
                        matrix[i, v * width + u] -= weight
    return np.linalg.solve(matrix, right).T.reshape(image.shape)


def some_kept(height: int, width: int, density: float) -> np.ndarray:
    kept = np.random.random((height, width)) < density
    kept.flat[np.random.randint(height * width)] = True
    return kept


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_imputation_equals_a_dense_solve(size, channels):
    for density in (0, 0.05, 0.3, 0.8, 1):
        kept, images = some_kept(*size, density), np.random.standard_normal((2, channels, *size))
        imputation = Imputation(kept)
        for image in images:
            filled = imputation(image)
            assert np.abs(filled - dense(image, kept)).max() < 1e-11
            assert np.array_equal(filled[:, kept], image[:, kept])


def test_the_residual_on_an_image_of_usual_size():
    kept, image = np.random.random((9, 10)).repeat(25, 0).repeat(23, 1) > 0.7, np.random.random((3, 225, 230))
    filled = Imputation(kept)(image)
    residual = neighbour_sum(filled) - neighbour_sum(np.ones(kept.shape)) * filled
    assert np.abs(residual[:, ~kept]).max() < 1e-12


def test_neighbour_sum_is_a_loop_over_the_eight():
    image = np.random.random((2, 4, 5))
    padded, expected = np.pad(image, ((0, 0), (1, 1), (1, 1))), np.zeros_like(image)
    for dy, dx, weight in [(0, 1, 2), (1, 0, 2), (0, -1, 2), (-1, 0, 2), (1, 1, 1), (1, -1, 1), (-1, 1, 1), (-1, -1, 1)]:
        expected += weight / 12 * padded[:, 1 + dy : 5 + dy, 1 + dx : 6 + dx]
    assert np.allclose(neighbour_sum(image), expected, atol=1e-15)


def test_it_equals_the_imputer_of_pytorch_grad_cam():
    """Its code is the authors'; without noise, and in float32."""
    road = pytest.importorskip("pytorch_grad_cam.metrics.road")
    for density in (0.1, 0.5, 0.9):
        kept, image = some_kept(11, 14, density), torch.randn(3, 11, 14)
        theirs = road.NoisyLinearImputer(noise=0)(image, torch.from_numpy(kept).float())
        assert np.abs(Imputation(kept)(image.double().numpy()) - theirs.numpy()).max() < 1e-5


def test_nothing_kept_is_refused():
    with pytest.raises(UserError, match="at least one pixel that is kept"):
        Imputation(np.zeros((3, 4), dtype=bool))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 5])
def test_the_fill_is_the_dense_solution_plus_its_noise(channels, count):
    """The noise, of the same seeds, is the fill's deviation where nothing is kept."""
    images = torch.rand(count, channels, 10, 13, dtype=torch.float64)
    mean, std = torch.rand(1, channels, 1, 1, dtype=torch.float64), torch.rand(1, channels, 1, 1, dtype=torch.float64)
    fills = protocol.Fills(images, mean, std, range(7, 7 + count))
    noise = fills("road", torch.zeros(count, 10, 13, dtype=torch.bool)) - mean
    kept = torch.from_numpy(np.stack([some_kept(10, 13, density) for density in np.random.random(count)]))
    filled = protocol.perturb(images, kept, fills("road", kept))
    for i in range(count):
        expected = dense(images[i].numpy(), kept[i].numpy()) + noise[i].numpy() * ~kept[i].numpy()
        assert np.abs(filled[i].numpy() - expected).max() < 1e-11
    everything = torch.ones_like(kept)
    assert torch.equal(protocol.perturb(images, everything, fills("road", everything)), images)


def test_the_noise_has_its_size_and_is_the_image_s_own():
    images, std = torch.zeros(3, 3, 200, 200), torch.tensor([0.2, 0.5, 1.0]).view(1, 3, 1, 1)
    none = torch.zeros(3, 200, 200, dtype=torch.bool)
    noise = protocol.Fills(images, torch.zeros(1, 3, 1, 1), std, [4, 9, 4])("road", none).double()
    assert torch.allclose(noise.std((0, 2, 3)), NOISE * std.flatten().double(), rtol=0.03)
    assert noise.mean().abs() < 5 * NOISE / (9 * 40_000) ** 0.5
    assert torch.equal(noise[0], noise[2]) and abs(float(torch.corrcoef(noise[:2].reshape(2, -1))[0, 1])) < 0.02


def test_the_fill_depends_on_image_mask_and_index_alone():
    """Not on the batch, its order or other fills asked for before, to the last bit."""
    images, mean, std = torch.rand(6, 3, 21, 18), torch.rand(1, 3, 1, 1), torch.rand(1, 3, 1, 1)
    kept = torch.rand(6, 21, 18) < 0.3
    kept[3] = kept[1]  # these two share their factors
    whole = protocol.Fills(images, mean, std, range(6))
    whole("road", ~kept), whole("blur", kept)
    together = whole("road", kept)
    for order in ([5, 1, 3], [2], [4, 0]):
        part = protocol.Fills(images[order], mean, std, torch.tensor(order))("road", kept[order])
        assert torch.equal(part, together[order])
    assert together.dtype == images.dtype


def test_a_soft_mask_is_refused():
    fills = protocol.Fills(torch.rand(1, 3, 4, 4), torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1), [0])
    mask, _ = protocol.kept(Point("soft", None, "black"), protocol.Ranking(torch.rand(1, 4, 4)))
    with pytest.raises(UserError, match="road needs a binary mask"):
        fills("road", mask)
