"""README and documentation say what is so: everything they show runs, and what they repeat is what the code has."""

import ast
import csv
import functools
import http.server
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml
from average_drops import DEFINITIONS, markdown
from browsing import CHROMIUM, needs_browser
from builders import ROOT
from playwright.sync_api import Error, sync_playwright
from shown import Reader, blocks, commands, placeholders
from typer.main import get_command

from evalkit.analysis import resampling
from evalkit.analysis.load import load_runs
from evalkit.cli.main import app
from evalkit.config.choices import choices, read_choice
from evalkit.config.compose import compose_jobs
from evalkit.config.schema import RunConfig
from evalkit.evaluation.columns import MAPS, ROWS
from evalkit.launch.run import run_job

DOCS = ROOT / "docs"
PAGES = [page for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))) if any(blocks(page.read_text()))]
"""Those that show something."""
EXCEPTED: dict[str, str] = {}
"""Commands that are shown and not followed, with the reason."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_shows_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(resampling, "RESAMPLES", 50)
    reader = Reader(tmp_path, list(EXCEPTED))
    reader.namespace |= placeholders() if page.name == "README.md" else {}
    for block in blocks(page.read_text()):
        try:
            reader.follow(block)
        except Exception as reason:
            raise AssertionError(f"{page.name}, line {block.line}: {reason}") from reason


def test_what_is_excepted_is_still_shown():
    shown = {shlex.join(words) for page in PAGES for block in blocks(page.read_text()) for words in commands(block)}
    assert set(EXCEPTED) <= shown


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("```bash\nevalkit run protocol.top_percnt=20\n```\n", "did you mean 'protocol.top_percent'"),
        ("```bash\nevalkit tables results/mine --no-figure\n```\n", "no-figure"),
        ("\n\n    evalkit run model=vgg61     # comment\n", "did you mean 'vgg16'"),
        ("```bash\nls\n```\n", "_ls"),
        ("```bash\nmake reproduce\n```\n", "say where ImageNet val is"),
        ("```bash\npip install 'evalkit[gpu]'\n```\n", "pip install"),
        ("```python\nimport nowhere\n```\n", "nowhere"),
    ],
)
def test_a_wrong_line_is_found(text, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reader = Reader(tmp_path, [])
    with pytest.raises(Exception, match=says):
        for block in blocks(text):
            reader.follow(block)


@functools.cache
def built(folder: Path) -> str:
    """What mkdocs says while it builds the site into a folder."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    built(folder)
    return folder


def test_the_site_has_every_command_and_loads_nothing_from_outside(site):
    assert "WARNING -" not in built(site)
    page = (site / "commands.html").read_text()
    for path, command in _commands(get_command(app), "evalkit"):
        assert f'<code>{path}</code><a class="headerlink"' in page
        for option in (name for parameter in command.params for name in parameter.opts if name.startswith("--")):
            assert option in page
    pages = list(site.rglob("*.html"))
    assert {p.stem for p in pages} >= {p.stem for p in DOCS.glob("*.md")}
    for file in [*pages, *site.rglob("*.css")]:
        loads = re.findall(r"""<(?:script|img|iframe|source)[^>]+src=["']?([^"' >]+)|<link[^>]+href=["']?([^"' >]+)""", file.read_text())
        loads += [(address, "") for address in re.findall(r"""(?:@import|url\()\s*["']?([^"')]+)""", file.read_text())]
        assert not [address for pair in loads for address in pair if re.match(r"(https?:)?//", address)], file


def _commands(command, path):
    for name, inner in getattr(command, "commands", {}).items():
        yield f"{path} {name}", inner
        yield from _commands(inner, f"{path} {name}")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@needs_browser
def test_a_browser_searches_and_asks_no_other_host(site):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home, outside = f"http://127.0.0.1:{server.server_port}", []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: outside.append(request.url) if not request.url.startswith((home, "data:", "blob:")) else None)
        page.on("pageerror", lambda error: outside.append(str(error)))
        for found in sorted(site.rglob("*.html")):
            page.goto(f"{home}/{found.relative_to(site)}")
        page.goto(f"{home}/")
        page.locator("input.md-search__input").press_sequentially("strictly smaller")
        page.locator(".md-search-result__list", has_text="Reading the tables").wait_for(timeout=60_000)
        with pytest.raises(Error):  # the listener does see what goes elsewhere
            page.goto("http://localhost:1/")
        browser.close()
    server.shutdown()
    assert outside == ["http://localhost:1/"]


@pytest.mark.parametrize(("heading", "schema"), [("## Rows", ROWS), ("## Maps", MAPS)])
def test_columns_of_a_run_folder(heading, schema):
    section = (DOCS / "run_folder.md").read_text().partition(f"{heading}\n")[2].partition("\n## ")[0]
    shown = re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", section, re.MULTILINE)
    assert shown == [(field.name, re.sub(r"list<\w+: (\w+)>", r"list of \1", str(field.type))) for field in schema]


def test_troubleshooting_quotes_what_the_package_says():
    said = [template for file in (ROOT / "evalkit").rglob("*.py") for template in _sentences(ast.parse(file.read_text()))]
    quoted = re.findall(r"^\| `(.+?)` \|", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(quoted) >= 20
    for sentence in quoted:
        assert any(re.fullmatch(template, sentence) for template in said), sentence


def _sentences(tree):
    """Regular expressions of the exceptions' messages that hold enough text of their own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("UserError", "NoLayer", "ValueError") and node.args:
            parts = node.args[0].values if isinstance(node.args[0], ast.JoinedStr) else [node.args[0]]
            texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
            if sum(len(text) for text in texts if text) > 5:
                yield "".join(".*" if text is None else re.escape(text) for text in texts)


def test_figures_are_those_of_the_files_that_a_page_names():
    checked = 0
    for page in DOCS.glob("*.md"):
        text = page.read_text()
        for named in re.findall(r"^Figures from (.+)\.$", text, re.MULTILINE):
            source = "".join((ROOT / file).read_text() for file in re.findall(r"`([^`]+)`", named))
            figures = re.findall(r"(?<![\d.])\d+\.\d\d+(?![\d.])", text)
            checked += len(figures)
            assert [figure for figure in figures if figure not in source] == [], page.name
    assert checked > 15


def test_the_table_of_the_home_page():
    with (ROOT / "results" / "digits_seeds.csv").open() as file:
        rows = [
            r
            for r in csv.DictReader(file)
            if (r["model"], r["seed"], r["top_percent"], r["score"]) == ("digits_fc", "0", "20", "confidence")
        ]
    measured = {(r["method"], r["metric"]): [float(r[key]) for key in ("value", "low", "high")] for r in rows}
    lines = re.findall(r"^\| (\w+) \| (\d.*) \|$", (DOCS / "index.md").read_text(), re.MULTILINE)
    assert len(lines) == 5
    for method, cells in lines:
        for metric, cell in zip(("average_drop", "increase", "win"), cells.split(" | "), strict=True):
            shown = [float(number) for number in re.findall(r"[\d.]+", cell)]
            np.testing.assert_allclose(shown, measured[method, metric], atol=0.0051)


def test_tables_have_a_header():
    """A blank line within a table makes the rows behind it text."""
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "results").glob("*.md")]:
        lines = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M).split("\n")
        first = [i for i, line in enumerate(lines) if line.startswith("|") and not (i and lines[i - 1].startswith("|"))]
        assert [lines[i] for i in first if not re.fullmatch(r"\|[\s:|-]+", lines[i + 1])] == [], page


def test_pages_name_all_methods_their_switches_and_all_keys():
    methods, protocol = ((DOCS / f"{name}.md").read_text() for name in ("methods", "protocol"))
    for name in choices("method"):
        assert f"`{name}`" in methods
        for switch in set(read_choice("method", name)) - {"_target_", "name", "channels", "baseline", "seed"}:
            assert re.search(rf"\b{switch}\b", methods), f"{name}.{switch}"
    assert [
        key for key in RunConfig.model_fields if key not in ("model", "data", "method", "protocol", "out") and f"`{key}" not in protocol
    ] == []
    assert [key for key in read_choice("protocol", "paper") if f"`protocol.{key}`" not in protocol and key != "points"] == []


def test_citation_and_changelog():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["cff-version"] == "1.2.0" and citation["message"] and citation["title"] and citation["authors"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE).group(1) == project["version"]


def test_definitions_of_average_drop(tmp_path):
    (job,) = compose_jobs(["experiment=published_protocols", "limit=12", "workers=0", f"out={tmp_path / 'run'}"])
    run_job(job)
    (run,) = load_runs([tmp_path / "run"])
    names = [definition.name for definition in DEFINITIONS]
    expected = {"soft": np.nan, "keep_top": 20, "remove_top": 25}
    for number, (select, fill, score, each, over) in enumerate(PLAIN):
        for method, value in zip(run.methods, DEFINITIONS[number].of(run), strict=True):
            rows = run.rows[(run.rows.method == method) & (run.rows["select"] == select) & (run.rows["fill"] == fill)]
            rows = rows[rows.top_percent.isna() if select == "soft" else rows.top_percent == expected[select]]
            pairs = zip(rows[f"{score}_full"], rows[f"{score}_masked"], strict=True)
            per_image = [each(y, o) for y, o in pairs]
            kept = [drop for drop in per_image if not over or drop > 0]
            np.testing.assert_allclose(value, sum(kept) / len(kept) if kept else np.nan, rtol=1e-6, err_msg=f"{names[number]}, {method}")
    shown = (ROOT / "results" / "average_drops.md").read_text()
    assert all(name in shown for name in names) and shown.count("|") == markdown(run).count("|")


PLAIN = [
    ("keep_top", "black", "prob", lambda y, o: 100 * max(0, y - o) / y, False),
    ("keep_top", "black", "logit", lambda y, o: 100 * max(0, y - o) / y, False),
    ("keep_top", "black", "prob", lambda y, o: 100 * max(0, y - o) / y, True),
    ("soft", "black", "prob", lambda y, o: 100 * max(0, y - o) / y, False),
    ("soft", "mean", "prob", lambda y, o: 100 * max(0, y - o) / y, False),
    ("soft", "mean", "logit", lambda y, o: 100 * max(0, y - o) / y, False),
    ("soft", "mean", "prob", lambda y, o: 100 * max(0, y - o), False),
    ("soft", "mean", "logit", lambda y, o: max(0, y - o), False),
    ("remove_top", "black", "prob", lambda y, o: 100 * (o - y), False),
]
"""The definitions once more, image by image: select, fill, score, the drop of an image, whether only images that drop count."""
