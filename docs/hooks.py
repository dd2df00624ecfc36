"""What the pages generate instead of repeating it: the command line reference, from the app itself."""

import re

import typer
from typer.cli import get_docs_for_click
from typer.main import get_command

from evalkit.cli.main import app

COMMANDS = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by mkdocs for every page."""
    return markdown.replace(COMMANDS, commands()) if COMMANDS in markdown else markdown


def commands() -> str:
    """Every command with its arguments and options, as Markdown sections."""
    command = get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="evalkit"), name="evalkit")
    text = re.sub(r"\A# .*\n", "", text)  # the page has a title
    text = re.sub(r"\*\*Commands\*\*:\n\n(?:\* .*\n)+\n", "", text)  # cut short by Typer, and each has its own section
    text = re.sub(r"\* `--help`: .*\n", "", text).replace("**Options**:\n\n\n", "")  # every command has it
    return re.sub(r"(?m)^(evalkit .+)$", r"    \1", text)  # examples of docstrings
