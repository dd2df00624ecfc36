"""Galleries are the same wherever they are made, and what fails there fails here."""

import pytest
from builders import FULL, MASKED, make_run

from evalkit.errors import UserError
from evalkit.photos import galleries


@pytest.mark.parametrize("aside", [False, True])
def test_made_in_another_process(tmp_path, monkeypatch, aside):
    make_run(tmp_path / "one", FULL, MASKED)
    make_run(tmp_path / "two", FULL + 1, MASKED, model="other")
    paths = [str(tmp_path / "one"), str(tmp_path / "two")]
    expected = galleries.make(paths, 2, None, allow_incomplete=False)
    monkeypatch.setattr(galleries, "worth_a_process", lambda: aside)
    with galleries.Galleries(paths, each=2, root=None, allow_incomplete=False) as made:
        assert made.result() == expected and len(expected) == 2
    assert all(data["items"] and notes for data, notes in expected)  # there are no photographs, which notes say


def test_runs_that_cannot_be_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(galleries, "worth_a_process", lambda: True)
    with (
        galleries.Galleries([str(tmp_path / "absent")], each=2, root=None, allow_incomplete=False) as made,
        pytest.raises(UserError, match="absent is not a run folder"),
    ):
        made.result()
