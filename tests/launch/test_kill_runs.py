"""The short form of `make soak`."""

import random

import kill_runs


def test_killed_and_resumed(tmp_path):
    assert kill_runs.start(tmp_path / "undisturbed", 1).wait() == 0
    reference = kill_runs.RunFolder(tmp_path / "undisturbed").rows()
    assert len(reference) == 240 * 3 and kill_runs.soak(tmp_path / "killed", 2, 2, random.Random(), reference) == 0
