"""The experiment on the axioms: maps of the toy networks derived by hand, rewritings that keep scores, sums by loops."""

from math import e, sqrt

import axioms
import pandas as pd
import pytest
import torch
from axiom_rewrites import FINER, REWRITES, finer, first_reader, rewritten
from axiom_sums import SUMS, change, completeness
from axiom_toys import CASES, HAND_SIZED, METHODS
from builders import HALF, TinyFC, TinyGAP
from torch import nn

from evalkit import Probe, SplitModel, methods
from evalkit.errors import UserError

SATURATED, UNSATURATED, AGAINST, NULL, NULL_CELL, EITHER, LARGEST = CASES
SLOPES = ("grad_cam", "xgrad_cam", "hires_cam", "layer_cam", "grad_cam_pp")
NOTHING = dict.fromkeys([*SLOPES, "gradient", "guided_backprop"], (0.0,))


def both(values: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
    return {name: value * 2 for name, value in values.items()}


def soft(score: float, *others: float) -> float:
    """The softmax weight of a channel whose masked image has this score."""
    return e**score / (e**score + sum(e**other for other in others))


BY_HAND = {  # the value at each unit, in the order of the case
    SATURATED.network: NOTHING
    | {"ablation_cam": (2,), "ablation_cam_norm": (1,), "spatial_ablation": (1,), "occlusion": (1,), "integrated_gradients": (1,)}
    | {"ablated_input_cam": (2,), "eigen_cam": (2,), "score_cam": (2 * soft(1, 0, 0),)},
    UNSATURATED.network: dict.fromkeys(METHODS, (0.5,))
    | {"grad_cam_pp": (16 / 2.5 * 0.5,), "gradient": (1,), "guided_backprop": (0,), "score_cam": (0.5 * soft(0.5, 0, 0),)},
    AGAINST.network: dict.fromkeys(METHODS, (0.0,))
    | {"cam": (-16 * 0.5,), "spatial_ablation": (-0.5,), "occlusion": (-0.5,), "integrated_gradients": (-0.5,), "gradient": (1,)}
    | {"ablated_input_cam": (0.5,), "eigen_cam": (0.5,), "score_cam": (0.5 * soft(0.5, 1, 1),)},
    NULL.network: dict.fromkeys(METHODS, (1.0, 0.0))
    | {"cam": (16, 0), "grad_cam_pp": (16 / 3, 0), "ablated_input_cam": (1, 1.5), "eigen_cam": (0, 1.5)}
    | {"score_cam": (soft(1, 0, 0), 1.5 * soft(0, 1, 0))},
    NULL_CELL.network: dict.fromkeys(METHODS, (1.0, 0.0))
    | {"grad_cam": (1 / 16,) * 2, "grad_cam_pp": (1 / 4,) * 2, "xgrad_cam": (1 / 2,) * 2, "ablation_cam": (1, 1)}
    | {"ablation_cam_norm": (1 / sqrt(2),) * 2, "ablated_input_cam": (1, 1), "eigen_cam": (1, 1), "score_cam": (soft(1, 0, 0),) * 2},
    EITHER.network: both(NOTHING)
    | both(dict.fromkeys(["ablation_cam", "ablation_cam_norm", "spatial_ablation", "occlusion"], (0.0,)))
    | {"ablated_input_cam": (1, 1.5), "eigen_cam": (0, 1.5), "score_cam": (soft(1, 1, 0), 1.5 * soft(1, 1, 0))}
    | {"integrated_gradients": (0.4, 0.6)},
    LARGEST.network: dict.fromkeys(METHODS, (0.5, 0.5))
    | both(dict.fromkeys(["ablation_cam", "ablation_cam_norm", "spatial_ablation", "occlusion"], (0.0,)))
    | {"grad_cam_pp": (16 * 0.5 / 2.5,) * 2, "gradient": (0.5, 1), "guided_backprop": (0.5, 1), "ablated_input_cam": (1, 1)}
    | {"eigen_cam": (1, 0), "score_cam": (soft(1, 1, 0),) * 2},
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.network)
def test_every_method_gives_what_was_derived_by_hand(case):
    for name in case.methods(HAND_SIZED):
        tolerance = 0.02 if case is EITHER and name == "integrated_gradients" else 1e-6  # the quadrature meets a kink
        assert list(case.values(HAND_SIZED[name]).values()) == pytest.approx(BY_HAND[case.network][name], abs=tolerance), name


def test_toy_sums_are_complete_where_the_head_is_linear_and_not_where_one_unit_suffices():
    table = pd.DataFrame(axioms.toy_rows())
    shares = table[table.measure == "share"].set_index(["network", "method"]).value
    for name in ("cam", "grad_cam", "xgrad_cam", "hires_cam", "ablation_cam", "spatial_ablation", "integrated_gradients"):
        assert shares[NULL.network, name] == pytest.approx(100)
    assert shares[EITHER.network, "ablation_cam"] == 0 and shares[SATURATED.network, "grad_cam"] == 0
    assert shares[SATURATED.network, "ablation_cam"] == pytest.approx(100)


class ConvHead(nn.Module):
    """The next layer is a convolution, as in SqueezeNet."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True))
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(6, 5, 3), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x)).mean((2, 3))


def cut(module: nn.Module, layer: str = "features") -> SplitModel:
    return SplitModel(module, layer, mean=HALF, std=HALF)


def pair(factory: type[nn.Module], rewriting: str) -> tuple[Probe, Probe, object]:
    """Probes of a random network and of the rewritten one in float64, and the new channels."""
    module, images = factory().double().eval(), torch.rand(3, 3, 16, 16, dtype=torch.float64)
    before = Probe(cut(module), images)
    channels = REWRITES[rewriting](before.activations.shape[1], torch.Generator().manual_seed(int(torch.randint(999, ()))))
    changed = rewritten(module, "features", images[:1] * 2 - 1, channels)
    return before, Probe(cut(changed), images, before.targets), channels


@pytest.mark.parametrize("factory", [TinyFC, TinyGAP, ConvHead])
@pytest.mark.parametrize("rewriting", REWRITES)
def test_rewritten_networks_have_the_same_scores_and_other_channels(factory, rewriting):
    before, after, channels = pair(factory, rewriting)
    torch.testing.assert_close(before.logits, after.logits, rtol=1e-10, atol=1e-12)
    wanted = torch.stack([before.activations[:, k] * s for k, s in zip(channels.source, channels.scale, strict=True)], 1)
    torch.testing.assert_close(after.activations, wanted)
    assert not torch.equal(channels.source, torch.arange(before.activations.shape[1])) or bool((channels.scale != 1).any())


@pytest.mark.parametrize("factory", [TinyFC, TinyGAP])
@pytest.mark.parametrize("rewriting", REWRITES)
def test_maps_that_the_algebra_keeps(factory, rewriting):
    """A and g of new channels are s A and b g with s b summing to 1: what reads only their product cannot change."""
    before, after, _ = pair(factory, rewriting)
    kept = ["grad_cam", "xgrad_cam", "hires_cam", "layer_cam", "spatial_ablation", "gradient", *(["cam"] if factory is TinyGAP else [])]
    kept += ["grad_cam_pp"] if not rewriting.startswith("half") else []
    kept += ["ablation_cam_norm"] if factory is TinyGAP or not rewriting.startswith("half") else []
    kept += ["ablation_cam"] if rewriting in ("unread copies added", "permuted") else []
    kept += ["score_cam", "ablated_input_cam"] if rewriting in ("half split into halves", "permuted") else []
    kept += ["eigen_cam", "guided_backprop", "integrated_gradients"] if rewriting == "permuted" else []
    for name in kept:
        found, wanted = METHODS[name](after), METHODS[name](before)
        if name == "score_cam":  # its softmax runs over more channels: one factor for the whole map
            found, wanted = (maps / maps.amax((1, 2), keepdim=True) for maps in (found, wanted))
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9, msg=name)


@pytest.mark.parametrize("factory", [TinyFC, TinyGAP])
def test_ablation_cam_of_rescaled_channels_by_a_loop(factory):
    """The drops stay, the maps are multiplied: sum_k w_k s_k A_k. Eq. 2's norm divides by s_k again."""
    before, after, channels = pair(factory, "rescaled by 1/10 to 10")
    torch.testing.assert_close(before.drops, after.drops, rtol=1e-8, atol=1e-10)
    for i, a in enumerate(before.activations):
        total = sum(before.drops[i, k] / before.scores[i].abs() * channels.scale[k] * a[k] for k in range(len(a)))
        torch.testing.assert_close(methods.ablation_cam(after)[i], total.clamp(min=0), rtol=1e-8, atol=1e-10)


def test_ablation_cam_of_split_channels_behind_pooling():
    """Behind one linear layer half a channel drops half: two halves give w A / 2 together, two averaged copies w A."""
    for rewriting, share in (("half split into halves", 0.5), ("half split into copies", 1.0)):
        before, after, channels = pair(TinyGAP, rewriting)
        k = before.activations.shape[1]
        weight = torch.ones(k, dtype=torch.float64)
        weight[channels.source[k:]] = share
        total = torch.einsum("nk,nkhw->nhw", before.drops * weight / before.scores.abs()[:, None], before.activations)
        torch.testing.assert_close(methods.ablation_cam(after), total.clamp(min=0), rtol=1e-8, atol=1e-10)


def test_finer_cells_keep_scores_and_repeat_maps():
    for factory, pooled in ((TinyFC, False), (TinyGAP, True)):
        module, images = factory().double().eval(), torch.rand(2, 3, 16, 16, dtype=torch.float64)
        before = Probe(cut(module), images)
        after = Probe(cut(*finer(module, "features", pooled=pooled)), images, before.targets)
        torch.testing.assert_close(before.logits, after.logits, rtol=1e-10, atol=1e-12)
        for name in ("ablation_cam", "ablation_cam_norm"):
            factor = 2 if name.endswith("norm") else 1  # the norm of four equal cells
            repeated = METHODS[name](before).repeat_interleave(2, 1).repeat_interleave(2, 2)
            torch.testing.assert_close(METHODS[name](after) * factor, repeated, rtol=1e-8, atol=1e-10)


def test_the_first_reader_is_the_next_layer_that_mixes_channels():
    module = TinyFC().eval()
    assert first_reader(module, "features", torch.rand(1, 3, 16, 16)) is module.classifier[1]
    assert first_reader(module, "classifier.1", torch.rand(1, 3, 16, 16)) is module.classifier[4]
    with pytest.raises(ValueError, match="no linear layer"):
        first_reader(module, "classifier.4", torch.rand(1, 3, 16, 16))


def test_sums_by_loops():
    module, images = TinyFC().double().eval(), torch.rand(2, 3, 16, 16, dtype=torch.float64)
    probe = Probe(cut(module), images, targets=[1, 3])
    for i, c in enumerate((1, 3)):
        a = probe.activations[i]
        y, nothing = (float(probe.net.head(x[None])[0, c].detach()) for x in (a, torch.zeros_like(a)))
        drops, windows = 0.0, 0.0
        for k in range(len(a)):
            drops += y - float(probe.net.head(torch.cat([a[:k], a[k : k + 1] * 0, a[k + 1 :]])[None])[0, c].detach())
        for row in range(a.shape[1]):
            for column in range(a.shape[2]):
                without = a.clone()
                without[:, row, column] = 0
                windows += y - float(probe.net.head(without[None])[0, c].detach())
        assert float(SUMS["ablation_cam"](probe)[i]) == pytest.approx(drops)
        assert float(SUMS["spatial_ablation"](probe)[i]) == pytest.approx(windows)
        assert float(change(probe, "ablation_cam")[i]) == pytest.approx(y - nothing)
        black = float(module(torch.full((1, 3, 16, 16), -1.0, dtype=torch.float64))[0, c].detach())
        assert float(change(probe, "integrated_gradients")[i]) == pytest.approx(y - black)
    signed = {"grad_cam": 0.0, "grad_cam_pp": 0.0, "hires_cam": 0.0, "layer_cam": 0.0}
    for name in signed:  # where no weight is negative, the map before the ReLU is the map
        positive = Probe(cut(module), images, targets=[1, 3])
        positive.__dict__["gradients"] = probe.gradients.abs()
        torch.testing.assert_close(SUMS[name](positive), METHODS[name](positive).sum((1, 2)))
    found = {row["measure"]: row for row in completeness({}, [probe], ["ablation_cam"])}
    shared, changes = SUMS["ablation_cam"](probe), change(probe, "ablation_cam")
    assert found["gap"]["value"] == pytest.approx(float(100 * (shared - changes).abs().sum() / changes.abs().sum()))
    assert found["share"]["value"] == pytest.approx(float(100 * shared.sum() / changes.sum())) and found["share"]["n"] == 2


def test_likeness_by_hand():
    net = cut(TinyGAP().eval())
    one, other = (axioms.Explained(net, torch.rand(2, 3, 16, 16), None, ["grad_cam"]) for _ in range(2))
    one.maps["grad_cam"], other.maps["grad_cam"] = torch.rand(2, 2, 16, 16).unbind(0)
    found = axioms.alike(one, other, "grad_cam")
    for i in range(2):
        tops = [set(of.maps["grad_cam"][i].flatten().argsort(descending=True)[:51].tolist()) for of in (one, other)]
        assert found["iou"][i] == pytest.approx(len(tops[0] & tops[1]) / len(tops[0] | tops[1]))
    series = [pd.Series(of.maps["grad_cam"][0].flatten().numpy()) for of in (one, other)]
    assert found["spearman"][0] == pytest.approx(series[0].corr(series[1], method="spearman"), abs=1e-5)
    assert found["pearson"][0] == pytest.approx(series[0].corr(series[1]), abs=1e-5)


def test_the_whole_experiment_on_a_small_network(tmp_path, monkeypatch):
    small = axioms.Network(("model=digits_gap", "data=digits"), 3, 2, pooled=True, left_out=("occlusion", "score_cam"))
    monkeypatch.setitem(axioms.NETWORKS, "digits_gap", small)
    monkeypatch.setattr(axioms, "METHODS", {name: METHODS[name] for name in ("cam", "ablation_cam", "grad_cam", "gradient")})
    axioms.main(tmp_path, tmp_path, ["digits_gap"], 3, 2)
    axioms.main(tmp_path, tmp_path, [axioms.TOYS], None, 1)
    table = pd.read_csv(tmp_path / "axioms.csv")
    assert set(table.axiom) == {"completeness", "implementation invariance", "sensitivity", "null player", "redundant units"}
    one = table[(table.network == "digits_gap") & (table.axiom == "implementation invariance")]
    assert set(one.rewriting) == {*REWRITES, FINER} and set(one.method.dropna()) == {"cam", "ablation_cam", "grad_cam", "gradient"}
    assert (one[one.measure == "scores"].value < 1e-5).all()
    likeness = one[one.measure == "pearson"].set_index(["rewriting", "method"])
    assert likeness.value["rescaled by 1/10 to 10", "grad_cam"] > 0.9999 > likeness.value["rescaled by 1/10 to 10", "ablation_cam"]
    assert likeness.n["permuted", "ablation_cam"] == 3 and likeness.n["permuted", "gradient"] == 2
    complete = table[(table.network == "digits_gap") & (table.measure == "gap")].set_index("method").value
    assert complete["cam"] < 1e-3 and complete["ablation_cam"] < 1e-3


def test_an_unknown_network_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no network 'digits_fd'; did you mean 'digits_fc'"):
        axioms.main(tmp_path, tmp_path, ["digits_fd"], None, 1)
