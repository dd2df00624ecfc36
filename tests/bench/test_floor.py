"""The floor's figures are complete, consistent and flat; what they say is not judged here."""

import json

import pytest
from builders import tiny_overrides

from evalkit.bench.floor import bench_floor
from evalkit.errors import UserError
from evalkit.evaluation.stopwatch import STAGES


def overrides(folder, tmp_path):
    return [o for o in tiny_overrides(folder, tmp_path / "run") if o.startswith("model") and o != "model=custom"]


def test_figures(folder, tmp_path):
    file = tmp_path / "floor.json"
    extra = [*overrides(folder, tmp_path), "protocol.top_percent=[20,50]"]
    figures = bench_floor("custom", folder, extra, batch_size=5, limit=11, repeats=2, threads=1, workers=0, json_file=file)
    assert json.loads(file.read_text()) == figures
    assert figures["passes"] == 1 + 2 * 2 and figures["images"] == 11 and figures["weights"].startswith("random")
    assert sum(figures[f"share_{stage}"] for stage in (*STAGES, "other")) == pytest.approx(1)
    assert figures["ratio_to_floor"] == pytest.approx(figures["evaluation_seconds"] / figures["floor_seconds"])
    assert figures["hours_for_50000_images"] == pytest.approx(50_000 / figures["images_per_second"] / 3600)
    assert figures["limited_by"] in STAGES


def test_an_image_that_cannot_be_read(folder, tmp_path):
    (folder / "b" / "0.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"bench floor needs all images, and cannot read b/0\.png: the file is empty"):
        bench_floor(
            "custom", folder, overrides(folder, tmp_path), batch_size=5, limit=None, repeats=1, threads=1, workers=0, json_file=None
        )
