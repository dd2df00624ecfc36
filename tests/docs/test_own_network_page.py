"""docs/own_network.md: the recipe for POLEN23E, as it stands, on a checkpoint of random weights and a picture of each kind."""

import sys

import numpy as np
import pandas as pd
import pytest
import shown
import torch
from builders import ROOT, fresh
from PIL import Image
from torchvision.models import densenet169

from evalkit.analysis import resampling
from evalkit.analysis.load import load_runs

KINDS = ("anadenanthera", "arecaceae", "matayba", *(f"kind {chr(97 + i)}" for i in range(20)))


def test_polen23e(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resampling, "RESAMPLES", 50)
    (tmp_path / "polen23e").mkdir()
    names = [f"{kind}{(' (1)', '_01', '-1')[i % 3]}.jpg" for i, kind in enumerate(KINDS)]
    for name in names:
        Image.fromarray(fresh().integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(tmp_path / "polen23e" / name)
    net = densenet169(num_classes=23)
    torch.save({"epoch": 3, "model": net.state_dict(), "optimizer": {"state": {}, "param_groups": []}}, tmp_path / "pollen.pt")

    section = (ROOT / "docs" / "own_network.md").read_text().partition("## A torchvision network of your own classes\n")[2]
    reader = shown.Reader(tmp_path, [])
    for block in shown.blocks(section.partition("\n## ")[0]):
        reader.follow(block)
    sys.modules.pop("pollen_lists", None)

    assert (tmp_path / "pollen.txt").read_text().split("\n") == [*sorted(KINDS), ""]
    (run,) = load_runs([tmp_path / "results" / "polen23e"])
    assert run.counts()["scored"] == 4 and "random" not in run.provenance["weights"] and run.methods[0] == "spatial_ablation"
    labels = run.rows[["image_id", "label"]].drop_duplicates().set_index("image_id").label
    assert {name: sorted(KINDS)[index] for name, index in labels.items()} == {name: KINDS[names.index(name)] for name in labels.index}
    maps = pd.read_parquet(run.path / "maps").set_index(["index", "method"])["map"]
    for index in run.rows["index"].unique():  # what the page says of this network: the map is CAM, divided by the 49 positions
        cam, spatial = (torch.tensor(maps[index, name]) for name in ("grad_cam", "spatial_ablation"))
        torch.testing.assert_close(spatial.relu(), cam, rtol=1e-3, atol=1e-4 * float(cam.abs().max()))
    assert any("spatial_ablation" in said for said in reader.said)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
