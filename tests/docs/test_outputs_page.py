"""docs/outputs.md: each of its commands runs as it stands, and makes the scores that the page says."""

import re
import sys

import numpy as np
import pytest
import shown
from builders import ROOT

from evalkit.analysis import resampling
from evalkit.analysis.load import load_runs

PAGE = ROOT / "docs" / "outputs.md"
EXAMPLES = ("two_parts", "one_logit", "regression", "detector", "segmenter", "similarity", "zero_shot")


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """The run of each example by the name of its folder."""
    folder = tmp_path_factory.mktemp("outputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.setattr(resampling, "RESAMPLES", 50)
        patch.setattr(shown, "runs_here", lambda _job: True)
        reader = shown.Reader(folder, [])
        for block in shown.blocks(PAGE.read_text()):
            reader.follow(block)
        yield {run.path.name: run for run in load_runs([folder / "results"])}
    for name in EXAMPLES:
        sys.modules.pop(name, None)


def test_every_example_has_a_run(followed):
    assert set(followed) == set(re.findall(r"out=results/(\w+)", PAGE.read_text())) - {"clip"}
    for run in followed.values():
        assert run.counts()["scored"] == 4 and np.isfinite(run.rows.logit_masked).all()


@pytest.mark.parametrize(("name", "names"), [("ink", {"ink", "-ink"}), ("boxes", None), ("regions", None), ("similar", None)])
def test_scores_without_confidences(name, names, followed):
    run = followed[name]
    assert run.raw and run.rows.prob_full.isna().all() and run.rows.prob_masked.isna().all()
    assert names is None or set(run.rows.target_name) <= names
    ranges = {"ink": (0, np.inf), "boxes": (0, 1), "similar": (-1, 1), "regions": (-np.inf, np.inf)}
    assert run.rows.logit_full.between(*ranges[name]).all()


def test_confidences_of_one_logit_and_of_prompts(followed):
    rows = followed["odd"].rows
    np.testing.assert_allclose(rows.prob_masked, 1 / (1 + np.exp(-rows.logit_masked)), rtol=1e-12)
    assert set(rows.target_name) <= {"even", "odd"} and rows.label.isin([0, 1]).all()
    assert (rows.logit_full >= 0).all()  # the predicted class of two with opposite scores
    assert set(followed["prompts"].rows.target_name) <= {"zero", "one", "two"}
    assert followed["prompts"].rows.prob_full.between(1 / 3, 1).all()


def test_clip_of_hugging_face(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(shown, "runs_here", lambda _job: True)
    (block,) = (block for block in shown.blocks(PAGE.read_text()) if block.title == "clip.py")
    reader = shown.Reader(tmp_path, [])
    reader.follow(block)
    try:
        reader.do(next(iter(shown.commands(shown.Block(0, "", "", block.text.partition("\n")[0].removeprefix("# "))))))
    finally:
        sys.modules.pop("clip", None)
    (run,) = load_runs([tmp_path / "results" / "clip"])
    assert run.counts()["scored"] == 4 and run.rows.prob_full.between(1 / 3, 1).all()
    assert set(run.rows.target_name) <= {"zero", "one", "two"}
    assert run.provenance["identity"]["model"]["layer"].startswith("encoder.")
