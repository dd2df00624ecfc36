"""Pages of the site that are not in docs/: those of results/, the leaderboard, the change log and CONTRIBUTING of the repository's root."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from evalkit.output.leaderboard import leaderboard_page

ROOT = Path(__file__).parents[1]
LEADERBOARD = "results/leaderboard.html"


def leaderboard() -> str:
    """Return the leaderboard of the committed summaries as a page."""
    return leaderboard_page(sorted((ROOT / "results" / "leaderboard").glob("*.parquet")))[0]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that only the navigation names, the figures of results/, the leaderboard. Called by mkdocs before it reads any page."""
    named = re.findall(r"'([\w/]+\.md)'", str(config.nav))
    figures = [f"results/{figure.name}" for figure in sorted((ROOT / "results").glob("*.png"))]
    for path in [*(path for path in named if files.get_file_from_path(path) is None), *figures]:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    files.append(File.generated(config, LEADERBOARD, content=leaderboard()))


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Return a page's text with its links as the site has them, where the folder docs/ is the root."""
    folder = page.file.src_uri.rpartition("/")[0]
    if folder in ("results", "notebooks"):
        return markdown.replace("](../docs/", "](../")
    return re.sub(r"\]\((?:docs|\.\.)/", "](", markdown)
