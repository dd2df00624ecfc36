"""`evalkit plan` as a user meets it: what it prints and writes, and one sentence for runs that give no plan."""

import numpy as np
import pandas as pd
import pytest
from builders import make_run, tiny_overrides
from commands import here, through_main

from evalkit.analysis.load import load_runs


def test_plan_is_printed_and_written(tmp_path):
    rng = np.random.default_rng(1)
    full = rng.uniform(5, 9, 60)
    masked = {"ablation_cam": full - rng.exponential(1, 60), "grad_cam": full - rng.exponential(1, 60), "centre": full - 4}
    run = make_run(tmp_path / "pilot", full, masked)
    said = through_main("plan", str(run.path), "--correct", "none")
    assert said.returncode == 0, said.stderr
    for text in ("ablation_cam - grad_cam", "images for 80 %", "± 50,000", "more than ", "uncorrected, though the run has 18 comparisons"):
        assert text in said.stdout, text
    assert f"written: {run.path}/plan.csv" in said.stderr
    written = pd.read_csv(run.path / "plan.csv")
    assert len(written) == 18 and (written.level == 0.05).all()
    assert len(load_runs([run.path, run.path / "plan.csv"])) == 1  # a shell's * names the file too


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
    assert said.returncode == 2 and "is not a run folder" in said.stderr
