"""Runs that end when a difference is settled: the same shard ends them, whoever computes, however often they are killed."""

import os
import signal

import numpy as np
import pandas as pd
import pytest
from builders import alone, fresh, launched, tiny_overrides
from commands import ForkedWorkers
from PIL import Image

from evalkit.analysis.load import load_runs
from evalkit.errors import UserError
from evalkit.launch import local
from evalkit.output.tables import caption
from evalkit.runs import folder as folder_module
from evalkit.runs import watch
from evalkit.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("reachable")
ASKS = ["until=centre-constant", "shard_size=1", "batch_size=1"]


@pytest.fixture(autouse=True)
def forked(monkeypatch):
    monkeypatch.setattr(local, "mp", ForkedWorkers)


@pytest.fixture
def bright(tmp_path):
    """Pictures on which the centre control loses everything and the constant one, which keeps the first rows, nothing."""
    pictures, rng = tmp_path / "bright", fresh()
    for name in "abc":
        (pictures / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(rng.integers(200, 256, (16, 16, 3), dtype=np.uint8)).save(pictures / name / f"{i}.png")
    return pictures


@pytest.fixture
def base(bright, tmp_path):
    return [*tiny_overrides(bright, tmp_path / "run", "theirs.TopRows"), *ASKS]


@pytest.fixture
def reference(base, tmp_path):
    rows = alone(base, tmp_path / "alone")
    assert rows["index"].is_monotonic_increasing and 9 <= rows["index"].nunique() < 16
    assert list(rows["index"].unique()) != list(range(rows["index"].nunique()))  # not the first ones
    return rows


def test_three_workers_stop_at_the_shard_of_one(base, tmp_path, reference):
    shared, _ = launched([*base, "devices=3"])
    pd.testing.assert_frame_equal(shared.rows(), reference, check_exact=True)
    assert shared.provenance["end"] == RunFolder(tmp_path / "alone").provenance["end"]
    files = [len(list((tmp_path / "run" / kind).glob("*.parquet"))) for kind in ("rows", "maps")]
    assert files == [shared.images] * 2  # a shard is an image, and those behind the end are gone
    assert not shared.missing() and launched(base)[1] == [(shared.images, shared.images)]


def test_the_record_is_that_of_the_rows(tmp_path, reference):
    run = load_runs([tmp_path / "alone"])[0]
    end = run.provenance["end"]
    rows = reference[reference.top_percent == 20]
    drops = {m: rows[rows.method == m].set_index("index") for m in ("centre", "constant")}
    lost = {m: 100 * np.maximum(0, table.prob_full - table.prob_masked) / table.prob_full for m, table in drops.items()}
    assert end["settled"] and end["n"] == end["shards"] == reference["index"].nunique()
    assert 0 < end["low"] < end["difference"] <= end["high"]
    assert end["difference"] == pytest.approx((lost["centre"] - lost["constant"]).mean(), abs=1e-9)
    text = " ".join(caption(run))
    assert f"Stopped after {run.provenance['end']['shards']} of 24 images, in random order: centre - constant is settled" in text
    assert "optimistic" in text and "INCOMPLETE" not in text


def test_a_killed_worker_and_an_interrupt_change_nothing(base, tmp_path, reference):
    killed = []

    def kill_one(_images: int) -> None:
        claims = sorted(file for file in (tmp_path / "run" / "claims").glob("*") if file.exists())
        if not killed and claims:  # the first shard of all, which the others need
            killed.append(int(claims[0].read_text().split()[1]))
            os.kill(killed[0], signal.SIGKILL)

    shared, _ = launched([*base, "devices=2"], kill_one)
    assert killed
    pd.testing.assert_frame_equal(shared.rows(), reference, check_exact=True)

    done = []

    def interrupt(_images: int) -> None:
        done.append(1)
        if len(done) == 4:
            raise KeyboardInterrupt

    again = [*base, f"out={tmp_path / 'again'}"]
    with pytest.raises(KeyboardInterrupt):
        launched(again, interrupt)
    with pytest.raises(UserError, match="is not finished"):
        load_runs([tmp_path / "again"])
    pd.testing.assert_frame_equal(launched(again)[0].rows(), reference, check_exact=True)


def test_a_worker_that_was_killed_before_it_looked(base, tmp_path, reference, monkeypatch):
    monkeypatch.setattr(watch.Watch, "over", lambda _self: False)
    everything = launched(base)[0].rows()
    monkeypatch.undo()
    assert everything["index"].nunique() == 24
    pd.testing.assert_frame_equal(launched(base)[0].rows(), reference, check_exact=True)


def test_the_record_and_the_caption_name_the_point(base, tmp_path):
    """The first point keeps nothing, and the second removes all: the third is looked at."""
    points = (
        "[{select: keep_top, top_percent: 0, fill: mean}, {select: remove_top, top_percent: 100, fill: mean}, {select: soft, fill: black}]"
    )
    own = [o for o in base if not o.startswith("protocol.")]
    shared, _ = launched([*own, "protocol.select=[]", "protocol.top_percent=[]", "protocol.fill=[]", f"protocol.points={points}"])
    assert shared.provenance["end"]["point"] == ["soft", None, "black"]
    assert "average drop in confidence at soft mask, black fill" in " ".join(caption(load_runs([tmp_path / "run"])[0]))
    assert "point" not in shared.provenance["identity"]["until"]


def test_another_point_is_another_run_and_controls_can_be_compared(folder, tmp_path):
    base = [*tiny_overrides(folder, tmp_path / "run"), "+control=[blurred]", "protocol.top_percent=[20,50]"]
    base = [*base, "method=[grad_cam]", "until=grad_cam-grad_cam+blurred", "until_point={select: keep_top, top_percent: 50, fill: black}"]
    base = [*base, "protocol.select=[keep_top]", "protocol.fill=[black]"]
    shared, _ = launched(base)
    end = shared.provenance["end"]
    assert (end["second"], end["point"]) == ("grad_cam+blurred", ["keep_top", 50.0, "black"])
    assert shared.provenance["identity"]["until"]["point"] == ["keep_top", 50.0, "black"]
    with pytest.raises(UserError, match=r"until\.point"):
        launched([one for one in base if not one.startswith("until_point")])


def test_a_run_that_does_not_settle_says_so(folder, tmp_path):
    base = tiny_overrides(folder, tmp_path / "run")
    launched([*base, "until=centre-random"])
    run = load_runs([tmp_path / "run"])[0]
    assert "Not settled by all 12 images: centre - random may be 0" in " ".join(caption(run))
    plain = alone(base, tmp_path / "plain")
    pd.testing.assert_frame_equal(run.rows, plain)
    facts = RunFolder(tmp_path / "plain").provenance["identity"]
    assert "until" not in facts and facts["seed"] is None and run.provenance["identity"]["until"]["pair"] == ["centre", "random"]
    with pytest.raises(UserError, match=r"until\.metric: average_drop -> win"):
        launched([*base, "until=centre-random", "until_metric=win"])


def test_a_shard_that_is_written_while_the_end_is_recorded_leaves_no_file(base, tmp_path, reference, monkeypatch):
    ended = RunFolder(tmp_path / "alone")
    end, publish = ended.provenance["end"], folder_module.publish
    monkeypatch.setattr(watch.Watch, "over", lambda _self: False)

    def publish_late(path, content):
        if path.parent.name == "rows" and path.name == f"shard-{end['shards']:05d}.parquet":  # its maps are there already
            RunFolder(tmp_path / "run").record_end(end)
        publish(path, content)

    monkeypatch.setattr(folder_module, "publish", publish_late)
    shared, _ = launched(base)
    for kind in ("rows", "maps"):
        assert len(list((tmp_path / "run" / kind).glob("*.parquet"))) == end["shards"]
    pd.testing.assert_frame_equal(shared.rows(), reference, check_exact=True)
