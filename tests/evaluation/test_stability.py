"""Stability under noise and likeness to random networks against captum, loops in float64, and the controls' known values."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from builders import TinyGAP, tiny_overrides
from captum.metrics import sensitivity_max
from scipy.stats import spearmanr
from torch import Tensor, nn

from evalkit import Probe, SplitModel, methods
from evalkit.analysis.evaluated import evaluate_run
from evalkit.analysis.load import load_runs
from evalkit.analysis.map_summary import summarise_maps
from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.evaluation import measures
from evalkit.evaluation.session import open_session
from evalkit.evaluation.stability import change, noisy
from evalkit.launch.run import run_job
from evalkit.output.markdown import markdown
from evalkit.runs.provenance import identify

MEASURED = ["measures=[stability,randomisation]", "stability.copies=3", "stability.radius=0.1", "randomisation.draws=2"]


def test_noise_depends_on_the_image_alone():
    images, indices = torch.rand(4, 3, 9, 7, dtype=torch.float64), torch.tensor([3, 0, 17, 5])
    found = noisy(images, indices, 1, 0.05)
    order = torch.randperm(4)
    assert torch.equal(noisy(images[order], indices[order], 1, 0.05), found[order])
    for i in range(4):
        assert torch.equal(noisy(images[i : i + 1], indices[i : i + 1], 1, 0.05)[0], found[i])
    assert not torch.equal(noisy(images, indices, 2, 0.05), found) and not torch.equal(noisy(images, indices + 1, 1, 0.05), found)
    state = torch.get_rng_state()
    noisy(images, indices, 0, 0.05)
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_is_uniform_within_the_radius_and_images_stay_images():
    grey = torch.full((2, 3, 100, 100), 0.5, dtype=torch.float64)
    noise = (noisy(grey, torch.arange(2), 0, 0.1) - 0.5).flatten()
    assert noise.abs().max() <= 0.1 and noise.abs().max() > 0.0999
    assert abs(float(noise.mean())) < 0.001 and float(noise.std()) == pytest.approx(0.1 / 3**0.5, rel=0.02)
    for value in (0.0, 1.0):
        edge = noisy(torch.full((1, 3, 50, 50), value), torch.tensor([2]), 0, 0.2)
        assert edge.min() >= 0 and edge.max() <= 1 and 0.4 < float((edge != value).float().mean()) < 0.6


@pytest.mark.parametrize("n", [1, 3])
def test_the_largest_change_is_captums(n):
    net = SplitModel(TinyGAP().double().eval(), "features", mean=(0.5,) * 3, std=(0.3,) * 3)
    images, indices, radius, copies = torch.rand(n, 3, 12, 12, dtype=torch.float64), torch.arange(n) + 7, 0.1, 4
    probe = Probe(net, images, indices=indices)
    maps = methods.hires_cam(probe)
    found = torch.stack([change(maps, methods.hires_cam(probe.again(noisy(images, indices, copy, radius))))[0] for copy in range(copies)])

    def explain(inputs: Tensor | tuple[Tensor]) -> Tensor | tuple[Tensor]:  # captum hands over a tuple, then each image `copies` times
        if isinstance(inputs, tuple):
            return (explain(inputs[0]),)
        return methods.hires_cam(Probe(net, inputs, probe.targets.repeat_interleave(len(inputs) // n)))

    def perturb(inputs: Tensor) -> Tensor:
        return torch.stack([noisy(image[None], indices[k // copies, None], k % copies, radius)[0] for k, image in enumerate(inputs)])

    expected = sensitivity_max(explain, images, perturb_func=perturb, n_perturb_samples=copies)
    assert found.amax(0).numpy() == pytest.approx(expected.numpy(), rel=1e-9) and (found > 0).all()


def test_changes_that_have_no_size():
    zero, maps = torch.zeros(1, 4, 4), torch.rand(1, 4, 4) + 0.1
    bad = maps.clone()
    bad[0, 0, 0] = torch.nan
    assert [float(value) for value in change(zero, zero)] == [0, 1]  # nothing changed
    assert [float(value) for value in change(maps, maps)] == [0, 1]
    assert all(value.isnan().all() for value in change(zero, maps))  # relative to nothing
    distance, rho = change(maps, zero)
    assert float(distance) == pytest.approx(1) and rho.isnan().all()
    assert all(value.isnan().all() for pair in ((maps, bad), (bad, maps), (bad, bad)) for value in change(*pair))
    scaled = change(maps, 1.5 * maps)
    assert float(scaled[0]) == pytest.approx(0.5) and float(scaled[1]) == pytest.approx(1)
    assert float(change(1e-9 * maps, 1.5e-9 * maps)[0]) == pytest.approx(0.5)


def reset(module: nn.Module, names: list[str], seed: int) -> nn.Module:
    """Re-initialise layers in this order, each from the numbers of its place."""
    random = copy.deepcopy(module)
    for place, name in enumerate(names):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence([seed, place]).generate_state(1)[0]))
            random.get_submodule(name).reset_parameters()
    return random


@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_run_holds_what_loops_give(folder, tmp_path, batch_size):
    overrides = [*tiny_overrides(folder, tmp_path / "run", "builders.TinyDouble"), *MEASURED, "target=label", f"batch_size={batch_size}"]
    (job,) = compose_jobs([*overrides, "method=[grad_cam,hires_cam,random,constant,centre]", "limit=6"])
    run_job(job)
    (run,) = load_runs([tmp_path / "run"])
    session, config = open_session(job.config), job.config.model
    cut = partial(SplitModel, layer="features", mean=config.mean, std=config.std)
    layers = ["classifier.4", "classifier.1", "features.0"]
    networks = {
        "randomised_output": [cut(reset(session.model.module, layers[:1], seed)) for seed in range(2)],
        "randomised_all": [cut(reset(session.model.module, layers, seed)) for seed in range(2)],
    }
    for row in run.maps[run.maps.method.isin(["grad_cam", "hires_cam"])].itertuples():
        explain, position = getattr(methods, row.method), torch.tensor([row.index])
        image, target = session.model.preprocess(session.source.load(row.index))[None].double() / 255, [int(row.target)]
        first = explain(Probe(session.model.net, image, target)).numpy()
        copies = [explain(Probe(session.model.net, noisy(image, position, c, 0.1), target)).numpy() for c in range(3)]
        if first.max() > first.min():
            largest = max(np.linalg.norm(other - first) for other in copies) / np.linalg.norm(first)
            assert row.max_sensitivity == pytest.approx(largest, rel=1e-4)
        same = rank_correlation(first, copies)
        assert row.stability == pytest.approx(same, abs=1e-6, nan_ok=True)
        for column, nets in networks.items():
            others = [explain(Probe(net, image, target)).numpy() for net in nets]
            assert getattr(row, column) == pytest.approx(rank_correlation(first, others), abs=1e-6, nan_ok=True)
    controls = run.maps[run.maps.method.isin(["random", "constant", "centre"])]
    assert (controls.max_sensitivity == 0).all()  # also the random control: it is seeded by the image's index
    assert (controls[["stability", "randomised_output", "randomised_all"]] == 1).all().all() and len(controls) == 18
    found = summarise_maps(run).set_index(["metric", "method"])
    lower = ["max_sensitivity", "randomised_output", "randomised_all"]
    assert found.lower_is_better[lower].all() and not found.lower_is_better["stability"].any()
    text = markdown([evaluate_run(run)])
    assert "3 copies of the image with noise of at most 0.1" in text and "re-initialised, 2 of each kind" in text
    assert "Max-sensitivity to noise (lower is better)" in text and "Stability under noise (higher is better)" in text
    assert "a random output layer (lower is better)" in text and "random weights (lower is better)" in text
    values = run.maps[run.maps.method == "hires_cam"].stability
    assert (
        found.value["stability", "hires_cam"] == pytest.approx(values.mean()) and found.n["stability", "hires_cam"] == values.notna().sum()
    )


def rank_correlation(first: np.ndarray, others: list[np.ndarray]) -> float:
    """Return the mean over other maps; nan where one is constant, unless it equals the first."""
    found = []
    for other in others:
        constant = min(np.ptp(first), np.ptp(other)) == 0
        found.append(1.0 if np.array_equal(first, other) else np.nan if constant else spearmanr(first, other, axis=None).statistic)
    return float(np.mean(found))


def test_each_method_is_called_once_for_each_copy_and_network(folder, tmp_path, monkeypatch):
    calls = []
    original = methods.grad_cam
    monkeypatch.setattr("evalkit.methods.grad_cam", lambda probe: calls.append(len(probe.images)) or original(probe))
    base = [
        *tiny_overrides(folder, tmp_path / "run"),
        "limit=4",
        "batch_size=1",
        "method=[]",
        "+method.mine._target_=evalkit.methods.grad_cam",
    ]
    base = [override for override in base if override != "method=[]"]
    for chosen, price in (
        (["measures=[]"], 1),
        (MEASURED, 1 + 3 + 2 * 2),
        (["measures=[randomisation]"], 3),
        (["measures=[stability]"], 11),
    ):
        calls.clear()
        (job,) = compose_jobs([*base, "method=[mine]", *chosen, f"out={tmp_path / str(price)}"])
        open_session(job.config)
        opening = len(calls)
        run_job(job)
        assert len(calls) - 2 * opening == 4 * price


def test_several_layers_are_explained_in_the_random_networks_too(folder, tmp_path):
    layers = ["model.layer=[features.0,features]", "model.fuse=mean", "method=[grad_cam,centre]", "limit=4"]
    base = [*tiny_overrides(folder, tmp_path / "run", "builders.TinyDouble"), *MEASURED]
    run_job(compose_jobs([*base, *layers])[0])
    (run,) = load_runs([tmp_path / "run"])
    run_job(compose_jobs([*base, "model.layer=features.0", "method=[grad_cam]", "limit=4", f"out={tmp_path / 'alone'}"])[0])
    (alone,) = load_runs([tmp_path / "alone"])
    columns = ["max_sensitivity", "stability", "randomised_output", "randomised_all"]
    several = run.maps[run.maps.method == "grad_cam@features.0"][columns].to_numpy()
    assert several == pytest.approx(alone.maps[columns].to_numpy(), abs=1e-9, nan_ok=True)
    assert set(run.methods) == {"grad_cam@features.0", "grad_cam@features", "grad_cam@mean", "centre"}


def test_what_cannot_be_randomised_and_what_is_not_chosen(folder, tmp_path):
    base = tiny_overrides(folder, tmp_path / "run")

    def facts(*more: str) -> dict[str, object]:
        return dict(identify(open_session(compose_jobs([*base, *more])[0].config)).facts)

    assert facts("stability.copies=4", "randomisation.draws=3") == facts()
    chosen = facts(*MEASURED)
    assert (chosen["stability"], chosen["randomisation"]) == ({"copies": 3, "radius": 0.1}, {"draws": 2})
    for wrong in ("stability.radius=0", "stability.radius=1.5", "stability.copies=0", "randomisation.draws=0"):
        with pytest.raises(UserError, match=wrong.replace(".", r"\.")):
            compose_jobs([*base, wrong])


@pytest.mark.parametrize("where", ["noisy", "spearman"])
def test_a_batch_that_does_not_fit_is_split_without_changing_a_number(folder, tmp_path, monkeypatch, where):
    base = [*tiny_overrides(folder, tmp_path / "run", "builders.TinyDouble"), *MEASURED, "method=[grad_cam,random]", "limit=5"]
    run_job(compose_jobs(base)[0])
    original = getattr(measures, where)

    def full(images: Tensor, *others: object) -> object:
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(images, *others)

    monkeypatch.setattr(measures, where, full)
    run_job(compose_jobs([*base, f"out={tmp_path / 'split'}"])[0])
    whole, split = (load_runs([tmp_path / name])[0].maps for name in ("run", "split"))
    columns = ["max_sensitivity", "stability", "randomised_output", "randomised_all"]
    assert split[columns].to_numpy() == pytest.approx(whole[columns].to_numpy(), abs=1e-9, nan_ok=True)
    assert (split.status == whole.status).all() and len(split) == 10
