"""The experiment behind figure 4: what it measures is what it says."""

import numpy as np
import pytest
import torch
from saturation import VARIANTS, ablation_in_float32, read_items, split, table
from saturation_report import ABLATION, GRAD, GRAD_DOUBLE, GRAD_SIGMOID, report

from evalkit.config.compose import compose_jobs
from evalkit.data.digits import TwoDigits
from evalkit.methods import grad_cam
from evalkit.models import zoo
from evalkit.probe import Probe


@pytest.fixture(scope="module")
def measured():
    config = compose_jobs(["model=two_digits"])[0].config.model
    module, _ = zoo.build(config)
    items = read_items(TwoDigits(count=6))
    return config, module, items, table(items, module, config)


def test_an_item_is_a_digit_with_its_own_box(measured):
    _, _, items, _ = measured
    assert items.targets.tolist() == [int(key) for i in range(6) for key in TwoDigits().class_keys(i)]
    assert torch.equal(items.own[0], items.other[1]) and not (items.own & items.other).any()
    box = TwoDigits().boxes(2)[1]
    assert int(items.own[5].sum()) == (box.x2 - box.x1) * (box.y2 - box.y1)


def test_multiplying_the_last_layer_changes_confidence_and_nothing_else(measured):
    config, module, items, _ = measured
    plain, sure = (Probe(split(module, config, factor, torch.float64), items.images, items.targets) for factor in (1, 8))
    torch.testing.assert_close(8 * plain.logits, sure.logits)
    torch.testing.assert_close(8 * grad_cam(plain), grad_cam(sure))


def test_levels_are_counted_by_hand(measured):
    config, module, items, rows = measured
    probe = Probe(split(module, config, 1, torch.float32), items.images, items.targets)
    low = grad_cam(probe)
    maps = torch.nn.functional.interpolate(low[:, None], size=(64, 64), mode="bilinear", align_corners=False)[:, 0]
    own, other = ((maps * side).sum((1, 2)) for side in (items.own, items.other))
    wanted = rows[(rows.times == 1) & (rows.variant == GRAD)]
    np.testing.assert_allclose(wanted.share, 100 * own / (own + other), rtol=1e-4)
    assert wanted.right.tolist() == (100 * (own > other)).tolist()
    assert (wanted.likeness == 1).all()


def test_the_sigmoid_scales_gradients_by_one_factor_until_they_are_nothing(measured):
    *_, rows = measured
    one = rows[rows.variant == GRAD_SIGMOID]
    y = 1 / (1 + np.exp(-one.score))
    sure = one.score > 17
    assert sure.any() and (~sure).any()
    assert (one[sure]["empty"] == 1).all() and (one[sure].factor == 0).all() and (one[sure].right == 50).all()
    seen = one[one.score < 12]
    np.testing.assert_allclose(seen.factor, (y * (1 - y))[seen.index], rtol=0.02)
    assert (seen[seen["empty"] == 0].likeness > 0.9999).all()
    wide = rows[(rows.variant == GRAD_DOUBLE) & (rows.score < 30)]
    assert (wide[wide["empty"] == 0].likeness > 0.9999).all()


def test_plain_float32_differences_are_those_of_the_rounded_sigmoid(measured):
    config, module, items, _ = measured
    probe = Probe(split(module, config, 4, torch.float32), items.images, items.targets)
    found = ablation_in_float32(probe)
    scores = probe.scores.numpy()
    drops = np.float32(1) / (1 + np.exp(-scores[:, None])) - np.float32(1) / (1 + np.exp(-(scores[:, None] - probe.drops.numpy())))
    wanted = np.maximum(np.einsum("nk,nkhw->nhw", drops, probe.activations.numpy()), 0)
    np.testing.assert_allclose(found, wanted, atol=1e-5 * wanted.max())


def test_the_report_counts_digits_and_names_every_variant(measured):
    *_, rows = measured
    text = report(rows)
    sure = rows[(rows.times == 1) & (rows.variant == ABLATION) & (rows.score > 0)]
    assert f"{len(sure)} digits\nexplained" in text and "6 canvases" in text
    assert all(f"| 8 | {variant} |" in text for variant in VARIANTS)
