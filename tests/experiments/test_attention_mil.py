"""Attention-based multiple-instance learning: the network against loops over patches, its maps, and the experiment end to end."""

import attention_mil as experiment
import attention_mil_report as report
import numpy as np
import pandas as pd
import pytest
import torch
from builders import HALF, ROOT
from commands import here
from mil import Attention, AttentionMIL, Instances, attention_evidence, attention_map
from PIL import Image
from safetensors.torch import save_file

from evalkit import Probe, SplitModel
from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.methods import ablation_cam, grad_cam
from evalkit.models import zoo
from evalkit.models.digits_nets import DigitsGAP


def network(patch: int = 12, stride: int = 8, gated: bool = True) -> AttentionMIL:
    """A network in float64 whose attention is far from uniform, and whose running statistics are no start values."""
    net = AttentionMIL(patch, stride, gated)
    net(torch.randn(32, 3, 32, 32))
    with torch.no_grad():
        for part in net.bag.attention.parameters():
            part.mul_(20)
    return net.double().eval()


def loop(net: AttentionMIL, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features (n,K), attention (n,) and logits of an image (3,H,W), patch by patch, with the formulas of Ilse et al."""
    patch, stride = net.instances.patch, net.instances.stride
    features = []
    for top in range(0, image.shape[1], stride):
        for left in range(0, image.shape[2], stride):
            y, x = top + stride / 2 - patch / 2, left + stride / 2 - patch / 2
            cut = torch.zeros(3, patch, patch, dtype=image.dtype)
            for i in range(patch):
                for j in range(patch):
                    if 0 <= y + i < image.shape[1] and 0 <= x + j < image.shape[2]:
                        cut[:, i, j] = image[:, int(y + i), int(x + j)]
            features.append(net.instances.encoder[0](cut[None]).mean((0, 2, 3)))
    exponents = []
    for h in features:
        hidden = torch.tanh(net.bag.attention.V.weight[:, :, 0, 0] @ h)
        if net.bag.attention.U is not None:
            hidden = hidden / (1 + torch.exp(-net.bag.attention.U.weight[:, :, 0, 0] @ h))
        exponents.append(torch.exp(net.bag.attention.w.weight[0, :, 0, 0] @ hidden))
    attention = torch.stack([e / sum(exponents) for e in exponents])
    bag = sum(a * h for a, h in zip(attention, features, strict=True))
    return torch.stack(features), attention, net.bag.classifier.weight @ bag + net.bag.classifier.bias


@pytest.mark.parametrize(("patch", "stride", "gated"), [(12, 8, True), (8, 8, True), (16, 8, False)])
def test_maps_and_logits_against_a_loop_over_patches(patch, stride, gated):
    net = network(patch, stride, gated)
    images = torch.rand(2, 3, 32, 24, dtype=torch.float64)
    probe = Probe(SplitModel(net, "instances", mean=HALF, std=HALF), images)
    weights, evidence = attention_map(probe), attention_evidence(probe)
    for n in range(2):
        features, attention, logits = loop(net, 2 * images[n] - 1)
        torch.testing.assert_close(probe.activations[n].flatten(1).T, features)
        torch.testing.assert_close(weights[n].flatten(), attention)
        torch.testing.assert_close(probe.logits[n], logits)
        by_patch = attention * (features @ net.bag.classifier.weight[probe.targets[n]])
        torch.testing.assert_close(evidence[n].flatten(), by_patch)
    torch.testing.assert_close(weights.sum((1, 2)), torch.ones(2, dtype=torch.float64))
    assert (weights >= 0).all() and weights.std() > 1e-3


def test_evidence_and_bias_sum_to_the_class_score():
    net = network()
    probe = Probe(SplitModel(net, "instances", mean=HALF, std=HALF), torch.rand(3, 3, 32, 32, dtype=torch.float64), torch.tensor([7, 0, 3]))
    torch.testing.assert_close(attention_evidence(probe).sum((1, 2)) + net.bag.classifier.bias[probe.targets], probe.scores)


def test_a_bag_has_no_order():
    net = network(8, 8)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    order = torch.randperm(16)
    cut = images.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
    shuffled = cut[:, order].unflatten(1, (4, 4)).permute(0, 3, 1, 4, 2, 5).reshape(2, 3, 32, 32)
    torch.testing.assert_close(net(shuffled), net(images))
    attention = net.bag.attention(net.instances(images)).flatten(1)
    torch.testing.assert_close(net.bag.attention(net.instances(shuffled)).flatten(1), attention[:, order])
    assert (attention[:, order] - attention).abs().max() > 1e-3


def test_a_cell_lies_over_its_patch():
    """A bright square in one cell changes that cell's features, and those of patches that reach into it."""
    net = network(12, 8)
    dark, lit = torch.zeros(1, 3, 32, 32, dtype=torch.float64), torch.zeros(1, 3, 32, 32, dtype=torch.float64)
    lit[:, :, 11:13, 19:21] = 3  # in the middle of cell (1,2)
    moved = (net.instances(lit) - net.instances(dark)).abs().sum(1)[0] > 1e-9
    assert moved.nonzero().tolist() == [[1, 2]]


def test_ablation_cam_and_grad_cam_read_the_instances():
    net = network()
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    probe = Probe(SplitModel(net, "instances", mean=HALF, std=HALF), images)
    assert probe.activations.shape == (2, 64, 4, 4) and probe.net.head_graph is not None  # cut, not hooked
    features = net.instances(2 * images - 1).detach()

    def head(a):
        return net.bag.classifier((net.bag.attention(a)[:, None] * a).sum((2, 3)))

    for n in range(2):
        drops = []
        for k in range(features.shape[1]):
            ablated = features[n : n + 1].clone()
            ablated[:, k] = 0
            drops.append((probe.scores[n] - head(ablated)[0, probe.targets[n]]).detach())
        torch.testing.assert_close(probe.drops[n], torch.stack(drops))
        wanted = torch.einsum("k,khw->hw", torch.stack(drops) / probe.scores[n].abs(), features[n]).relu()
        torch.testing.assert_close(ablation_cam(probe)[n], wanted)
    leaf = features.clone().requires_grad_()
    gradients = torch.autograd.grad(head(leaf).gather(1, probe.targets[:, None]).sum(), leaf)[0]
    torch.testing.assert_close(grad_cam(probe), torch.einsum("nk,nkhw->nhw", gradients.mean((2, 3)), features).relu())


def test_eq_8_has_no_gate():
    features = torch.randn(1, 5, 2, 3)
    plain, gated = Attention(5, 4, gated=False), Attention(5, 4)
    gated.V, gated.w = plain.V, plain.w
    with torch.no_grad():
        gated.U.weight.zero_()  # a gate of 1/2 everywhere
        half, whole = (part(features).log() for part in (gated, plain))
        torch.testing.assert_close(half - half.mean(), (whole - whole.mean()) / 2)


@pytest.mark.parametrize(("patch", "stride"), [(8, 16), (16, 0), (16, 7)])
def test_patches_that_cannot_lie_on_a_grid(patch, stride):
    with pytest.raises(UserError, match="patches of"):
        Instances(patch, stride)


@pytest.mark.parametrize(("module", "layer"), [(DigitsGAP(), "features.13"), (AttentionMIL(32, 16), "instances.encoder.0.13")])
def test_networks_without_attention_at_the_layer(module, layer):
    net = SplitModel(module, layer, mean=HALF, std=HALF)
    net.trunk(torch.rand(1, 3, 64, 64)) if layer == "features.13" else None
    probe = Probe(net, torch.rand(1, 3, 64, 64), torch.tensor([0]))
    for method in (attention_map, attention_evidence):
        with pytest.raises(UserError, match=f"reads the attention of mil.AttentionMIL at layer 'instances', not .* at '{layer}'"):
            method(probe)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The experiment on a few canvases, little trained."""
    out = tmp_path_factory.mktemp("mil")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "HEAD_EPOCHS", 1)
        patch.setattr(experiment, "EPOCHS", 1)
        experiment.main(out, [0, 1], count=64, limit=12)
    return out, pd.read_csv(out / "attention_mil.csv", keep_default_na=False)


def test_end_to_end(measured):
    out, table = measured
    assert tuple(table.columns) == report.COLUMNS and set(table.seeds) == {"0 1", "0", "1"}
    assert set(table.network) == {"mil_32", "mil_16", "digits_gap", "digits_fc"}
    drops = table[(table.measure == "average_drop") & (table.seeds == "0 1") & (table.against == "")]
    assert set(zip(drops.network, drops.method, strict=True)) == {
        *((bag, method) for bag in ("mil_32", "mil_16") for method in ("mil_attention", "mil_evidence", *experiment.CAMS)),
        *((cnn, method) for cnn in experiment.CNNS for method in experiment.CAMS),
    }
    assert (drops.n.astype(int) == 24).all() and (drops.images.astype(int) == 12).all()
    assert Image.open(out / "attention_mil.png").size[0] > 1000


def test_a_second_start_trains_nothing(measured, monkeypatch):
    out, before = measured

    def never(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(experiment, "trained", never)
    experiment.main(out, [0, 1], count=64, limit=12)
    pd.testing.assert_frame_equal(pd.read_csv(out / "attention_mil.csv", keep_default_na=False), before)


def test_training_starts_from_the_embedded_convolutions_and_changes_all_parts(monkeypatch):
    monkeypatch.setattr(experiment, "HEAD_EPOCHS", 1)
    images, labels = torch.randn(64, 3, 64, 64), torch.randint(10, (64,))
    start = zoo.build(compose_jobs(["model=digits_gap"])[0].config.model)[0].features
    monkeypatch.setattr(experiment, "EPOCHS", 1)
    net = experiment.trained(32, images, labels, 0)
    moved = [(a - b).abs().max() for a, b in zip(net.instances.encoder[0].parameters(), start.parameters(), strict=True)]
    assert 0 < max(moved) < 0.05 and not net.training  # one step of AdamW
    head = experiment.instances(net, images)
    torch.testing.assert_close(head, torch.cat([net.instances(image[None]) for image in images]))


def rows() -> pd.DataFrame:
    """Three images of four networks and two seeds, with simple values."""
    table = []
    for seed in (0, 1):
        for index in range(3):
            for network in ("mil_32", "mil_16", "digits_gap", "digits_fc"):
                bag = network.startswith("mil")
                for method in (*(("mil_attention", "mil_evidence") if bag else ()), *experiment.CAMS):
                    value = 10.0 * index + seed + 5 * (method == "mil_attention")
                    accuracy = 0.0 if network == "digits_gap" and index == 0 else 100.0
                    energy = np.nan if accuracy == 0 else value
                    table.append({"seed": seed, "index": index, "network": network, "method": method, "accuracy": accuracy,
                                  "average_drop": value, "energy_inside": energy, "pointing": energy})  # fmt: skip
    return pd.DataFrame(table)


def test_levels_and_paired_differences_by_hand():
    found = pd.DataFrame(report.statistics(rows())).set_index(["seeds", "network", "method", "against_network", "against", "measure"])
    level = found.loc[("0 1", "mil_32", "grad_cam", "", "", "average_drop")]
    assert level[["value", "images", "n"]].tolist() == [10.5, 3, 6] and np.isnan(level.p)
    assert found.loc[("1", "mil_32", "grad_cam", "", "", "average_drop"), "value"] == 11
    gained = found.loc[("0 1", "mil_32", "mil_attention", "mil_32", "grad_cam", "average_drop")]
    assert gained[["value", "low", "high"]].tolist() == [5, 5, 5] and gained.p == 0.25  # three images whose signs agree
    across = found.loc[("0 1", "mil_32", "mil_attention", "digits_gap", "grad_cam", "energy_inside")]
    assert across[["value", "images", "n"]].tolist() == [5, 2, 4]  # the image that digits_gap does not recognise has no pair
    accuracy = found.loc[("0 1", "mil_32", "", "digits_gap", "", "accuracy")]
    assert accuracy.value == pytest.approx(100 / 3) and accuracy.n == 6


def test_the_commands_of_the_docstring(tmp_path, monkeypatch):
    torch.manual_seed(0)
    weights = tmp_path / "mil_32_seed0.safetensors"
    save_file(AttentionMIL(32, 16).state_dict(), weights)
    done = here(
        "run", "--conf", str(ROOT / "experiments" / "conf"), "model=digits_mil", f"model.weights={weights}", "limit=4",
        "method=[mil_attention,mil_evidence,grad_cam,ablation_cam,random,centre]", f"out={tmp_path}/run",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = pd.concat(map(pd.read_parquet, (tmp_path / "run" / "maps").glob("*.parquet")))
    assert set(rows.method) == {"mil_attention", "mil_evidence", "grad_cam", "ablation_cam", "random", "centre"} and set(rows.height) == {4}


def test_the_maps_need_their_network(tmp_path):
    conf = str(ROOT / "experiments" / "conf")
    refused = here("run", "--conf", conf, "model=digits_gap", "limit=4", "method=[mil_attention,grad_cam]", f"out={tmp_path}/run")
    assert "set model=digits_mil" in str(refused.exception)
