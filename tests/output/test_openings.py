"""Every output opens with the cautions, calls undefined what is undefined, and is silent where nothing is to be said."""

import io
import re

import numpy as np
import pandas as pd
from builders import FULL, MASKED, make_run
from rich.console import Console

from evalkit.analysis.evaluated import evaluate_run
from evalkit.output import map_tables, plots
from evalkit.output.drawing import Drawer
from evalkit.output.latex import latex
from evalkit.output.markdown import markdown
from evalkit.output.report import Page
from evalkit.output.tables import caption
from evalkit.output.terminal import print_tables

LONG = np.linspace(1, 9, 40)
GALLERY = {"point": "", "select": "keep_top", "methods": [], "shown": [], "without": "", "items": []}


def outputs(runs, folder):
    """Terminal, Markdown, LaTeX and report of the same runs."""
    evaluated = [evaluate_run(run) for run in runs]
    terminal = io.StringIO()
    print_tables(Console(width=200, file=terminal), evaluated)
    with Drawer() as drawer:
        Page(evaluated, drawer).write([GALLERY] * len(runs), [[]] * len(runs), folder / "report.html")
    return terminal.getvalue(), markdown(evaluated), latex(evaluated), (folder / "report.html").read_text()


def test_cautions_come_before_every_number(tmp_path):
    run = make_run(tmp_path / "run", FULL, MASKED, record={"weights": "random (seed 0)"})
    terminal, text, tex, page = outputs([run], tmp_path)
    for shown, first in ((terminal, "confidence"), (text, "4 of 4 images"), (tex, r"\caption"), (page, "Each method's map")):
        start = shown[: shown.index(first)]
        assert "Caution: the network has random weights" in start and "Caution: only 4 images are scored" in start
    figures = dict(plots.figures(evaluate_run(run)))
    assert all("Caution: only 4 images are scored" in figure.get_suptitle() for figure in figures.values()) and len(figures) == 3


def test_nothing_is_said_without_a_reason(tmp_path):
    run = make_run(tmp_path / "run", LONG, {"grad_cam": LONG / 2, "centre": LONG / 3})
    assert not any("aution" in shown for shown in outputs([run], tmp_path))
    assert not any("aution" in figure.get_suptitle() for _, figure in plots.figures(evaluate_run(run)))


def test_a_report_of_several_runs_says_whose_they_are(tmp_path):
    good = make_run(tmp_path / "good", LONG, {"grad_cam": LONG / 2}, model="good")
    bad = make_run(tmp_path / "bad", FULL, {"grad_cam": FULL / 2}, model="bad")
    page = outputs([good, bad], tmp_path)[-1]
    assert re.findall(r'role="note">(?:<p><a href="#(run-\d)">)?', page) == ["run-1", ""]


def test_undefined_values_are_named_and_explained(tmp_path):
    run = make_run(tmp_path / "run", -LONG, {"grad_cam": -2 * LONG, "centre": -3 * LONG}, paper=None)
    terminal, text, tex, _ = outputs([run], tmp_path)
    for shown in (terminal, text, tex):
        assert "undefined" in shown and not re.search(r"\bnan\b", shown)
        assert "Drops in activation are undefined: no image has Y > 0 to divide by" in shown.replace(r"\textgreater{}", ">")
    assert "undefined" not in " ".join(caption(make_run(tmp_path / "other", LONG, {"grad_cam": LONG / 2})))


def test_one_image_has_no_interval(tmp_path):
    run = make_run(tmp_path / "run", FULL[:1], {m: s[:1] for m, s in MASKED.items()}, paper=None)
    shown = outputs([run], tmp_path)
    assert not any(re.search(r"\bnan\b", one) for one in shown) and ["no interval" in one for one in shown] == [True, True, False, True]


def test_ranks_that_tie_have_no_agreement():
    tied = pd.Series([1.0, 1.0])
    assert map_tables._agreement(tied, tied) == "undefined (fewer than two ranks)"


def test_what_a_caption_counts(tmp_path):
    status = {(0, method): "error" for method in MASKED} | {(1, "grad_cam"): "nonfinite"}
    assert caption(make_run(tmp_path / "all", FULL, MASKED))[0].startswith("4 of 4 images scored at ")
    first = caption(make_run(tmp_path / "some", FULL, MASKED, status=status))[0]
    assert first.startswith("2 of 4 images scored (2 excluded: 1 unreadable, 1 with non-finite maps or scores) at ")
    first = caption(make_run(tmp_path / "part", FULL, MASKED, status=status, images=100))[0]
    assert first.startswith("2 of the 100 images scored so far (2 excluded: ")
    lines = caption(make_run(tmp_path / "one", FULL, MASKED, record={"class_names": ["tumour"]}))
    assert not any(line.startswith("Top-1") for line in lines) and any("the network has one output; weights: w." in line for line in lines)


def test_the_report_has_an_audit_where_there_are_controls(tmp_path):
    better = {"grad_cam": LONG / 2, "grad_cam+blurred": LONG * 0.9}
    page = outputs([make_run(tmp_path / "run", LONG, better)], tmp_path)[-1]
    section = page[page.index('<section id="audit">') :].partition("</section>")[0]
    assert 'href="#audit"' in page and "of 9 combinations of protocol point, score and metric fail, " in section
    assert (
        "<b>top 20 % kept, black fill, average drop in activation FAILS</b>: grad_cam+blurred is better than grad_cam by 40.00" in section
    )
    assert "What fails (" in section and "What cannot fail, and has no verdict" in section and "studentised and wide" in section
    without = outputs([make_run(tmp_path / "plain", LONG, {"grad_cam": LONG / 2})], tmp_path)[-1]
    assert "#audit" not in without and 'id="audit"' not in without
