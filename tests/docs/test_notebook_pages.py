"""The pages of executed notebooks: how they are written, and that the committed ones show the committed notebooks."""

import re

import nbformat
import notebooks
import pytest
from builders import ROOT


def example() -> nbformat.NotebookNode:
    cells = [
        nbformat.v4.new_markdown_cell("# A title\n\nWords."),
        nbformat.v4.new_code_cell(
            "import base64\nimport pandas as pd\nfrom IPython.display import Image, display\n"
            'display(Image(data=base64.b64decode("iVBORw0KGgo="), format="png"))\npd.DataFrame({"drop %": [2.5]}, index=["grad_cam"])'
        ),
    ]
    return nbformat.v4.new_notebook(cells=cells)


def test_a_page_has_cells_tables_and_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    monkeypatch.setenv("EVALKIT_OUT", "")
    notebook = example()
    text, pictures = notebooks.page("some", notebooks.executed(notebook, tmp_path))
    assert text.startswith(f"{notebooks.first_line('some', notebook)}\n\n# A title\n\n`experiments/some.ipynb`, executed")
    assert "```python\nimport base64" in text and "<td>2.5</td>" in text and "<table>" in text and "<style" not in text
    ((path, content),) = pictures.items()
    assert path.startswith("some_files/") and f"({path})" in text and content.startswith(b"\x89PNG")
    assert not any(cell.get("outputs") for cell in notebook.cells)


def test_the_first_line_changes_with_the_cells():
    notebook, before = example(), notebooks.first_line("some", example())
    assert notebooks.first_line("some", notebook) == before
    notebook.cells[1].source += " "
    assert notebooks.first_line("some", notebook) != before


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "notebooks").glob("*.md")), ids=lambda page: page.stem)
def test_committed_pages_show_the_committed_notebooks(page):
    text = page.read_text()
    assert text.startswith(notebooks.first_line(page.stem, notebooks.read(page.stem))), (
        f"run make notebooks, or docs/generate/notebooks.py {page.stem}"
    )
    assert not re.search(r"/tmp/|site-packages", text) and str(ROOT) not in text and "Traceback" not in text and "](notebooks" not in text
    assert f"notebooks/{page.name}" in (ROOT / "mkdocs.yml").read_text()
    shown = {path.name for path in (page.parent / f"{page.stem}_files").glob("*")}
    assert shown == {path.rpartition("/")[2] for path in re.findall(r"!\[\w+\]\(([^)]+)\)", text)}
