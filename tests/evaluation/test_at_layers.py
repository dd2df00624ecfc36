"""Runs that explain several layers: the rows of one run a layer, fused maps, names, folders, mistakes."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from builders import finished_rows, save_pictures, tiny_overrides
from theirs import calls
from torch import nn

from evalkit import Probe, methods, protocol
from evalkit.analysis.evaluated import evaluate_run
from evalkit.analysis.load import load_runs
from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.evaluation.at_layers import at_layers
from evalkit.launch.run import run_job
from evalkit.methods.layers import fuse
from evalkit.models import zoo
from evalkit.output.latex import latex
from evalkit.output.tables import comparison_table, several_layers, title
from evalkit.photos.gallery import report_runs
from evalkit.runs.folder import RunFolder

LAYERS = ("features.0", "features.1", "features")
SEVERAL = f"model.layer=[{','.join(LAYERS)}]"
METHODS = "method=[ablation_cam,grad_cam,gradient,random,constant,centre]"
KEYS = ["index", "method", "select", "top_percent", "fill"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("layers")
    save_pictures(place / "pictures")
    return place


@pytest.fixture(scope="module")
def base(place):
    mine = ["+method.mine._target_=theirs.counted", "+method.own._target_=theirs.of_the_image"]
    return [*tiny_overrides(place / "pictures", place / "run"), METHODS, *mine, "maps=store", "measures=[coherency]"]


@pytest.fixture(scope="module")
def several(base, place) -> RunFolder:
    (job,) = compose_jobs([*base, SEVERAL, "model.fuse=mean", f"out={place / 'several'}"])
    return run_job(job)


def stored(folder: RunFolder) -> pd.DataFrame:
    return pd.concat(pd.read_parquet(file) for file in sorted((folder.path / "maps").glob("*.parquet"))).set_index(["index", "method"])


def test_rows_are_those_of_one_run_a_layer(base, several, place):
    rows = several.rows().set_index(KEYS)
    at_layer = [f"{name}@{place}" for name in ("ablation_cam", "grad_cam", "mine") for place in (*LAYERS, "mean")]
    once = ["gradient", "random", "constant", "centre", "own"]
    assert sorted(rows.index.unique("method")) == sorted([*at_layer, *once])
    for layer in LAYERS:
        (job,) = compose_jobs([*base, f"model.layer={layer}", f"out={place / layer}"])
        alone = run_job(job)
        expected = alone.rows()
        expected.method = [name if name in once else f"{name}@{layer}" for name in expected.method]
        if layer != LAYERS[-1]:  # random and centre have the resolution of the last layer
            expected = expected[~expected.method.isin(["random", "centre"])]
        expected = expected.set_index(KEYS)
        ours = rows.loc[expected.index]
        assert len(ours) == len(expected) > 0
        exact = ["image_id", "label", "predicted", "target", "status", "kept_fraction", "positive_fraction", "rank_gap"]
        pd.testing.assert_frame_equal(ours[exact], expected[exact])  # the maps are the same bit by bit, and so the masks
        pd.testing.assert_frame_equal(ours, expected, rtol=1e-5, atol=1e-6)  # scores come from the network cut at the last layer
        if layer == LAYERS[-1]:
            pd.testing.assert_frame_equal(ours, expected, check_exact=True)
        maps, theirs = stored(several), stored(alone)
        for index, name in (("ablation_cam", "ablation_cam"), ("grad_cam", "grad_cam"), ("mine", "mine")):
            for image in range(12):
                assert np.array_equal(maps.loc[(image, f"{index}@{layer}"), "map"], theirs.loc[(image, name), "map"])
            for column in ("coherency", "complexity"):
                pair = [table.xs(key, level="method")[column] for table, key in ((maps, f"{index}@{layer}"), (theirs, name))]
                pd.testing.assert_series_equal(*pair)


def test_fused_maps_are_the_mean_of_the_stored_ones(several):
    maps = stored(several)
    for name in ("ablation_cam", "grad_cam", "mine"):
        for image in range(12):
            expected = np.zeros((16, 16))
            for layer in LAYERS:
                row = maps.loc[(image, f"{name}@{layer}")]
                low = torch.from_numpy(row["map"].reshape(row.height, row.width).copy()).double()
                span = float(low.max() - low.min())
                scaled = (low - low.min()) / span if span else torch.zeros_like(low)
                large = nn.functional.interpolate(scaled[None, None], size=(16, 16), mode="bilinear")[0, 0]
                expected += large.numpy() / 3
            row = maps.loc[(image, f"{name}@mean")]
            assert (row.height, row.width) == (16, 16)
            np.testing.assert_allclose(row["map"].reshape(16, 16), expected, atol=1e-6)


def test_a_method_is_called_once_for_each_layer_and_batch(base, tmp_path):
    calls.clear()
    overrides = [o for o in base if not o.startswith(("method=", "measures="))]
    finished_rows([*overrides, SEVERAL, "model.fuse=max", "method=[]", "batch_size=4", "shard_size=12", f"out={tmp_path / 'counted'}"])
    assert calls[1:].count(4) == 3 * 3  # three batches at three layers; the first call is that of one image, for its time
    assert len(calls) == 3 * 3 + 3


def test_an_interrupted_run_resumes_to_the_same_rows(base, several, tmp_path):
    overrides = [*base, SEVERAL, "model.fuse=mean", f"out={tmp_path / 'cut'}"]
    (job,) = compose_jobs(overrides)

    def stop(images: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(job, stop)
    assert RunFolder(tmp_path / "cut").missing(maps=True) == [1, 2]
    pd.testing.assert_frame_equal(run_job(job).rows(), several.rows())


def test_stored_maps_serve_another_threshold_and_another_fusion(base, several, place, tmp_path):
    plain = [o for o in base if o not in ("maps=store", "measures=[coherency]")]
    other = [*plain, SEVERAL, "protocol.top_percent=[10]"]
    calls.clear()
    reused = finished_rows([*other, "model.fuse=mean", f"maps_from={several.path}", f"out={tmp_path / 'reused'}"])
    assert not calls
    fresh = finished_rows([*other, "model.fuse=mean", f"out={tmp_path / 'fresh'}"])
    pd.testing.assert_frame_equal(reused, fresh)
    largest = finished_rows([*other, "model.fuse=max", f"maps_from={several.path}", f"out={tmp_path / 'max'}"])
    assert set(fresh.method) ^ set(largest.method) == {
        f"{name}@{how}" for name in ("ablation_cam", "grad_cam", "mine") for how in ("mean", "max")
    }
    same = ~largest.method.str.endswith("@max")
    pd.testing.assert_frame_equal(largest[same].reset_index(drop=True), fresh[~fresh.method.str.endswith("@mean")].reset_index(drop=True))
    with pytest.raises(UserError, match=r"holds other maps \(model.layer: "):
        finished_rows([*plain, "model.layer=[features.0,features]", f"maps_from={several.path}", f"out={tmp_path / 'two'}"])


def test_one_layer_in_a_list_is_that_layer(base, place, tmp_path):
    (listed,), (alone,) = (compose_jobs([*base, f"model.layer={layer}"]) for layer in ("[features.1]", "features.1"))
    assert listed.config == alone.config and listed.config.model.layer == "features.1"
    assert listed.config.model.in_identity() == alone.config.model.in_identity()
    first = finished_rows([*base, "model.layer=[features.1]", f"out={tmp_path / 'one'}"])
    pd.testing.assert_frame_equal(finished_rows([*base, "model.layer=features.1", f"out={tmp_path / 'one'}"]), first)


def test_what_is_proposed_joins_the_others(base):
    (job,) = compose_jobs([*base, "model.layer=[features.0,auto]"])
    assert job.config.model.layers == ("features.0", "features.1")
    assert "layer:\n  - features.0\n  - features.1\n" in job.yaml
    with pytest.raises(UserError, match=r"model.layer=\[features.1,auto\] names 'features.1' twice, since auto is that layer"):
        compose_jobs([*base, "model.layer=[features.1,auto]"])


def test_runs_of_the_same_layers_merge_and_others_are_refused(base, several, tmp_path):
    overrides = [*[o for o in base if not o.startswith("+method")], SEVERAL, "model.fuse=mean"]
    with pytest.raises(UserError) as refused:
        finished_rows([*overrides, "method=[hires_cam,random]", f"out={several.path}"])
    assert "'method=[hires_cam]'" in str(refused.value) and "@" not in str(refused.value).partition("; compute")[2]
    finished_rows([*overrides, "method=[hires_cam]", f"out={tmp_path / 'further'}"])
    (merged,) = load_runs([several.path, tmp_path / "further"])
    assert merged.methods[:4] == [f"ablation_cam@{layer}" for layer in (*LAYERS, "mean")]
    assert {f"hires_cam@{layer}" for layer in (*LAYERS, "mean")} <= set(merged.methods)
    assert merged.methods[-3:] == ["random", "constant", "centre"] and merged.counts()["scored"] == 12
    with pytest.raises(
        UserError, match=r"another run \(model.layer: \['features.0', .*\] -> \['features.0', 'features'\]\); choose another"
    ):
        finished_rows([*base, "model.fuse=mean", "model.layer=[features.0,features]", f"out={several.path}"])


def test_an_edited_method_is_named(base, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "at_layers_edited.py").write_text("def mine(probe):\n    return probe.activations.sum(1)\n")
    overrides = [
        *[o for o in base if not o.startswith("+method")],
        "+method.mine._target_=at_layers_edited.mine",
        SEVERAL,
        f"out={tmp_path / 'run'}",
    ]
    finished_rows([*overrides, "method=[random]"])
    (tmp_path / "at_layers_edited.py").write_text("def mine(probe):\n    return -probe.activations.sum(1)\n")
    with pytest.raises(UserError, match=r"holds another run \(code\.method\.mine: .*a folder holds one version of code\.method\.mine"):
        finished_rows([*overrides, "method=[random]"])


def test_tables_and_report_tell_the_layers_apart(several, tmp_path):
    (run,) = load_runs([several.path])
    evaluated = evaluate_run(run)
    assert title(run) == "builders.TinyFC with RANDOM WEIGHTS at layers features.0, features.1, features on image_folder"
    assert several_layers(run)[0].startswith("method@layer: a method's maps at that layer; method@mean: the mean over the layers")
    tests = comparison_table(evaluated, run.points[0])
    assert {line[0] for line in tests[1:]} == {
        f"ablation_cam@features.0 - {other}"
        for other in ("ablation_cam@features.1", "ablation_cam@features", "ablation_cam@mean", "centre")
    }
    assert r"ablation\_cam@features.0 &" in latex([evaluated])
    report_runs([evaluated], tmp_path / "report.html", each=1)
    page = (tmp_path / "report.html").read_text()
    assert "grad_cam@features.1" in page and '"name": "ablation_cam@features.0"' in page.replace('":"', '": "')
    assert all(f"{name}@{layer}" in run.seconds_per_map() for name in ("mine", "grad_cam") for layer in (*LAYERS, "mean"))
    record = json.loads((several.path / "provenance.json").read_text())
    assert record["identity"]["model"]["layer"] == list(LAYERS) and record["identity"]["model"]["fuse"] == "mean"


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["model.layer=[features,features]"], r"model.layer=\[features,features\] names 'features' twice"),
        (["model.layer=[]"], r"model.layer=\[\] names no layer"),
        (["model.layer=[features,featurs.1]"], "layer 'featurs.1' is not in TinyFC; did you mean 'features.1'"),
        (["model.layer=[features,classifier]"], r"layer 'classifier' puts out \(1, 5\)"),
        (["model.fuse=mean"], "model.fuse=mean needs several layers, and model.layer=features is one"),
        (["model.fuse=mean", "model.layer=[features]"], "model.fuse=mean needs several layers"),
        (["model.fuse=sum", SEVERAL], "model.fuse=sum is not valid: give mean or max, or null"),
        ([SEVERAL, "method=[cam]"], "cam needs global average pooling directly on layer 'features.0'"),
        (
            [SEVERAL, "method=[]", "+method.mine._target_=theirs.fails_at_large_maps"],
            r"the maps are too large for this method \(at layer 'features.0'\)",
        ),
        (
            [SEVERAL, "method=[]", "+method.mine._target_=theirs.vandal", "+method.mine.name=activations"],
            "method mine@features.0 writes into",
        ),
        ([SEVERAL, "method=[]", "+method.mine._target_=theirs.bad_shape"], r"method mine@features.0 must return maps \(4, h, w\)"),
    ],
)
def test_mistakes_get_one_sentence(folder, tmp_path, extra, says):
    with pytest.raises(UserError, match=says):
        finished_rows([*tiny_overrides(folder, tmp_path / "run"), *extra])


def test_names_that_would_be_the_same():
    nets = [None, None]
    with pytest.raises(UserError, match=r"model\.fuse=mean names its maps as those of layer 'mean'"):
        at_layers({"grad_cam": methods.grad_cam}, ("mean", "features"), nets, "mean")
    with pytest.raises(UserError, match="method a@b: with several layers, '@' stands between a method and its layer"):
        at_layers({"a@b": methods.grad_cam}, ("features.0", "features"), nets, None)


def test_a_probe_at_another_layer(folder, tmp_path):
    (job,) = compose_jobs([*tiny_overrides(folder, tmp_path / "run"), SEVERAL])
    model = zoo.load(job.config.model, torch.device("cpu"))
    assert [net.layer for net in model.nets] == list(LAYERS) and model.net is model.nets[-1]
    images, targets = torch.rand(3, 3, 16, 16), torch.tensor([4, 0, 2])
    probe = Probe(model.net, images, targets, torch.tensor([7, 8, 9]))
    other = probe.at(model.nets[0])
    assert probe.at(model.nets[0]) is other and probe.at(model.net) is probe
    assert torch.equal(other.targets, targets) and other.indices.tolist() == [7, 8, 9] and other.images is probe.images
    assert torch.equal(other.drops, Probe(model.nets[0], images, targets).drops)
    torch.testing.assert_close(other.logits, probe.logits)
    assert not probe.written(by_value=True)
    other.activations.numpy()[0, 0, 0, 0] += 1
    assert probe.written(by_value=True) == ["activations"]
    maps = [methods.layer_cam(Probe(net, images, targets)) for net in model.nets]
    named = at_layers({"layer_cam": methods.layer_cam}, LAYERS, model.nets, "max")
    probe = Probe(model.net, images, targets)
    assert torch.equal(named["layer_cam@max"](probe), fuse(maps, (16, 16), "max"))
    assert torch.equal(protocol.upsample(named["layer_cam@max"](probe), (16, 16)), named["layer_cam@max"](probe))
