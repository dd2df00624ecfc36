"""Maps of a finished run serve another: the same rows, and nothing is explained twice."""

import pandas as pd
import pytest
from builders import save_pictures, tiny_overrides
from theirs import calls

from evalkit.analysis.load import load_runs
from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.launch.run import run_job
from evalkit.runs.folder import RunFolder
from evalkit.runs.stored_maps import StoredMaps


def run(overrides) -> pd.DataFrame:
    (job,) = compose_jobs(overrides)
    return run_job(job).rows()


@pytest.fixture(scope="module")
def overrides(tmp_path_factory):
    place = tmp_path_factory.mktemp("stored")
    method = ["+method.counted._target_=theirs.counted", "method=[ablation_cam,guided_grad_cam,random]"]
    return [*tiny_overrides(save_pictures(place / "pictures"), place / "first"), *method]


@pytest.fixture(scope="module")
def finished(overrides, tmp_path_factory):
    first = tmp_path_factory.mktemp("finished") / "first"
    run([*overrides, "maps=store", f"out={first}"])
    return first


@pytest.fixture
def first(finished):
    calls.clear()
    return finished


SWEEP = ["protocol.top_percent=[5,35,80]", "protocol.select=[keep_top,remove_top,soft]", "protocol.fill=[black,mean,blur]"]


@pytest.mark.parametrize("extra", [[], ["sample=5"], ["target=predicted", "images=correct"], ["shard_size=3"]])
def test_a_sweep_from_stored_maps_gives_identical_rows(overrides, first, tmp_path, extra):
    again = run([*overrides, *SWEEP, *extra, f"maps_from={first}", f"out={tmp_path / 'again'}"])
    assert not calls
    fresh = run([*overrides, *SWEEP, *extra, f"out={tmp_path / 'fresh'}"])
    assert calls
    if extra:  # other batches round otherwise
        pd.testing.assert_frame_equal(again, fresh, rtol=1e-4, atol=1e-6)
    else:
        pd.testing.assert_frame_equal(again, fresh, check_exact=True)
    identities = {RunFolder(tmp_path / name).provenance["identity_hash"] for name in ("again", "fresh")}
    assert len(identities) == 1
    (loaded,) = load_runs([tmp_path / "again"])
    assert all(pd.isna(seconds) for seconds in loaded.seconds_per_map().values())


def test_methods_that_the_run_lacks_are_computed(overrides, first, tmp_path):
    more = [*overrides, "method=[ablation_cam,guided_grad_cam,random,hires_cam]"]
    again = run([*more, f"maps_from={first}", f"out={tmp_path / 'again'}"])
    pd.testing.assert_frame_equal(again, run([*more, f"out={tmp_path / 'fresh'}"]), check_exact=True)


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["method.counted.power=2"], "holds other maps .*method.counted.power: None -> 2|holds other maps"),
        (["precision=bf16"], "precision: fp32 -> bf16"),
        (["model.seed=1"], "weights_hash"),
        (["target=3"], "holds no map of .* for image . and class 3"),
        (["method=[hires_cam]", "~method.counted"], "none of which this run asks for"),
    ],
)
def test_maps_of_another_kind_are_refused(overrides, first, tmp_path, extra, says):
    extra = [f"+{one}" if one.startswith("method.counted") else one for one in extra]
    with pytest.raises(UserError, match=says):
        run([*overrides, *extra, f"maps_from={first}", f"out={tmp_path / 'again'}"])


def test_runs_without_maps_are_refused(overrides, tmp_path):
    run([*overrides, f"out={tmp_path / 'first'}"])
    with pytest.raises(UserError, match="lacks the maps of 3 shards: run its command again with maps=store"):
        StoredMaps([RunFolder(tmp_path / "first")])
    with pytest.raises(UserError, match="is not a run folder"):
        run([*overrides, f"maps_from={tmp_path}", f"out={tmp_path / 'again'}"])
