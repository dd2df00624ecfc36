"""The notebooks run from top to bottom, and come without outputs."""

import os
import re
import secrets

import nbformat
import numpy as np
import pytest
import torch
from builders import ROOT, tiny_overrides
from nbclient import NotebookClient
from PIL import Image
from torch import nn

from evalkit.config.compose import compose_jobs
from evalkit.launch.run import run_job


def test_tables_notebook(folder, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    for name in ("first", "second"):
        (job,) = compose_jobs([*tiny_overrides(folder, tmp_path / "runs" / name), "model.paper_table=table1"])
        run_job(job)
    monkeypatch.setenv("EVALKIT_RUNS", str(tmp_path / "runs"))
    text = executed("tables")
    assert text.count("41.52") >= 2 and "image/png" in text and "RANDOM WEIGHTS" in text


@pytest.mark.parametrize(
    ("name", "figures", "says"),
    [
        ("threshold_sweep", 2, ["s a map", "'score_cam': nan", "top_percent"]),
        ("your_own_cam", 2, ["40 of 40 images scored", "McNemar", "Average drop %, confidence (lower is better)"]),
        ("one_photograph", 5, ["confidence 0.", "channels raise the score", "cam has no map of this network", "classes sum to 2.0"]),
    ],
)
def test_notebooks_of_the_documentation(name, figures, says, tmp_path, monkeypatch):
    monkeypatch.setenv("EVALKIT_IMAGES", "40")
    monkeypatch.setenv("EVALKIT_OUT", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    text = executed(name)
    assert [word for word in says if word not in text] == [] and text.count("'image/png'") == figures


def executed(name: str) -> str:
    """All cells of a notebook with their outputs."""
    notebook = nbformat.read(ROOT / "experiments" / f"{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT / "experiments")}}).execute()
    return str(notebook.cells)


NETS = """
from torch import nn

def net(channels=3, outputs=1):
    return nn.Sequential(nn.Conv2d(channels, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, outputs))
"""


@pytest.mark.parametrize(("output", "channels", "figures"), [("sigmoid", 3, 5), ("raw", 3, 5), ("binary", 1, 5)])
def test_one_photograph_of_other_outputs_and_channels(output, channels, figures, tmp_path, monkeypatch):
    """The scores printed are the network's own: a sigmoid of the class's score, none without confidences."""
    (tmp_path / "brought.py").write_text(NETS)
    outputs = 3 if output == "sigmoid" else 1
    torch.manual_seed(secrets.randbits(32))
    with torch.no_grad():
        net = nn.Sequential(nn.Conv2d(channels, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, outputs)).eval()
        net[-1].bias += 1.0
        torch.save(net.state_dict(), tmp_path / "net.pth")
        Image.fromarray(torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8).numpy()).convert("L").save(tmp_path / "grey.png")
        pixels = torch.from_numpy(np.array(Image.open(tmp_path / "grey.png"))).double() / 255
        z = net.double()((pixels.expand(1, channels, 64, 64) - 0.5) / 0.5)[0]
    names = {"binary": "[no,yes]", "raw": "[temp]", "sigmoid": "[a,b,c]"}[output]
    half = f"[{','.join(['0.5'] * channels)}]"
    settings = {
        "factory": "brought.net", "args.channels": channels, "args.outputs": outputs, "output": output, "classes": names,
        "channels": channels, "weights": tmp_path / "net.pth", "layer": 1, "mean": half, "std": half, "resize": "[64,64]",
    }  # fmt: skip
    network = " ".join(f"{'+' * key.startswith('args')}model.{key}={value}" for key, value in settings.items())
    for key, value in {"MODEL": f"model=custom {network}", "PHOTO": str(tmp_path / "grey.png")}.items():
        monkeypatch.setenv(f"EVALKIT_{key}", value)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    text = executed("one_photograph")
    assert text.count("'image/png'") == figures
    best = z.abs().max() if output != "sigmoid" else z.max()
    found = re.search(r"(?:confidence|score) (-?\d+\.\d+)", text)
    assert found is not None
    printed = float(found[1])
    if output == "raw":
        assert printed == pytest.approx(float(best), abs=2e-4) and "confidence 0." not in text
    else:
        assert printed == pytest.approx(float(best.sigmoid()), abs=2e-4)


UPLOADED = """
class FileUpload:
    def __init__(self, accept, multiple):
        from pathlib import Path
        self.value = [{"content": memoryview((Path(__file__).parent / "grey.png").read_bytes())}]
"""


def test_one_photograph_takes_an_uploaded_picture_and_classes_by_name(tmp_path, monkeypatch):
    """A network with global average pooling, so that CAM has a map too; ipywidgets as in version 8."""
    (tmp_path / "ipywidgets.py").write_text(UPLOADED)
    Image.fromarray(np.full((64, 64), 128, np.uint8)).save(tmp_path / "grey.png")
    monkeypatch.setenv("EVALKIT_MODEL", "model=digits_gap model.classes=[a,b,c,d,e,teddy,g,h,i,ballpoint]")
    monkeypatch.setenv("EVALKIT_CLASSES", "ball point pen,teddy bear")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    text = executed("one_photograph")
    assert (
        "target 'ball point pen' read as 'ballpoint'" in text
        and "target 'teddy bear' read as 'teddy'" in text
        and "cam has no map" not in text
        and text.count("'image/png'") == 5
    )
