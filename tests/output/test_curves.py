"""Runs over thresholds: where all or nothing is kept, maps do not matter, and neither tests nor agreement are of that."""

import io

import numpy as np
import pandas as pd
import pytest
from builders import fresh, run_of
from rich.console import Console

from evalkit.analysis.evaluated import evaluate_run
from evalkit.analysis.plan import plan
from evalkit.analysis.summary import compare
from evalkit.errors import UserError
from evalkit.output.map_tables import protocol_cells
from evalkit.output.tables import comparison_table, interval
from evalkit.output.terminal import print_tables
from evalkit.point import Point

NAMES = ("ablation_cam", "grad_cam", "centre")
ENDS = {("keep_top", 0.0): 0.1, ("keep_top", 100.0): 1.0, ("remove_top", 0.0): 1.0, ("remove_top", 100.0): 0.1}


def curves(tmp_path, middle=True, ends=True):
    rng = np.random.default_rng(3)
    full = rng.uniform(5, 9, 40)
    shares = {(select, 50.0): {name: full * rng.uniform(0, 1, 40) for name in NAMES} for select in ("keep_top", "remove_top")}
    alike = {at: dict.fromkeys(NAMES, full * share) for at, share in ENDS.items()}
    points = {**(alike if ends else {}), **(shares if middle else {})}
    return run_of(tmp_path, full, {(*at, "black"): points[at] for at in sorted(points)})


def test_points_that_do_not_depend_on_the_map_are_in_no_family(tmp_path):
    with_ends, without = compare(curves(tmp_path / "a")), compare(curves(tmp_path / "b", ends=False))
    pd.testing.assert_frame_equal(with_ends.drop(columns="run"), without.drop(columns="run"), check_exact=True)
    assert set(with_ends.top_percent) == {50.0} and len(plan(curves(tmp_path / "c"))) == len(without)
    one = evaluate_run(curves(tmp_path / "d", middle=False))
    assert one.comparisons.empty and not comparison_table(one, Point("keep_top", 0.0, "black"))
    with pytest.raises(UserError, match="keeps or removes 0 or 100 % at every protocol point, so there is no difference to plan for"):
        plan(one.run)


def test_the_terminal_has_areas_and_gains(tmp_path):
    one = evaluate_run(curves(tmp_path))
    terminal = io.StringIO()
    print_tables(Console(width=100, file=terminal), [one])
    shown = terminal.getvalue()
    for score in ("confidence", "activation"):
        table = shown[shown.index(f" {score}, black") :].splitlines()
        assert table[0].split("  ")[1:] and "Insertion AUC ↑" in table[0] and "Deletion AUC ↓" in table[0] and "SRG ↑" in table[0]
        for name, line in zip(NAMES, table[2:], strict=False):
            rows = one.measures[(one.measures.method == name) & (one.measures.score == score)]
            said = [interval(row.value, row.low, row.high) for row in rows.itertuples()]
            assert len(said) == 3 and line.split()[0] == name and all(value in line for value in said)


def test_the_ranks_agree_with_the_first_that_has_two(tmp_path):
    header, *_, last = protocol_cells(evaluate_run(curves(tmp_path)))
    assert last[0] == "Kendall's tau with top 50 % kept, black fill" and last[1 + header[1:].index(header[2])] == "1.00"
    assert [cell.startswith("undefined") for cell in last[1:]] == ["top 50" not in name for name in header[1:]]
    plain = protocol_cells(evaluate_run(curves(tmp_path / "plain", ends=False)))
    assert plain[-1][:2] == ["Kendall's tau with the first column", "1.00"]


def test_what_depends_on_the_map():
    rng = fresh()
    assert Point("soft", None, "black").depends_on_map and Point("keep_top", float(rng.uniform(0.1, 99.9)), "mean").depends_on_map
    assert not any(Point(select, top, "black").depends_on_map for select in ("keep_top", "remove_top") for top in (0.0, 100.0))
