"""`evalkit leaderboard` as a user meets it: page, summary, check, exit codes."""

import json

import pytest
from builders import fresh, make_run
from commands import through_main

from evalkit.output.leaderboard_check import read_summary
from evalkit.runs.folder import RunFolder


@pytest.fixture
def run(tmp_path):
    rng = fresh()
    full = rng.uniform(1, 9, 35)
    return make_run(tmp_path / "run", full, {name: full * rng.uniform(0, 1, 35) for name in ("grad_cam", "layer_cam", "centre")}).path


def test_summary_check_page(run, tmp_path):
    summary, page = tmp_path / "folder" / "mine.parquet", tmp_path / "page.html"
    record = {"date": "2026-02-03", "images": 35, "of": 35, "differences": 0, "rows_digest": RunFolder(run).digest(), "seed": 0}
    (tmp_path / "verified.json").write_text(json.dumps(record))
    more = ("--report", "https://example.org/report.html", "--verified", str(tmp_path / "verified.json"))
    said = through_main("leaderboard", str(run), "--summary", str(summary), *more)
    assert said.returncode == 0 and f"written: {summary} (" in said.stderr and summary.stat().st_size < 200_000
    said = through_main("leaderboard", "--check", str(summary))
    assert (said.returncode, said.stdout) == (0, "") and "1 checked, nothing wrong" in said.stderr
    said = through_main("leaderboard", str(summary), str(run), "--out", str(page))
    assert said.returncode == 0 and f"written: {page} (1 run, " in said.stderr
    assert "verified, 2026-02-03, all" in page.read_text() and 'href="https://example.org/report.html"' in page.read_text()


def test_a_summary_of_two_folders_with_a_record_of_each(run, tmp_path):
    new = make_run(tmp_path / "new", [2.0, 3.0] * 17 + [1.0], {"mine": [1.0] * 35}).path
    options = []
    for path in (run, new):
        record = {"date": "2026-02-03", "images": 35, "of": 35, "differences": 0, "rows_digest": RunFolder(path).digest(), "seed": 0}
        (tmp_path / f"{path.name}.json").write_text(json.dumps(record))
        options += ["--verified", str(tmp_path / f"{path.name}.json")]
    said = through_main("leaderboard", str(run), str(new), "--summary", str(tmp_path / "both.parquet"), *options)
    assert said.returncode == 0, said.stderr
    facts = read_summary(tmp_path / "both.parquet").facts
    assert list(facts["methods"]) == ["grad_cam", "layer_cam", "centre", "mine"] and facts["verified"]["images"] == 35


def test_a_failed_check_ends_with_1_and_a_sentence_for_each_failure(run, tmp_path):
    for name in ("a", "b"):
        through_main("leaderboard", str(run), "--summary", str(tmp_path / f"{name}.parquet"))
    (tmp_path / "c.parquet").write_bytes(b"no parquet")
    said = through_main("leaderboard", "--check", *(str(tmp_path / f"{name}.parquet") for name in "abc"))
    lines = said.stdout.splitlines()
    assert said.returncode == 1 and len(lines) == 2 and "3 checked, 2 wrong" in said.stderr
    assert "b.parquet: it is of the same run as" in lines[0] and "c.parquet: it is no summary, or was changed" in lines[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["RUN", "--report", "https://x.org"], "name its file with --summary"),
        (["RUN", "--check", "--summary", "x.parquet"], "give one of the two"),
        (["RUN", "OTHER", "--summary", "x.parquet"], "are several runs, and a summary is of one"),
        (["RUN", "--summary", "x.parquet", "--verified", "record.json"], "is of other rows than those of"),
        (["RUN", "--summary", "x.csv"], "name one that ends in .parquet"),
        (["RUN", "--summary", "x.parquet", "--verified", "none.json"], "cannot read none.json"),
        (["RUN", "--summary", "x.parquet", "--report", "report.html"], "is no address of the web"),
        (["--check", "none.parquet"], "there is no file none.parquet"),
        (["--check", "RUN"], "there is no file"),
        (["nowhere"], "nowhere is not a run folder"),
        (["none.parquet"], "there is no file none.parquet"),
    ],
)
def test_bad_input_ends_with_2_and_one_sentence(run, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "other", [1.0, 2.0], {"centre": [0.5, 0.5]}, model="other")
    record = {"date": "2026-02-03", "images": 35, "of": 35, "differences": 0, "rows_digest": "0" * 64, "seed": 0}
    (tmp_path / "record.json").write_text(json.dumps(record))
    paths = {"RUN": str(run), "OTHER": str(tmp_path / "other")}
    said = through_main("leaderboard", *(paths.get(word, word) for word in arguments))
    assert said.returncode == 2 and says in said.stderr and len(said.stderr.splitlines()) == 1, said.stderr
    assert not (tmp_path / "x.parquet").exists() and not (tmp_path / "leaderboard.html").exists()
