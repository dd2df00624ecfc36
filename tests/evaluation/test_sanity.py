"""Cascading randomisation on networks small enough to look into, and the experiment end to end."""

import copy
import logging

import numpy as np
import pandas as pd
import pytest
import sanity_checks
import torch
from builders import HALF, TinyGAP, fresh
from scipy.stats import pearsonr, spearmanr
from torch import Tensor, nn

from evalkit import Probe, SplitModel, methods
from evalkit.errors import UserError
from evalkit.evaluation.sanity import cascade, similarity


class Scrambled(nn.Module):
    """Defines its layers in another order than it runs them, one of them never, and holds a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.unused = nn.Linear(2, 2)
        self.second = nn.Conv2d(4, 4, 3)
        self.first = nn.Conv2d(3, 4, 3)
        self.scale = nn.Parameter(torch.rand(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.second(self.first(x).relu()).mean((2, 3)) * self.scale)


def trained() -> TinyGAP:
    """As after training: BatchNorm's statistics and affine parameters are not the initial ones."""
    net = TinyGAP()
    for tensor in (*net.parameters(), *net.buffers()):
        if tensor.is_floating_point():
            tensor.data = torch.rand_like(tensor) + 5  # no initialisation reaches that
    return net


def test_layers_fall_in_the_order_in_which_they_ran(caplog):
    with caplog.at_level(logging.WARNING):
        stages = list(cascade(Scrambled(), torch.rand(2, 3, 8, 8)))
    assert [name for name, _ in stages] == ["fc", "second", "first"]
    assert "stays trained" in caplog.text and "unused" in caplog.text and "Scrambled" in caplog.text


@pytest.mark.parametrize("every", [1, 2, 5])
def test_each_stage_forgets_the_layers_behind_it_and_no_other(every):
    net = trained()
    order = ["fc", "features.1", "features.0"]
    stages = list(cascade(net, torch.rand(1, 3, 8, 8), every=every))
    assert [name for name, _ in stages] == {1: order, 2: ["fc", "features.0"], 5: ["fc", "features.0"]}[every]
    for reached, part in stages:
        forgotten = order[: order.index(reached) + 1]
        for name, tensor in part.state_dict().items():
            if name.rpartition(".")[0] in forgotten:
                assert not torch.isin(tensor, net.state_dict()[name]).any() or "num_batches" in name
            else:
                assert torch.equal(tensor, net.state_dict()[name])


def test_the_last_stage_is_freshly_initialised():
    *_, (_, last) = cascade(trained(), torch.rand(1, 3, 8, 8))
    assert float(last.features[0].weight.detach().abs().max()) <= 27**-0.5 and float(last.fc.weight.detach().abs().max()) <= 8**-0.5
    norm = last.features[1]
    assert (norm.running_mean == 0).all() and (norm.running_var == 1).all() and (norm.weight == 1).all() and (norm.bias == 0).all()


def test_the_callers_model_and_random_state_are_left_alone():
    net = trained().train()
    net.fc.eval()
    before, modes, random = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()], torch.get_rng_state()
    stages = [module for _, module in cascade(net, torch.rand(1, 3, 8, 8, generator=torch.Generator()))]
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    for module in (net, *stages):
        assert [m.training for m in module.modules()] == modes
        assert not any(m._forward_hooks for m in module.modules())
    stages[0].fc.weight.data.zero_()
    assert bool(stages[1].fc.weight.any())  # no two stages share a tensor


def test_the_seed_and_the_layer_decide_the_weights():
    net, example = trained(), torch.rand(1, 3, 8, 8)
    ends = [list(cascade(net, example, every=every, seed=seed))[-1][1].state_dict() for every, seed in ((1, 0), (2, 0), (1, 1))]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert not torch.equal(ends[0]["fc.weight"], ends[2]["fc.weight"])


def test_nothing_to_randomise():
    with pytest.raises(UserError, match="no layer that could be randomised"):
        next(cascade(nn.Flatten(), torch.rand(1, 3, 8, 8)))
    with pytest.raises(UserError, match="every=0"):
        next(cascade(trained(), torch.rand(1, 3, 8, 8), every=0))


@pytest.mark.parametrize("n", [1, 5])
def test_similarity_is_scipys(n):
    first, second = torch.randn(n, 6, 5) * 1e-20, torch.randint(0, 4, (n, 6, 5)).float()
    found = similarity(first, second)
    for i in range(n):
        one, other = first[i].flatten().double().numpy(), second[i].flatten().double().numpy()
        assert found["spearman"][i] == pytest.approx(spearmanr(one, other).statistic)
        assert found["pearson"][i] == pytest.approx(pearsonr(one, other).statistic)
        tops = [set(np.argsort(-values, kind="stable")[:6]) for values in (one, other)]
        assert found["overlap"][i] == pytest.approx(len(tops[0] & tops[1]) / 6)


def test_similarity_of_maps_without_contrast():
    varied, flat, broken = torch.rand(1, 4, 4), torch.full((1, 4, 4), 0.1), torch.full((1, 4, 4), torch.nan)
    for maps in (varied, flat):
        assert {name: float(value[0]) for name, value in similarity(maps, maps.clone()).items()} == {
            "spearman": 1,
            "pearson": 1,
            "overlap": 1,
        }
    assert np.isnan(similarity(varied, flat)["spearman"][0]) and np.isnan(similarity(flat, varied)["pearson"][0])
    assert all(np.isnan(value[0]) for value in similarity(varied, broken).values())
    assert similarity(varied, -varied)["spearman"][0] == pytest.approx(-1)


def test_controls_do_not_notice_what_methods_do():
    module, images, targets = trained().eval(), torch.rand(3, 3, 8, 8), torch.tensor([0, 3, 1])
    net = SplitModel(module, "features", mean=HALF, std=HALF)
    probe = Probe(net, images, targets)
    *_, (_, last) = cascade(net.module, (images - net.mean) / net.std)
    forgetful = Probe(SplitModel(last, "features", mean=HALF, std=HALF), images, targets)
    for control in (methods.random, methods.constant, methods.centre):
        assert (similarity(control(probe), control(forgetful))["spearman"] == 1).all()
    assert not np.allclose(similarity(methods.grad_cam_pp(probe), methods.grad_cam_pp(forgetful))["spearman"], 1)


def test_a_draw_compares_every_image_with_every_other():
    one, two = {"m": torch.randn(4, 5, 5)}, {"m": torch.randn(4, 5, 5)}
    found = sanity_checks.draw(one, two)
    for i in range(4):
        rhos = [spearmanr(one["m"][i].flatten(), two["m"][j].flatten()).statistic for j in range(4)]
        assert found.same["spearman"][0, i] == pytest.approx(rhos.pop(i))
        assert found.other["spearman"][0, i] == pytest.approx(np.mean(rhos))
    single = sanity_checks.draw({"m": one["m"][:1]}, {"m": two["m"][:1]})
    assert np.isnan(single.other["spearman"]).all()


def test_rows_average_draws_before_images():
    draws = []
    for _ in range(3):
        values = fresh().uniform(-1, 1, (2, 6))
        values[1, 0] = np.nan
        draws.append(sanity_checks.Draw({"spearman": values}, {"spearman": values / 2}, {"a": 1, "b": 0}))
    first, second = sanity_checks.rows(["a", "b"], draws)
    stacked = np.stack([d.same["spearman"] for d in draws])
    assert first["value"] == pytest.approx(stacked[:, 0].mean()) and second["value"] == pytest.approx(stacked[:, 1, 1:].mean())
    assert first["low"] <= first["value"] <= first["high"] and first["other"] == pytest.approx(first["value"] / 2)
    assert second["draw_low"] == pytest.approx(np.nanmean(stacked[:, 1], axis=1).min()) and second["draws"][2] == pytest.approx(
        np.nanmean(stacked[2, 1])
    )
    assert (first["maps"], first["defined"], second["defined"], first["constant_maps"]) == (18, 18, 15, 3)


def test_the_experiment(tmp_path):
    overrides = ["limit=5", "batch_size=2", "method=[grad_cam_pp,random,constant,centre]"]
    sanity_checks.main(tmp_path / "out", overrides, every=6, seeds=2, shown=1)
    table = pd.read_csv(tmp_path / "out" / "sanity.csv")
    assert list(dict.fromkeys(table.layer)) == ["trained", "classifier.6", "features.8", "features.0"]
    assert dict(zip(table.layer, table.activations_change, strict=True)) == {
        "trained": False, "classifier.6": False, "features.8": True, "features.0": True,
    }  # fmt: skip
    assert (table[table.method != "grad_cam_pp"].value == 1).all() and (table[table.layer == "trained"].value == 1).all()
    ours = table[(table.method == "grad_cam_pp") & (table.stage > 0)]
    assert (ours.value < 0.99).all() and (ours.maps == 10).all()
    for name in ("sanity", "sanity_maps"):
        assert all((tmp_path / "out" / f"{name}.{form}").stat().st_size > 5000 for form in ("png", "pdf"))


def test_what_the_experiment_refuses(tmp_path):
    with pytest.raises(UserError, match="there are 3 images"):
        sanity_checks.main(tmp_path, ["limit=3"], shown=3)
    with pytest.raises(UserError, match="target=label"):
        sanity_checks.main(tmp_path, ["limit=3", "target=label"])


def test_defaults_give_way():
    assert sanity_checks.with_defaults(["limit=3", "method=[cam]"]) == ["limit=3", "method=[cam]"]
    assert "sample=64" in sanity_checks.with_defaults(["model=digits_gap"])
