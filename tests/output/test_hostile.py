"""Run folders, data sets and names made by somebody who means harm: read for tables, shown, never obeyed."""

import logging
import re
import sys

import numpy as np
import pytest
from builders import ESCAPE, HOSTILE, finished_rows, make_run, tiny_overrides
from commands import through_main

from evalkit.analysis.evaluated import evaluate_run
from evalkit.analysis.load import load_runs
from evalkit.cli.main import main
from evalkit.errors import UserError, log_to_stderr, printable
from evalkit.output.plots import write_figures
from evalkit.output.write import write_all


def scores(n=6):
    rng = np.random.default_rng(0)
    return rng.uniform(1, 9, n)


def test_names_in_a_run_folder_are_only_text(tmp_path, capsys, monkeypatch):
    methods = {HOSTILE: scores() / 2, "grad_cam": scores() / 3, "centre": scores() / 4}
    make_run(tmp_path / "run", scores(), methods, model=HOSTILE, layer=HOSTILE, fingerprint=HOSTILE)
    monkeypatch.setattr(sys, "argv", ["evalkit", "tables", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    text = (tmp_path / "run" / "tables.md").read_text()
    for shown in (capsys.readouterr().out, text, (tmp_path / "run" / "tables.tex").read_text()):
        assert "\x1b" not in shown and "\u202e" not in shown and "alert(1)" in shown and "\n# title" not in shown
    assert not re.search(r"(?<!\\)<(script|/script)", text) and "](" not in text
    assert len(list((tmp_path / "run" / "figures").glob("*.png"))) == 3


def test_our_own_markdown_needs_no_such_care(tmp_path):
    made = make_run(tmp_path / "run", scores(), {"ablation_cam": scores() / 2, "grad_cam": scores() / 3, "centre": scores() / 4})
    write_all([evaluate_run(made)], tmp_path, None)
    assert "\\<" not in (tmp_path / "tables.md").read_text() and "]\\(" not in (tmp_path / "tables.md").read_text()


def test_tables_import_and_instantiate_nothing(tmp_path, monkeypatch):
    """A record whose `_target_` would run code, and a run.yaml that would, were it read with yaml's unsafe loader."""
    mark = tmp_path / "executed"
    (tmp_path / "trap.py").write_text(f"open({str(mark)!r}, 'w')\ndef cam(probe): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    make_run(tmp_path / "run", scores(), {"grad_cam": scores() / 2, "centre": scores() / 3}, settings={"_target_": "trap.cam"})
    (tmp_path / "run" / "run.yaml").write_text(f"!!python/object/apply:os.system ['touch {mark}']\n_target_: trap.cam\n")
    write_all([evaluate_run(run) for run in load_runs([tmp_path / "run"])], tmp_path / "out", write_figures)
    assert not mark.exists() and "trap" not in sys.modules


def test_protocol_points_name_no_files(tmp_path):
    with pytest.raises(UserError, match=re.escape("does not know: keep_top/../../x")):
        make_run(tmp_path / "run", scores(), {"grad_cam": scores() / 2}, select="keep_top/../../x")


def test_names_in_a_data_set(folder, tmp_path):
    """The data keep them as they are; nothing that is shown repeats them raw."""
    (folder / "a").rename(folder / ESCAPE.replace("/", ""))
    rows = finished_rows([*tiny_overrides(folder, tmp_path / "run"), "model.classes=null"])
    assert any("\x1b" in name for name in rows.image_id)
    write_all([evaluate_run(run) for run in load_runs([tmp_path / "run"])], tmp_path / "out", None)
    assert "\x1b" not in (tmp_path / "out" / "tables.md").read_text()


def test_messages_carry_no_escape_sequences(folder, tmp_path):
    (folder / "labels.csv").write_text(f"file,wnid\n../{ESCAPE}x.png,n\n")
    ended = through_main("run", *tiny_overrides(folder, tmp_path / "run"))
    assert ended.returncode == 2 and "lies outside" in ended.stderr and "\x1b" not in ended.stderr and "\\x1b" in ended.stderr


def test_warnings_carry_none(capsys):
    root = logging.getLogger()
    before, root.handlers = root.handlers, []
    try:
        log_to_stderr(logging.WARNING)
        logging.getLogger("evalkit.test").warning("a label called %s", ESCAPE)
    finally:
        root.handlers = before
    assert capsys.readouterr().err == "WARNING: a label called \\x1b[2J\\x1b]0;owned\\x07\n"


def test_printable():
    assert printable("Äpfel 犬 a\tb\nc\x00\x9b") == "Äpfel 犬 a b c\\x00\\x9b"
