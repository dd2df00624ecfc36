"""The simulation of stopped runs, end to end on a few differences."""

import numpy as np
import pandas as pd
import pytest
import sequence_coverage
from builders import fresh

from evalkit.sequence import settled


def test_first_settled_is_the_first_look_that_settles():
    values = (fresh().normal(15, 40, 400)).clip(-100, 100)
    looks = [n for n in range(1, 401) if settled(values[:n], 100)]
    assert sequence_coverage.first_settled(values) == (looks[0] if looks else np.inf)
    assert sequence_coverage.first_settled(np.zeros(50)) == np.inf


def test_the_naive_interval_is_that_of_a_loop():
    for _ in range(10):
        values = fresh().normal(0, 20, 90)
        expected = any(abs(values[:n].mean()) > 1.96 * values[:n].std() / n**0.5 for n in range(30, 91))
        assert sequence_coverage.naive_left(values) == expected


def test_end_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sequence_coverage, "LOOKS", 300)
    monkeypatch.setattr(sequence_coverage, "EFFECTS", (30.0,))
    np.savetxt(tmp_path / "differences.txt", fresh().normal(0, 20, 50))
    sequence_coverage.main(tmp_path / "differences.txt", tmp_path / "out", trials=40, repeats=10, seed=1)
    table = pd.read_csv(tmp_path / "out" / "sequence_coverage.csv").set_index("quantity")
    assert table.value["excluded the truth: sequence"] <= 0.2
    assert 5 < table.value["median images"] <= table.value["images in 80 % of runs"] < 200
    assert table.value["ratio at 80 %"] == pytest.approx(
        table.value["images in 80 % of runs"] / table.value["fixed n for 80 % power"], rel=1e-3
    )
    assert "median images" in capsys.readouterr().out
