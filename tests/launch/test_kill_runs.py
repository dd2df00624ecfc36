"""The short form of `make soak`."""

from pathlib import Path

import kill_runs
from builders import fresh_random
from commands import Command


def test_killed_and_resumed(tmp_path, monkeypatch):
    """With forks in place of commands and workers that start Python anew."""

    def start(out: Path, workers: int) -> Command:
        return Command(tmp_path / "printed", "run", *kill_runs.RUN, "workers=0", f"devices={workers}", f"out={out}")

    monkeypatch.setattr(kill_runs, "start", start)
    assert start(tmp_path / "undisturbed", 1).wait() == 0
    reference = kill_runs.RunFolder(tmp_path / "undisturbed").rows()
    assert len(reference) == 240 * 3
    assert kill_runs.soak(tmp_path / "killed", 2, 2, fresh_random(), reference) == 0
