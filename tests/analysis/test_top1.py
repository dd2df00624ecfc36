"""The published top-1 stands beside a run only where it speaks of that run."""

import numpy as np
import pytest
from builders import make_run

from evalkit.analysis.top1 import expected_top1, near_guessing
from evalkit.config.compose import compose_jobs

FULL = np.full(4, 5.0)
VGG = {
    "weights": "IMAGENET1K_V1",
    "expected_top1": 71.592,
    "expected_top1_source": "torchvision's documentation of the weights, ImageNet val",
    "images": 50_000,
}


DIGITS = {
    "weights": "embedded:digits_fc.safetensors",
    "expected_top1_source": "experiments/training/train_digits.py, seed 0, 797 evaluation images",
}


@pytest.mark.parametrize(
    ("record", "options", "shown"),
    [
        ({}, {}, True),
        ({"weights": "mine.pth"}, {}, False),
        ({"weights": "mine.ckpt"}, {}, False),
        ({"weights": "mine.pkl"}, {}, False),
        ({"weights": "random (seed 0)"}, {}, False),
        ({"images": 1000}, {}, False),
        ({}, {"data": "image_folder"}, False),
        ({}, {"asked": {"limit": 60}}, False),
        ({}, {"asked": {"sample": 60}}, False),
        ({}, {"asked": {"images": "correct"}}, False),
        (DIGITS | {"images": 797}, {"data": "digits"}, True),
        (DIGITS | {"images": 1000}, {"data": "digits"}, False),
        ({"weights": "mine.pth", "expected_top1_source": "my own training"}, {"data": "image_folder"}, True),
    ],
)
def test_the_published_top_1_is_of_these_weights_on_these_data(tmp_path, record, options, shown):
    run = make_run(tmp_path / "run", FULL, {"grad_cam": FULL / 2}, record=VGG | record, **({"data": "imagenet"} | options))
    run.provenance.update(missing_shards=0)
    assert (expected_top1(run) == 71.592) == shown


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        ([], True),
        (["batch_size=8", "model.resize=256"], True),
        (["model.weights=mine.pth"], False),
        (["model.weights=null"], False),
        (["model.classes=mine.txt"], False),
        (["model.factory=archs.mine"], False),
        (["model.weights=mine.pth", "model.expected_top1=80"], True),
    ],
)
def test_an_override_of_the_network_drops_the_preset_s_top_1(overrides, kept):
    (job,) = compose_jobs(["model=vgg16", *overrides])
    assert (job.config.model.expected_top1 is not None) == kept


@pytest.mark.parametrize(
    ("correct", "labelled", "classes", "near"),
    [
        (0, 29, 10, False),
        (0, 30, 10, True),
        (6, 60, 10, True),
        (20, 60, 10, False),
        (120, 800, 10, True),
        (200, 800, 10, False),
        (15, 30, 2, True),
        (27, 30, 2, False),
        (600, 1000, 2, True),
        (0, 60, 1000, True),
        (3, 60, 1000, False),
    ],
)
def test_near_guessing(correct, labelled, classes, near):
    assert near_guessing(correct, labelled, classes) == near
