"""Execute the notebooks of experiments/ and write what they show as pages of the site: `make notebooks`.

    python docs/generate/notebooks.py [NAME ...]        (all by default; a minute each on one core)

writes docs/notebooks/NAME.md and docs/notebooks/NAME_files/. The notebooks themselves stay without outputs. `tables` shows the runs of
EVALKIT_RUNS, by default results/demo. The site is built from the written pages, so that building it takes seconds; a page's first line
holds the hash of the cells that it shows, and a test compares it with the notebook.
"""

import hashlib
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from nbformat import NotebookNode

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "experiments"
PAGES = ROOT / "docs" / "notebooks"
NAMES = ("tables", "threshold_sweep", "your_own_cam", "one_photograph")


def read(name: str) -> NotebookNode:
    """Return a notebook of experiments/ by name."""
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def first_line(name: str, notebook: NotebookNode) -> str:
    """Return a page's first line: the notebook that it shows, and the hash of its cells."""
    cells = "\0".join(f"{cell.cell_type}\0{cell.source}" for cell in notebook.cells)
    return f"<!-- written by `make notebooks` from experiments/{name}.ipynb, {hashlib.sha256(cells.encode()).hexdigest()[:16]} -->"


def executed(notebook: NotebookNode, out: Path) -> NotebookNode:
    """Return the notebook with its outputs; what it writes goes below `out`. Raises CellExecutionError where a cell fails."""
    notebook = nbformat.from_dict(notebook)
    os.environ["EVALKIT_OUT"] = str(out)
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm's, where ipywidgets is absent
    NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    return notebook


def page(name: str, notebook: NotebookNode) -> tuple[str, dict[str, bytes]]:
    """Return the page of an executed notebook and its pictures by path."""
    resources = {"unique_key": "output", "output_files_dir": f"{name}_files"}
    body, written = MarkdownExporter().from_notebook_node(notebook, resources=resources)
    body = re.sub(r"<style scoped>.*?</style>\n?", "", body, flags=re.DOTALL)
    body = body.replace("](../docs/", "](../")  # the page lies one folder deeper than the notebook's neighbours
    body = body.replace('<table border="1" class="dataframe">', "<table>").replace(' style="text-align: right;"', "")
    title, _, rest = body.strip().partition("\n")
    about = f"`experiments/{name}.ipynb`, executed: the figures are those of one machine."
    return f"{first_line(name, notebook)}\n\n{title}\n\n{about}\n{rest.rstrip()}\n", written["outputs"]


def main(names: list[str]) -> None:
    """Write the pages of these notebooks."""
    for name in names or NAMES:
        with tempfile.TemporaryDirectory() as folder:
            text, pictures = page(name, executed(read(name), Path(folder)))
            text = text.replace(folder, f"../results/{name}")
        shutil.rmtree(PAGES / f"{name}_files", ignore_errors=True)
        for path, content in pictures.items():
            (PAGES / path).parent.mkdir(parents=True, exist_ok=True)
            (PAGES / path).write_bytes(content)
        (PAGES / f"{name}.md").write_text(text, encoding="utf-8")
        print(f"written: docs/notebooks/{name}.md", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
