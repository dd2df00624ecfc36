"""Several workers on this machine, a job array: the same table as one worker alone, whatever happens to them."""

import os
import signal
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from builders import alone, launched, tiny_overrides
from commands import ForkedWorkers

from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.launch import local
from evalkit.runs.folder import RunFolder

KEY = ["index", "method", "select", "top_percent", "fill"]


pytestmark = pytest.mark.usefixtures("reachable")


@pytest.fixture
def forked(monkeypatch):
    """Fork the workers; otherwise each imports everything anew, as it does for users."""
    monkeypatch.setattr(local, "mp", ForkedWorkers)


def test_three_processes_make_the_table_of_one(folder, tmp_path, monkeypatch):
    base = tiny_overrides(folder, tmp_path / "run")
    images = []
    shared, announced = launched([*base, "devices=3"], images.append)
    pd.testing.assert_frame_equal(shared.rows(), alone(base, tmp_path / "alone"), check_exact=True)
    assert announced == [(12, 0)] and sum(images) >= 12
    monkeypatch.setattr(local, "mp", ForkedWorkers)
    assert launched([*base, "devices=2"])[1] == [(12, 12)]


def test_a_worker_that_is_killed_leaves_its_shards_to_the_others(folder, tmp_path, caplog, forked):
    base = [*tiny_overrides(folder, tmp_path / "run"), "shard_size=1", "batch_size=1", "devices=2"]
    killed = []

    def kill_one(_images: int) -> None:
        claims = [file for file in (tmp_path / "run" / "claims").glob("*") if file.exists()]
        if not killed and claims:
            killed.append(int(claims[0].read_text().split()[1]))
            os.kill(killed[0], signal.SIGKILL)

    shared, _ = launched(base, kill_one)
    assert killed and "1 of 2 workers died (SIGKILL); the other workers computed their shards" in caplog.text
    pd.testing.assert_frame_equal(shared.rows(), alone(base, tmp_path / "alone"), check_exact=True)


def test_a_mistake_of_all_workers_is_told_once(folder, tmp_path, forked):
    with pytest.raises(UserError, match="target=77 is no output: the model has 5"):
        launched([*tiny_overrides(folder, tmp_path / "run"), "devices=2", "target=77"])


def test_ctrl_c_stops_the_workers_and_withdraws_their_claims(folder, tmp_path, forked):
    base = [*tiny_overrides(folder, tmp_path / "run"), "shard_size=1", "batch_size=1", "devices=2"]

    seen = []

    def interrupt(images: int) -> None:
        seen.append(images)
        if len(seen) == 4:  # of two workers, which tell of a shard before they publish it
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launched(base, interrupt)
    assert not list((tmp_path / "run" / "claims").iterdir())
    assert len(RunFolder(tmp_path / "run").missing()) < 12
    pd.testing.assert_frame_equal(launched(base)[0].rows(), alone(base, tmp_path / "alone"), check_exact=True)


def test_how_many_workers(monkeypatch):
    def count(*overrides: str) -> int:
        return local.worker_count(compose_jobs(list(overrides))[0])

    assert count("devices=4") == 4 and count("device=cpu") == 1 and count("device=cuda:1") == 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert count() == 8
    monkeypatch.setenv("RANK", "3")  # torchrun has started the others
    assert count() == 1
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with pytest.raises(UserError, match="devices=9 is too much for this machine's 2 cores"):
        count("devices=9")


def test_a_job_array(folder, tmp_path, monkeypatch):
    """submitit's local executor stands in for SLURM."""
    monkeypatch.chdir(tmp_path)
    base = tiny_overrides(folder, tmp_path / "run")
    overrides = [*base, "launcher=slurm", "launcher.cluster=local", "launcher.tasks=2", "launcher.wait=true"]
    shared, announced = launched(overrides)
    assert announced == [(12, 0)] and list((tmp_path / "slurm_logs").iterdir())
    pd.testing.assert_frame_equal(shared.rows(), alone(base, tmp_path / "alone"), check_exact=True)
    with pytest.raises(UserError, match=r"launcher=slurm: .*launcher.cluster=local tries it"):
        launched([*base, f"out={tmp_path / 'b'}", "launcher=slurm"])


def test_workers_whose_parent_was_killed_stop(folder, tmp_path, monkeypatch):
    """No process is left behind that goes on computing."""
    base = [*tiny_overrides(folder, tmp_path / "run"), "shard_size=1", "batch_size=1", "devices=2"]
    parent = os.fork()
    if parent == 0:
        try:
            launched(base, lambda _: time.sleep(0.05))
        finally:
            os._exit(0)
    while not (claims := list((tmp_path / "run").glob("claims/*"))):
        time.sleep(0.05)
    workers = {int(claim.read_text().split()[1]) for claim in claims if claim.exists()}
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    gone = threading.Event()
    for _ in range(600):
        if not any(Path(f"/proc/{worker}").exists() for worker in workers):
            gone.set()
            break
        time.sleep(0.1)
    assert gone.is_set()
    monkeypatch.setattr(local, "mp", ForkedWorkers)
    pd.testing.assert_frame_equal(launched(base)[0].rows(), alone(base, tmp_path / "alone"), check_exact=True)
