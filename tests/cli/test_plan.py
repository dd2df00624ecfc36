"""`evalkit plan` as a user meets it: what it prints and writes, and one sentence for runs that give no plan."""

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from builders import make_run, run_of, tiny_overrides
from commands import here, through_main
from rich.console import Console

from evalkit.analysis.load import load_runs
from evalkit.analysis.plan import plan
from evalkit.output.plan import print_plan


def test_plan_is_printed_and_written(tmp_path):
    rng = np.random.default_rng(1)
    full = rng.uniform(5, 9, 60)
    masked = {"ablation_cam": full - rng.exponential(1, 60), "grad_cam": full - rng.exponential(1, 60), "centre": full - 4}
    run = make_run(tmp_path / "pilot", full, masked)
    said = through_main("plan", str(run.path), "--correct", "none")
    assert said.returncode == 0, said.stderr
    asked = ("ablation_cam - grad_cam", "images for 80 %", "± 50,000", "more than ", "uncorrected, though the run has 18 comparisons")
    for text in (*asked, "evalkit verdict corrects for a family of its own", "plan.csv has these columns for all 18"):
        assert text in said.stdout, text
    assert said.stdout.index("In brackets: images") < said.stdout.index("± 50,000") and "until" not in said.stdout
    assert f"written: {run.path}/plan.csv" in said.stderr
    written = pd.read_csv(run.path / "plan.csv")
    assert len(written) == 18 and (written.level == 0.05).all()
    assert len(load_runs([run.path, run.path / "plan.csv"])) == 1  # a shell's * names the file too


def test_the_plan_of_many_points_is_short_and_counts_every_comparison(tmp_path):
    rng = np.random.default_rng(2)
    full = rng.uniform(5, 9, 40)
    names = ("ablation_cam", "grad_cam", "grad_cam_pp", "centre", "random")
    points = [(select, top, fill) for select in ("keep_top", "remove_top") for top in (0.0, 20.0, 50.0) for fill in ("black", "blur")]
    scores = {
        point: {name: full * (0.5 if point[1] == 0 else rng.uniform(0, 1, 40) * share) for share, name in enumerate(names, 1)}
        for point in points
    }
    run = run_of(tmp_path / "pilot", full, scores)
    end = {"settled": True, "first": "grad_cam", "second": "random"}
    run = replace(run, provenance={**run.provenance, "end": end})
    table = plan(run)
    told = table[np.isfinite(table.images_high) & (table.sd > 0)]
    for width in (60, 80, 120):
        terminal = io.StringIO()
        print_plan(Console(width=width, file=terminal), run, table, 0.8, 0.05, "holm")
        shown = terminal.getvalue()
        assert max(map(len, shown.splitlines())) <= width and (width < 80 or len(shown.splitlines()) < 85)
        said = " ".join(shown.split())
        assert f"Of {len(table)} comparisons the pilot tells {len(told)} from zero" in said and len(table) == 10 * 8 * 2 * 3
        assert f"settled: {(told.images <= 1000).sum():,} by 1,000" in said and f"needs {told.images.max():,.0f} images" in said
        assert "until stopped this pilot as soon as grad_cam - random was settled" in said
    pair = told[(told["first"] == "grad_cam") & (told.second == "random")]
    line = next(line.split() for line in shown.splitlines() if line.split()[:3] == ["grad_cam", "-", "random"])
    assert line[3:] == [*(str((pair.images <= size).sum()) for size in (1000, 5000, 50000)), "0", str(48 - len(pair)), "0", "48"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--power", "2"], "--power 2 is not valid"),
        (["--correct", "hol"], "--correct hol is not valid: give holm, bh"),
        ([], "3 scored images"),
    ],
)
def test_bad_plans_end_in_one_sentence(tmp_path, options, says):
    run = make_run(tmp_path / "pilot", np.full(3, 5.0), {"grad_cam": np.full(3, 4.0), "centre": np.full(3, 3.0)})
    said = through_main("plan", str(run.path), *options)
    assert said.returncode == 2 and says in said.stderr and "Traceback" not in said.stderr


def test_a_run_of_one_method_and_no_run(folder, tmp_path):
    here("run", *[o for o in tiny_overrides(folder, tmp_path / "run") if not o.startswith("method=")], "method=[grad_cam]")
    said = through_main("plan", str(tmp_path / "run"))
    assert said.returncode == 2 and "has one method, grad_cam" in said.stderr
    said = through_main("plan", str(folder))
    assert said.returncode == 2 and "no run folder was found" in said.stderr
