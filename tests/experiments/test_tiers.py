"""Torchvision networks that classify images: the layer proposed, its tier, and drops that are brute force's.

The three cheapest of each family up to CHEAP; EVALKIT_TEST_HUGE=1 takes all of them, which is some minutes and 6 GB.
"""

import gc
import os
import re

import pytest
import tiers
from torchvision.models import get_model_weights

from evalkit.models import catalogue

EXPECTED = {  # by family: layer and tier
    "alexnet": (r"features\.11", 2),
    "convnext": ("features", 3),
    "densenet": ("relu", 1),
    "efficientnet": ("features", 1),
    "googlenet": ("inception5b", 1),
    "inception": ("Mixed_7c", 1),
    "maxvit": (r"blocks\.3", 3),
    "mnasnet": ("layers", 1),
    "mobilenet_v2": ("features", 1),
    "mobilenet_v3": ("features", 2),
    "regnet": ("trunk_output", 1),
    "resne": ("layer4", 1),
    "shufflenet": ("conv5", 1),
    "squeezenet": ("features", 2),
    "swin": ("permute", 1),
    "vit": (r"encoder\.layers\.encoder_layer_\d+", 2),
    "vgg": (r"features\.(19|27|23|33|29|42|35|51)", 2),
    "wide_resnet": ("layer4", 1),
}
NAMES = catalogue.names()


def test_every_network_belongs_to_one_family_with_a_cheap_member():
    assert [family for family in EXPECTED if min(operations(name) for name in NAMES if name.startswith(family)) >= CHEAP] == []
    assert [name for name in NAMES if sum(name.startswith(family) for family in EXPECTED) != 1] == []


CHEAP = 12.0


def operations(name: str) -> float:
    """The multiplications of one forward pass in units of 10^9, which torchvision records with the weights."""
    return float(get_model_weights(name)["DEFAULT"].meta["_ops"])


@pytest.mark.usefixtures("quick_weights")
@pytest.mark.parametrize("family", EXPECTED)
def test_drops_of_a_whole_family(family):
    layer, tier = EXPECTED[family]
    members = sorted((name for name in NAMES if name.startswith(family)), key=operations)
    for name in members if "EVALKIT_TEST_HUGE" in os.environ else [name for name in members[:3] if operations(name) < CHEAP]:
        found = tiers.measure(name, tiers.SIZES.get(name, 64), count=3)
        assert re.fullmatch(layer, found["layer"]) and found["tier"] == tier and found["traced"], found
        assert found["positions"] != "1x1" and found["largest_drop"] > 0 and found["error"] <= 1e-4, found
        gc.collect()
