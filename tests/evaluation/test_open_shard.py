"""A run that is stopped within a shard goes on after what was finished of it, to the rows of an uninterrupted run."""

import json
import shutil
import signal
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from builders import finished_rows, launched, tiny_overrides
from commands import through_main

from evalkit.config.compose import compose_jobs
from evalkit.evaluation import loop, open_shard
from evalkit.evaluation.open_shard import summed
from evalkit.evaluation.pace import Trial
from evalkit.evaluation.rows import ShardRows
from evalkit.launch.run import prepare, run_job
from evalkit.runs.folder import RunFolder

ONE_SHARD = ["shard_size=512", "batch_size=2"]


def fast(*_) -> Trial:
    return Trial(0.0, ShardRows(), {})


class Killed(BaseException):
    """Stands for SIGKILL: nothing handles it."""


def killed(monkeypatch, overrides, after: int, how: type[BaseException] = Killed) -> int:
    """Run until so many batches are finished; returns how many images were kept. Batches are never divided."""
    computed = []
    evaluate = loop.evaluate

    def until_then(*arguments):
        if len(computed) == after:
            raise how
        evaluate(*arguments)
        computed.append(1)

    with monkeypatch.context() as patch, pytest.raises(how):
        patch.setattr(loop, "evaluate", until_then)
        patch.setattr(loop, "_trial", fast)
        run_job(compose_jobs(overrides)[0])
    return kept(overrides)


def kept(overrides) -> int:
    (job,) = compose_jobs(overrides)
    return 12 - sum(RunFolder(job.config.out).images_left(maps=job.config.maps == "store").values())


@pytest.fixture
def always(monkeypatch):
    """Keep every batch, as if each took long, without dividing it."""
    monkeypatch.setattr(open_shard.OpenShard, "due", True)


@pytest.fixture
def whole(folder, tmp_path):
    return finished_rows([*tiny_overrides(folder, tmp_path / "whole"), *ONE_SHARD])


def continued(overrides) -> tuple[pd.DataFrame, int]:
    """The rows of the finished run, and the number of images that it computed now."""
    images = []
    run, announced = launched(overrides, images.append)
    assert sum(images) == 12 - announced[0][1]
    return run.rows(), sum(images)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("maps", ["none", "store"])
def test_a_killed_run_goes_on_within_its_shard(folder, tmp_path, monkeypatch, whole, maps):
    overrides = [*tiny_overrides(folder, tmp_path / "run"), *ONE_SHARD, f"maps={maps}"]
    assert killed(monkeypatch, overrides, after=2) == 4
    assert killed(monkeypatch, overrides, after=2) == 8
    run = RunFolder(tmp_path / "run")
    assert run.missing() == [0] and run.rows().empty  # a shard is complete or absent
    rows, computed = continued(overrides)
    assert computed == 4
    pd.testing.assert_frame_equal(rows, whole, check_exact=True)
    assert not list((tmp_path / "run" / "partial").rglob("*.parquet"))
    stored = pd.read_parquet(tmp_path / "run" / "maps")
    assert stored["map"].notna().all() if maps == "store" else stored["map"].isna().all()
    undisturbed = finished_rows([*overrides, f"out={tmp_path / 'undisturbed'}"])
    pd.testing.assert_frame_equal(undisturbed, rows, check_exact=True)
    pd.testing.assert_frame_equal(stored, pd.read_parquet(tmp_path / "undisturbed" / "maps"), check_exact=True)


def test_only_what_takes_long_is_kept_meanwhile(folder, tmp_path, monkeypatch):
    """The tiny network is fast: a kill in its only shard loses it, and writes no file beside it."""
    overrides = [*tiny_overrides(folder, tmp_path / "run"), *ONE_SHARD]
    assert killed(monkeypatch, overrides, after=3) == 0
    assert not (tmp_path / "run" / "partial").exists()


def test_a_run_that_is_interrupted_keeps_what_is_finished(folder, tmp_path, monkeypatch, whole):
    overrides = [*tiny_overrides(folder, tmp_path / "run"), *ONE_SHARD]
    assert killed(monkeypatch, overrides, 3, KeyboardInterrupt) == 6
    rows, computed = continued(overrides)
    assert computed == 6
    pd.testing.assert_frame_equal(rows, whole, check_exact=True)


def test_interrupted_at_any_moment_it_stays_consistent(folder, tmp_path, monkeypatch, whole):
    """Between any two steps of keeping and of publishing."""
    for number, name in enumerate(("write_part", "discard_parts", "write_shard")):
        for before in (True, False):
            overrides = [*tiny_overrides(folder, tmp_path / f"{number}{before}"), *ONE_SHARD]
            original = getattr(RunFolder, name)
            interrupted = []

            def once(self, *arguments, original=original, interrupted=interrupted, before=before):
                first = not interrupted
                interrupted.append(1)
                if first and before:
                    raise KeyboardInterrupt
                original(self, *arguments)
                if first:
                    raise KeyboardInterrupt

            with monkeypatch.context() as patch:
                patch.setattr(RunFolder, name, once)
                patch.setattr(open_shard.OpenShard, "due", True)
                with pytest.raises(KeyboardInterrupt):
                    run_job(compose_jobs(overrides)[0])
            assert interrupted
            pd.testing.assert_frame_equal(finished_rows(overrides), whole, check_exact=True)
            assert not list(RunFolder(compose_jobs(overrides)[0].config.out).path.rglob("partial/*/*.parquet"))


@pytest.mark.usefixtures("always")
def test_slow_images_are_kept_one_by_one(folder, tmp_path, monkeypatch, whole):
    """A batch may take an hour: it is divided, so that a stop loses less."""
    overrides = [*tiny_overrides(folder, tmp_path / "run"), "shard_size=512", "batch_size=12"]
    tried = loop._trial
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_trial", lambda *arguments: replace(tried(*arguments), seconds=20.0))
        images: list[int] = []
        run_job(compose_jobs([*overrides, f"out={tmp_path / 'slow'}"])[0], images.append)
        assert images == [1] * 12
        stopped: list[int] = []

        def stop(_images: int) -> None:
            stopped.append(1)
            if len(stopped) == 5:
                raise Killed

        with pytest.raises(Killed):
            run_job(compose_jobs(overrides)[0], stop)
    assert kept(overrides) == 4
    for name in ("slow", "run"):
        rows = finished_rows([*overrides, f"out={tmp_path / name}"])
        assert len(rows) == len(whole) and (rows["index"] == whole["index"]).all() and (rows.method == whole.method).all()
        assert np.allclose(rows.prob_masked, whole.prob_masked, atol=1e-5)


@pytest.mark.usefixtures("always")
def test_another_worker_takes_over_what_a_dead_one_kept(folder, tmp_path, monkeypatch):
    overrides = [*tiny_overrides(folder, tmp_path / "run"), "shard_size=6", "batch_size=2"]
    whole = finished_rows([*overrides, f"out={tmp_path / 'alone'}"])
    assert killed(monkeypatch, overrides, after=2) == 4
    claims = tmp_path / "run" / "claims"
    claims.mkdir(exist_ok=True)
    (claims / "shard-00000").write_text("of a worker that died")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    rows, computed = continued([*overrides, "devices=1"])
    assert computed == 8
    pd.testing.assert_frame_equal(rows, whole, check_exact=True)


@pytest.mark.usefixtures("always")
def test_two_workers_on_one_shard(folder, tmp_path, monkeypatch, whole):
    """The slower one, believed dead, keeps shorter parts of the same shard: whoever goes on finds a whole chain."""
    overrides = [*tiny_overrides(folder, tmp_path / "run"), *ONE_SHARD]
    assert killed(monkeypatch, overrides, after=3) == 6
    other = [*tiny_overrides(folder, tmp_path / "other"), "shard_size=512", "batch_size=5"]
    assert killed(monkeypatch, other, after=1) == 5
    shutil.copytree(tmp_path / "other" / "partial", tmp_path / "run" / "partial", dirs_exist_ok=True)
    assert kept(overrides) == 5  # the longest first part, after which there is no other
    rows, computed = continued(overrides)
    assert computed == 7
    assert np.allclose(rows.prob_masked, whole.prob_masked, atol=1e-5) and (rows["index"] == whole["index"]).all()
    assert not list((tmp_path / "run" / "partial").rglob("*.parquet"))


@pytest.mark.usefixtures("always")
def test_damaged_and_foreign_parts_are_computed_again(folder, tmp_path, monkeypatch, whole, caplog):
    overrides = [*tiny_overrides(folder, tmp_path / "run"), *ONE_SHARD]
    assert killed(monkeypatch, overrides, after=3) == 6
    second = tmp_path / "run" / "partial" / "maps" / "shard-00000-00002-00004.parquet"
    content = second.read_bytes()
    second.write_bytes(content[:40] + b"x" + content[41:])
    assert kept(overrides) == 2 and "damaged" in caplog.text
    assert kept([*overrides, "maps=store"]) == 0  # whose maps are not there
    rows, computed = continued(overrides)
    assert computed == 10
    pd.testing.assert_frame_equal(rows, whole, check_exact=True)


@pytest.mark.usefixtures("always")
def test_a_folder_with_kept_images_is_not_taken_over(folder, tmp_path, monkeypatch):
    overrides = [*tiny_overrides(folder, tmp_path / "run"), *ONE_SHARD]
    killed(monkeypatch, overrides, after=1)
    refused = through_main("run", *overrides, "target=2")
    assert refused.returncode == 2 and "holds another run (target: predicted -> 2)" in refused.stderr
    assert kept(overrides) == 2


def test_a_folder_of_an_earlier_version_goes_on(folder, tmp_path, whole):
    """Shards of its own size, whatever the default is by now, and no folder of parts."""
    overrides = [*tiny_overrides(folder, tmp_path / "run"), "batch_size=2"]
    finished_rows([*overrides, "shard_size=5"])
    (tmp_path / "run" / "rows" / "shard-00001.parquet").unlink()
    assert not (tmp_path / "run" / "partial").exists()
    rows, computed = continued([*overrides, "shard_size=512"])
    assert computed == 5 and json.loads((tmp_path / "run" / "provenance.json").read_text())["shard_size"] == 5
    assert np.allclose(rows.prob_masked, whole.prob_masked, atol=1e-5)


@pytest.mark.usefixtures("always")
def test_parts_that_outlived_their_shard_are_removed(folder, tmp_path, monkeypatch):
    overrides = [*tiny_overrides(folder, tmp_path / "run"), *ONE_SHARD]
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "discard_parts", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            run_job(compose_jobs(overrides)[0])
    assert list((tmp_path / "run" / "partial").rglob("*.parquet"))
    assert prepare(compose_jobs(overrides)[0]).counts == (12, 12)
    assert not list((tmp_path / "run" / "partial").rglob("*.parquet"))


def test_what_a_stopped_run_says(folder, tmp_path, monkeypatch):
    overrides = [*tiny_overrides(folder, tmp_path / "run"), *ONE_SHARD]
    evaluate, computed, most = loop.evaluate, [], [0]

    def interrupted(*arguments):
        if len(computed) == most[0]:
            signal.raise_signal(signal.SIGINT)  # in this thread, at once
        evaluate(*arguments)
        computed.append(1)

    for most[0], says in (
        (0, "none of 12 images was finished"),
        (3, "stopped: 6 of 12 images are kept in"),
        (2, "stopped: 10 of 12 images"),
    ):
        computed.clear()
        with monkeypatch.context() as patch:
            patch.setattr(loop, "evaluate", interrupted)
            patch.setattr(loop, "_trial", fast)
            monkeypatch.setattr("evalkit.cli.run.asked_to_stop.set", lambda: None)
            ended = through_main("run", *overrides)
        assert ended.returncode == 130 and says in ended.stderr, ended.stderr
    assert "continues: 6 of 12 images were done before" in ended.stderr
    ended = through_main("run", *overrides)
    assert ended.returncode == 0 and "continues: 10 of 12 images were done before" in ended.stderr and ": 2 images in" in ended.stderr


def test_metadata_of_parts_are_summed():
    one = {"code": "a", "batch_size": 32, "maps_stored": False, "left_out": 1, "seconds": 2.0, "seconds_per_method": {"cam": 1.0}}
    two = {**one, "code": "b", "batch_size": 8, "seconds_per_method": {"cam": 2.0, "random": 0.5}}
    assert summed([one]) == one
    assert summed([one, two, two]) == {
        **one, "code": "a, b", "batch_size": "32, 8", "left_out": 3, "seconds": 6.0, "seconds_per_method": {"cam": 5.0, "random": 1.0},
    }  # fmt: skip


@pytest.mark.parametrize("shard_size", [512, 4])
def test_seconds_of_a_shard_hold_all_of_its_stages(folder, tmp_path, monkeypatch, shard_size):
    batches = loop.batches

    def slow(*arguments, **options):
        for batch in batches(*arguments, **options):
            time.sleep(0.2)
            yield batch

    monkeypatch.setattr(loop, "batches", slow)
    overrides = [*tiny_overrides(folder, tmp_path / "run"), f"shard_size={shard_size}", "batch_size=4"]
    for shard in launched(overrides)[0].finished():
        spent = sum(shard.description["seconds_per_stage"].values())
        assert 0.2 * min(shard_size, 12) / 4 <= spent <= shard.description["seconds"] + 0.02
