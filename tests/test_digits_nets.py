"""The two embedded networks: their committed weights fit, and know their digits."""

import pytest
import torch

from evalkit.config import compose_jobs
from evalkit.data.digits import Digits
from evalkit.models import zoo


@pytest.mark.parametrize("name", ["digits_fc", "digits_gap"])
def test_the_committed_weights_reach_the_accuracy_that_the_config_states(name):
    config = compose_jobs([f"model={name}"])[0].config.model
    model = zoo.load(config, torch.device("cpu"))
    digits = Digits()
    images = torch.stack([model.preprocess(digits.load(i)) for i in range(len(digits))]).float() / 255
    predicted = torch.cat([model.net(part).argmax(1) for part in images.split(100)])
    labels = torch.tensor([model.classes.index(*digits.class_keys(i)) for i in range(len(digits))])
    assert float((predicted == labels).double().mean() * 100) == pytest.approx(config.expected_top1, abs=0.13)  # one image
    assert sum(p.numel() for p in model.net.module.parameters()) * 4 < 5e6  # bytes of the committed file
