"""The notebook runs from top to bottom on fresh runs."""

import nbformat
from conftest import ROOT, tiny_overrides
from nbclient import NotebookClient

from evalkit import runner
from evalkit.config import compose_jobs


def test_tables_notebook(folder, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    for name in ("first", "second"):
        (job,) = compose_jobs([*tiny_overrides(folder, tmp_path / "runs" / name), "model.paper_table=table1"])
        runner.run(job)
    monkeypatch.setenv("EVALKIT_RUNS", str(tmp_path / "runs"))
    notebook = nbformat.read(ROOT / "experiments" / "tables.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT / "experiments")}}).execute()
    text = str(notebook.cells)
    assert text.count("41.52") >= 2 and "image/png" in text and "RANDOM WEIGHTS" in text
