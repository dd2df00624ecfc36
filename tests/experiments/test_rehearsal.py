"""The rehearsal of a large run, end to end on small pictures: killed, resumed, checked; and its checks find what they look for."""

import json

import numpy as np
import pyarrow as pa
import pytest
import rehearsal
import rehearsal_checks
import synthetic_run
import typer
from PIL import Image
from typer.testing import CliRunner

from evalkit.point import Point
from evalkit.runs.folder import RunFolder


def test_forty_pictures_end_to_end(tmp_path, monkeypatch):
    rng = np.random.default_rng()
    for number in range(7):
        folder = tmp_path / "photographs" / f"class{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (60 + number, 50, 3), dtype=np.uint8)).save(folder / f"{number}.jpg")
    monkeypatch.setenv("PYTHONPATH", f"{rehearsal.__file__.rpartition('/')[0]}:{rehearsal.__file__.rpartition('/experiments/')[0]}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = ["--images", "40", "--size", "160", "--subset", "6", "--sample", "4", "--every", "0.01"]
    options += [
        "--set",
        "batch_size=1",
        "--set",
        "shard_size=2",
        "--scratch",
        str(tmp_path / "scratch"),
        "--json",
        str(tmp_path / "f.json"),
    ]
    app = typer.Typer()
    app.command()(rehearsal.main)
    result = CliRunner().invoke(app, [str(tmp_path / "photographs"), *options])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "f.json").read_text())
    assert all(found["checks"].values()) and len(found["checks"]) == 9
    assert 8 <= found["killed"]["shards_finished"] < 20 and found["run"]["rows"] == 40 * 8 and found["run"]["files"] == 2 * 20 + 2
    assert sum(found["after_the_kill"]["images_by_worker"]) >= 40 - found["killed"]["images_kept"]
    assert found["commands"]["verify"]["says"].startswith("verified: 4 of 40")


@pytest.mark.parametrize("fault", ["none", "twice", "method", "score", "file"])
def test_a_fault_is_found(tmp_path, fault):
    methods, thresholds = ["a", "b"], [20.0, 50.0]
    path = tmp_path / "run"
    synthetic_run.write(path, 700, methods, [Point("keep_top", top, "black") for top in thresholds], seed=1)
    folder = RunFolder(path)
    for shard in list(folder.finished()):
        columns = {name: shard.rows[name].to_numpy(zero_copy_only=False).copy() for name in shard.rows.column_names}
        for name in ("prob_full", "prob_masked"):  # four photographs
            columns[name] = (columns["index"] % 4) * 0.1 + (columns["method"] == "b") * 0.01 + (columns["top_percent"] == 50) * 0.02
        columns["rank_gap"][:] = 1e-3
        if shard.number == 1 and fault == "twice":
            columns["index"][4:8] = columns["index"][:4]
        if shard.number == 1 and fault == "method":
            columns["method"][7] = "a"
        if shard.number == 1 and fault == "score":
            columns["prob_masked"][5] += 0.002
        rows = pa.table({name: pa.array(values, shard.rows.schema.field(name).type) for name, values in columns.items()})
        folder.write_shard(shard.number, rows, shard.maps, {**shard.description, "seconds_per_stage": {"decode": 0.25, "maps": 0.75}})
    if fault == "file":
        (path / "claims").mkdir()
        (path / "claims" / "shard-00001").write_text("process 1")
    found, files = rehearsal_checks.contents(folder, methods, thresholds, 4), rehearsal_checks.files(path)
    assert found["complete"] is (fault not in ("twice", "method"))
    if fault in ("none", "score", "file"):
        assert found["repeats"]["largest_difference"] == pytest.approx(0.002 if fault == "score" else 0, abs=1e-12)
    assert files["left_over"] == (["claims/shard-00001"] if fault == "file" else []) and files["files"] == 6 + (fault == "file")
    assert found["share_of_stages"] == {"maps": 0.75, "decode": 0.25} and found["rows"] == 2800 and found["shards"] == 2
