"""Parts of the site that are not written in docs/: the command line reference, generated from the app, and the pages of results/."""

import re
from pathlib import Path

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.cli import get_docs_for_click
from typer.main import get_command

from evalkit.cli.main import app

COMMANDS = "<!-- commands -->"
RESULTS = Path(__file__).parents[1] / "results"


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages of results/ that the navigation names, and the figures there. Called by mkdocs before it reads any page."""
    pages = (RESULTS / name for name in re.findall(r"'results/(\w+\.md)'", str(config.nav)))
    for file in (*pages, *sorted(RESULTS.glob("*.png"))):
        files.append(File.generated(config, f"results/{file.name}", abs_src_path=str(file)))


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Return a page's text with the commands in it, and with links between docs/ and results/ as the site has them."""
    markdown = (
        markdown.replace("](../docs/", "](../")
        if page.file.src_uri.startswith("results/")
        else markdown.replace("](../results/", "](results/")
    )
    return markdown.replace(COMMANDS, commands()) if COMMANDS in markdown else markdown


def commands() -> str:
    """Return every command with its arguments and options, as Markdown sections."""
    command = get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="evalkit"), name="evalkit")
    text = re.sub(r"\A# .*\n", "", text)  # the page has a title
    text = re.sub(r"\*\*Commands\*\*:\n\n(?:\* .*\n)+\n", "", text)  # Typer cuts this list short, and each command has its own section
    text = re.sub(r"\* `--help`: .*\n", "", text).replace("**Options**:\n\n\n", "")  # every command has it
    return re.sub(r"(?m)^(evalkit .+)$", r"    \1", text)  # examples of docstrings
