"""Runs with control versions of methods: their rows, names and identity, what is computed once, mistakes."""

import numpy as np
import pandas as pd
import pytest
import torch
from builders import save_pictures, tiny_overrides
from theirs import calls

from evalkit import Probe
from evalkit.analysis.evaluated import evaluate_run
from evalkit.analysis.load import load_runs
from evalkit.analysis.summary import compare, rival, summarise
from evalkit.config.compose import compose_jobs
from evalkit.control_names import base_of, control_of, under
from evalkit.errors import UserError
from evalkit.evaluation.session import open_session
from evalkit.launch.run import run_job
from evalkit.methods import postprocess
from evalkit.models import zoo
from evalkit.output.markdown import markdown
from evalkit.photos.gallery_choice import shown_methods
from evalkit.runs.folder import RunFolder
from evalkit.runs.stored_maps import StoredMaps

METHODS = ["method=[grad_cam,centre]", "+method.mine._target_=theirs.counted"]
CONTROLS = ["+control=[shuffled,blurred,noise]", "+control.noise._target_=evalkit.methods.postprocess.degraded", "+control.noise.share=0.1"]
KEYS = ["index", "method", "select", "top_percent", "fill"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    place = tmp_path_factory.mktemp("control")
    return [*tiny_overrides(save_pictures(place / "pictures"), place / "run"), *METHODS]


def run(overrides) -> RunFolder:
    (job,) = compose_jobs(overrides)
    return run_job(job)


@pytest.fixture(scope="module")
def controlled(base, tmp_path_factory) -> RunFolder:
    calls.clear()
    return run([*base, *CONTROLS, "maps=store", f"out={tmp_path_factory.mktemp('out') / 'controlled'}"])


def test_names():
    for base in ("grad_cam", "grad_cam@layer4.1"):
        name = under(base, "blurred")
        assert (base_of(name), control_of(name)) == (base, "blurred")
    assert under("grad_cam@layer4.1", "blurred") == "grad_cam+blurred@layer4.1"
    assert control_of("grad_cam") == control_of("grad_cam@a") == ""


def test_rows_are_those_of_a_method_that_processes_its_maps_itself(base, controlled, tmp_path):
    rows = controlled.rows().set_index(KEYS)
    versions = [f"{name}+{control}" for name in ("grad_cam", "mine") for control in ("shuffled", "blurred", "noise")]
    assert set(rows.index.unique("method")) == {"grad_cam", "mine", "centre", *versions}
    own = [f"+method.own_{name}._target_=theirs.{name}_grad_cam" for name in ("shuffled", "blurred")]
    alone = run([*base, *own, f"out={tmp_path / 'own'}"]).rows()
    alone = alone.assign(method=alone.method.str.replace("own_", "grad_cam+")).set_index(KEYS)
    shared = rows.index.intersection(alone.index)
    assert {"grad_cam+shuffled", "grad_cam+blurred", "grad_cam", "mine"} <= set(shared.unique("method"))
    pd.testing.assert_frame_equal(rows.loc[shared], alone.loc[shared], check_exact=True)


def test_the_base_map_is_computed_once(base, tmp_path):
    calls.clear()
    run([*base, f"out={tmp_path / 'plain'}"])
    plain = len(calls)
    calls.clear()
    run([*base, *CONTROLS, f"out={tmp_path / 'with'}"])
    assert len(calls) == plain > 0


def test_stored_base_maps_serve_all_controls(base, controlled, tmp_path):
    calls.clear()
    again = run([*base, *CONTROLS, "control.shuffled.seed=3", f"maps_from={controlled.path}", f"out={tmp_path / 'again'}"])
    fresh = run([*base, *CONTROLS, "control.shuffled.seed=3", f"out={tmp_path / 'fresh'}"])
    before = len(calls)
    assert before  # by the second alone
    pd.testing.assert_frame_equal(again.rows(), fresh.rows(), check_exact=True)
    stored = StoredMaps([controlled])
    assert "grad_cam" in stored and "grad_cam+blurred" not in stored
    maps = pd.concat(pd.read_parquet(file) for file in (controlled.path / "maps").glob("*.parquet"))
    assert set(maps[maps["map"].notna()].method) == {"grad_cam", "mine", "centre"}


def test_identity_is_that_of_earlier_runs_without_controls(base, controlled, tmp_path):
    plain = run([*base, f"out={tmp_path / 'plain'}"]).provenance["identity"]
    assert "control" not in plain and "control_of" not in plain and list(plain["method"]) == ["grad_cam", "centre", "mine"]
    theirs = controlled.provenance["identity"]
    assert {key for key in theirs if theirs[key] != plain.get(key)} == {"method"}
    assert theirs["method"]["mine+noise"] == {"_target_": "evalkit.methods.postprocess.degraded", "share": 0.1}
    with pytest.raises(UserError, match="control versions need their methods in the same run: choose another folder"):
        run([*base, *CONTROLS, f"out={tmp_path / 'plain'}"])
    with pytest.raises(UserError, match=r"control\.blurred|method\.grad_cam\+blurred\.share: 0\.1 -> 0\.2"):
        run([*base, *CONTROLS, "control.blurred.share=0.2", f"out={controlled.path}"])


def test_runs_with_other_methods_merge(base, controlled, tmp_path):
    other = run([*base[:-2], "method=[random,hires_cam]", f"out={tmp_path / 'other'}"])
    (merged,) = load_runs([controlled.path, other.path])
    assert merged.methods[:3] == ["grad_cam", "mine", "hires_cam"] and merged.methods[-2:] == ["centre", "random"]
    assert all(map(control_of, merged.methods[3:-2]))


def test_only_named_methods_get_controls(base, tmp_path):
    folder = run([*base, "+control=blurred", "control_of=[centre]", f"out={tmp_path / 'one'}"])
    assert load_runs([folder.path])[0].methods == ["grad_cam", "mine", "centre", "centre+blurred"]


def test_at_several_layers_each_map_has_its_own_version(base, tmp_path):
    several = [*base, "model.layer=[features.0,features]", "model.fuse=mean", "+control=[shuffled]"]
    folder = run([*several, "maps=store", f"out={tmp_path / 'layers'}"])
    (loaded,) = load_runs([folder.path])
    versions = [f"{name}{control}" for control in ("", "+shuffled") for name in ("grad_cam", "mine")]
    named = [f"{name}@{layer}" for name in versions for layer in ("features.0", "features", "mean")]
    assert sorted(loaded.methods) == sorted([*named, "centre"])
    assert folder.provenance["identity"]["method"]["mine+shuffled@mean"]["_target_"] == "evalkit.methods.postprocess.shuffled"
    maps = pd.concat(pd.read_parquet(file) for file in (folder.path / "maps").glob("*.parquet")).set_index(["method", "index"])
    for layer in ("features.0", "features"):
        of, version = (maps.loc[f"grad_cam{control}@{layer}"] for control in ("", "+shuffled"))
        np.testing.assert_array_equal(of.maximum, version.maximum)
        np.testing.assert_array_equal(of.zero_fraction, version.zero_fraction)
    again = run([*several, f"maps_from={folder.path}", f"out={tmp_path / 'again'}"])
    pd.testing.assert_frame_equal(again.rows(), folder.rows(), check_exact=True)


def test_tables_keep_the_numbers_of_the_methods(base, controlled, tmp_path):
    plain = load_runs([run([*base, f"out={tmp_path / 'plain'}"]).path])[0]
    run_with = load_runs([controlled.path])[0]
    key = ["method", "top_percent", "score", "metric"]
    before, after = (summarise(one).set_index(key)[["value", "low", "high", "against"]] for one in (plain, run_with))
    pd.testing.assert_frame_equal(before, after.loc[before.index])
    pairs = compare(run_with)[["first", "second"]].drop_duplicates().itertuples(index=False, name=None)
    found = set(pairs)
    assert {pair for pair in found if not any(map(control_of, pair))} == {("grad_cam", "mine"), ("grad_cam", "centre"), ("mine", "centre")}
    assert {pair for pair in found if any(map(control_of, pair))} == {
        (name, f"{name}+{control}") for name in ("grad_cam", "mine") for control in ("shuffled", "blurred", "noise")
    }
    assert shown_methods(run_with) == ["grad_cam", "mine"]
    assert "grad_cam+blurred" in markdown([evaluate_run(run_with)])


def test_rivals():
    methods = ["a", "a+blurred", "centre"]
    assert [rival(methods, one) for one in methods] == ["centre", "a", "a"]
    assert [rival(["a", "a+blurred"], one) for one in ("a", "a+blurred")] == ["a+blurred", "a"]


def test_a_control_that_writes_into_the_map_harms_nobody(base, controlled, tmp_path):
    folder = run([*base, "+control.rude._target_=theirs.zeroed", "maps=store", f"out={tmp_path / 'rude'}"])
    found, expected = (one.rows().query("method == 'grad_cam'").reset_index(drop=True) for one in (folder, controlled))
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    assert load_runs([folder.path])[0].maps.query("method == 'grad_cam+rude'").maximum.max() == 0


def test_coherency_explains_the_masked_image_with_the_control(base, tmp_path):
    folder = run([*base, "+control=[shuffled]", "measures=[coherency]", f"out={tmp_path / 'run'}"])
    maps = pd.concat(pd.read_parquet(file) for file in (folder.path / "maps").glob("*.parquet"))
    of = maps.set_index("method").coherency
    assert not np.allclose(of["grad_cam"].fillna(0), of["grad_cam+shuffled"].fillna(0))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["+control=[blured]"], "no control 'blured'; did you mean 'blurred'?"),
        (["+control=[blurred]", "control.blurred.shar=1"], "no key 'control.blurred.shar'.*did you mean 'control.blurred.share'"),
        (["control.mixed.share=1"], r"'control.mixed.share' is set, but mixed is not among the chosen controls: add it to \+control="),
        (["+control=[blurred]", "+control.blurred.radius=1"], "control blurred cannot be called with maps, a probe and"),
        (["+control.mine._target_=theirs.nothing_there"], "control.mine._target_"),
        (["+control.mine.share=1"], "control.mine has no _target_"),
        (["+control=[blurred]", "control_of=[gradcam]"], "control_of names 'gradcam'.*did you mean 'grad_cam'?"),
        (["control_of=[grad_cam]"], r"control_of names methods for controls, and none is chosen: add \+control="),
        (["+control=[blurred]", "method=[centre,random]", "~method.mine"], "every chosen method is a control itself"),
        (["+control=[blurred]", "control.blurred.share=0"], r"control\.blurred\.share=0 must be a number from 0 to 1, above 0"),
        (["+control=[shuffled]", "control.shuffled.seed=-1"], r"control\.shuffled\.seed=-1 must be"),
        (["+control.flip._target_=evalkit.methods.grad_cam"], "control flip: grad_cam takes the probe first.*called with maps and probe"),
        (
            ["+control.bad._target_=theirs.bad_control"],
            r"method grad_cam\+bad failed with .*'pixels'.*; a control is called with maps and probe",
        ),
        (["+control.flat._target_=theirs.flat"], r"method grad_cam\+flat must return maps \(\d, h, w\)"),
    ],
)
def test_mistakes(base, tmp_path, extra, message):
    with pytest.raises(UserError, match=message):
        run([*base, *extra, f"out={tmp_path / 'bad'}"])


def test_a_control_is_refused_before_images_are_read(monkeypatch):
    monkeypatch.setattr("evalkit.evaluation.session._chosen", lambda config: pytest.fail("images were read"))
    with pytest.raises(UserError, match=r"control\.mixed\.share=2 must be a number from 0 to 1"):
        open_session(compose_jobs(["+control=[mixed]", "control.mixed.share=2"])[0].config)


def test_versions_of_photographs_are_there_too(base, controlled):
    (job,) = compose_jobs([*base, *CONTROLS])
    net = zoo.load(job.config.model, torch.device("cpu")).net
    probe = Probe(net, torch.rand(1, 3, 16, 16))
    from evalkit.photos.session import open_photo_session

    session = open_photo_session(job.config)
    expected = postprocess.blurred(session.methods["grad_cam"](probe), probe)
    assert torch.allclose(session.methods["grad_cam+blurred"](probe), expected)
