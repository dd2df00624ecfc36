"""timm's networks, one of each of many families: traced, cut, and exact."""

import pytest
import torch
from reference import randomise_norms
from tiers import config, measure_module

from evalkit import SplitModel
from evalkit.models import zoo

pytest.importorskip("timm")


@pytest.mark.usefixtures("quick_weights")
@pytest.mark.parametrize(
    ("name", "layer", "tier"),
    [
        ("legacy_xception", "act4", 1), ("resnet10t", "layer4", 1), ("efficientnet_b0", "bn2", 1), ("tf_efficientnet_b0", "bn2", 1),
        ("densenet121", "features", 1), ("hrnet_w18_small", "final_layer", 1), ("repvgg_a0", "stages", 1), ("regnetx_002", "s4", 1),
        ("skresnet18", "layer4", 1), ("cspdarknet53", "stages", 1), ("test_nfnet", "final_act", 1), ("xception41", "blocks", 1),
        ("dla34", "level5", 2), ("resnetv2_18", "norm", 2), ("ghostnet_100", "blocks", 2), ("mobilenetv4_conv_small", "blocks", 2),
        ("mobilenetv3_small_100", "blocks", 2), ("lcnet_050", "blocks", 2),
        ("convnextv2_atto", "stages", 3), ("starnet_s1", "norm", 3), ("mobilevit_xxs", "final_conv", 1),
    ],
)  # fmt: skip
def test_drops_are_exact(name, layer, tier):
    settings = config(f"timm/{name}")
    proposed = zoo.proposed_layer(settings).layer
    module = zoo.find(settings.factory, "model.factory")(**settings.args).eval()
    randomise_norms(module)
    found = measure_module(module, proposed, 96, 3)
    assert (found["layer"], found["tier"], found["traced"]) == (layer, tier, True)
    assert found["error"] <= 1e-4 and found["largest_drop"] > 0


def test_modules_that_timm_declares_impossible_to_trace_stay_whole():
    """Conv2dSame pads by the size of its input, which tracing would freeze."""
    module = zoo.build(config("timm/tf_efficientnet_b0"))[0].eval()
    net = SplitModel(module, "bn2", mean=(0.5,) * 3, std=(0.5,) * 3)
    for size in (64, 75):
        images = torch.rand(3, 3, size, size)
        with torch.no_grad():
            assert torch.allclose(net(images), module((images - 0.5) / 0.5), atol=1e-5)
    assert net.head_graph is not None
