"""The notebooks run from top to bottom, and come without outputs."""

import nbformat
import pytest
from builders import ROOT, tiny_overrides
from nbclient import NotebookClient

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
        ("one_photograph", 4, ["confidence 0.", "channels raise the score"]),
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
