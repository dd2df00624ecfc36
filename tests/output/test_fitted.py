"""No terminal is so narrow that a number of a table is cut off or split, and no line is wider than the terminal."""

import io
from collections import Counter

import pytest
from builders import fresh, make_run
from rich.console import Console

from evalkit.analysis.evaluated import evaluate_run
from evalkit.output import listing
from evalkit.output.fitted import fits, fitted
from evalkit.output.tables import comparison_table, main_points
from evalkit.output.terminal import print_tables


def lines_of(renderable, width):
    terminal = io.StringIO()
    Console(width=width, file=terminal).print(renderable)
    return terminal.getvalue().splitlines()


@pytest.mark.parametrize("width", [30, 45, 60, 80, 100, 160])
def test_every_word_stays_whole(width):
    rng = fresh()
    values = [[f"{a:+.2f} [{b:+.2f}, {c:+.2f}]" for a, b, c in rng.normal(0, 10.0 ** rng.integers(0, 5), (4, 3))] for _ in range(6)]
    cells = [["method", "drop % [of all]", "increase", "p", "p (Holm)"], *(["grad_cam", *row] for row in values)]
    shown = lines_of(fitted(Console(width=width), cells), width)
    assert max(map(len, shown)) <= width
    words = Counter(" ".join(shown).split())
    assert not Counter(" ".join(cell for row in cells[1:] for cell in row[1:]).split()) - words
    fit = fits(Console(width=width), cells)
    assert fit == any(values[0][0] in line and values[0][3] in line for line in shown)


def test_a_long_name_is_folded_and_a_line_without_values_is_a_heading():
    name = "features.denseblock4.denselayer16.conv2"
    shown = lines_of(fitted(Console(width=40), [["of", "value"], [name, ""], [" grad_cam", "12.50 [1.00, 99.00]"]], most=16), 40)
    assert "".join(line.strip() for line in shown[3:6]) == name and shown[6].split()[0] == "grad_cam"
    narrow = lines_of(fitted(Console(width=12), [["of", "value"], ["grad_cam", "12.50 [1.00, 99.00]"]]), 12)
    assert [line.strip() for line in narrow] == ["grad_cam", "value", "12.50", "[1.00,", "99.00]"]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_corrected_p_of_large_families_is_whole(tmp_path, width):
    """Win by +100.00 [+100.00, +100.00] points makes the lines of the paired tests longer than 80 columns."""
    rng = fresh()
    full = rng.uniform(5, 9, 40)
    kept = {name: full * share * rng.uniform(0.9, 1, 40) for name, share in (("grad_cam", 0.9), ("ablation_cam", 0.89), ("centre", 0.1))}
    one = evaluate_run(make_run(tmp_path / "run", full, kept))
    terminal = io.StringIO()
    print_tables(Console(width=width, file=terminal), [one])
    shown = terminal.getvalue()
    assert max(map(len, shown.splitlines())) <= width and "+100.00" in shown
    tests = comparison_table(one, main_points(one.run)[0])[1:]
    words = Counter(shown[shown.index("Paired tests") :].split())
    for column in (3, 4):
        assert all(len(line[column].split()[-1]) == 5 for line in tests)
    assert not Counter(word for line in tests for cell in line[2:] for word in cell.split() if word != "<") - words


def test_listings_cut_no_name_or_number():
    terminal = io.StringIO()
    Console(width=60, file=terminal).print(listing.models(None))
    columns = [[cell.strip() for cell in line.split("│")[1:-1]] for line in terminal.getvalue().splitlines() if line.startswith("│")]
    assert "…" not in terminal.getvalue() and "mobilenet_v3_small" in "".join(line[0] for line in columns)
    assert {"56.522", "71.878"} <= {line[3] for line in columns} and "[64, 64]" in {line[2] for line in columns}


def test_a_control_version_is_broken_before_its_control():
    shown = lines_of(fitted(Console(width=40), [["of", "value", "other"], ["ablation_cam+shuffled", "-0.01 [-0.10, +0.10]", "+12.50"]]), 40)
    assert [line.split()[0] for line in shown[3:5]] == ["ablation_cam", "+shuffled"] and "+12.50" in shown[3]
