"""Every link between the pages of the repository leads somewhere, as the files lie there; mkdocs checks the same in the built site."""

import re
from collections import Counter
from pathlib import Path

import pytest
from builders import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "results").glob("*.md"))]


def text_of(page: Path) -> str:
    """A page without its code, where brackets are not links and a number sign is no heading."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as code hosts name them."""
    found: Counter[str] = Counter()
    names = set()
    for heading in re.findall(r"^#{1,6} (.+?)\s*$", text, re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        names.add(f"{anchor}-{found[anchor]}" if found[anchor] else anchor)
        found[anchor] += 1
    return names


def broken(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    wrong = []
    text = text_of(page)
    outside_code = re.sub(r"`+[^`]+`+", "code", text)
    links = re.findall(r"\]\(<?([^)\s>]+)", outside_code) + re.findall(r"^\[[^]]+\]: *(\S+)", outside_code, re.MULTILINE)
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        there = target.exists() and target.is_relative_to(ROOT.resolve()) and not path.startswith("/")
        if not there or (anchor and (target.suffix != ".md" or anchor not in anchors(text_of(target)))):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links(page):
    assert broken(page) == []


def test_a_broken_link_is_found(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "other.md").write_text("# A `key.name`: what it is\n\n## Twice\n\n## Twice\n\n## Twice\n\n```bash\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md#a-keyname-what-it-is) [b](other.md#twice-2) [`c`](other.md) [d](https://host/x) `[e](no.md)`\n"
        "[f](none.md) [g](other.md#no-heading) [h](#here) ![i](none.png) [`j`](none.md) [k](/other.md)\n"
    )
    assert broken(page) == ["none.md", "other.md#no-heading", "#here", "none.png", "none.md", "/other.md"]
