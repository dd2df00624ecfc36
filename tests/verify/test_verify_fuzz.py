"""Runs altered at random: each alteration is found, or its images were not recomputed and the fraction is said."""

import pandas as pd
import pytest
from alterations import ALTERATIONS, BY_RECOMPUTING
from builders import fresh
from verify_fuzz import expectation, finished, page, tried, write

COPIES = 40


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "run"
    return path, finished(path)


def test_alterations_are_found_or_the_fraction_is_said(whole, tmp_path):
    rng, rows = fresh(), []
    kinds = [*range(len(ALTERATIONS)), *rng.integers(0, len(ALTERATIONS), COPIES - len(ALTERATIONS))]
    for kind in kinds:
        row = tried(*whole, int(kind), rng, tmp_path)
        rows.append(row)
        hidden = ALTERATIONS[kind] in BY_RECOMPUTING
        if not hidden:
            assert row["found"] in ("record", "structure", "refused"), row
        elif not row["altered"]:  # two points with nearly equal scores exchanged: no image is altered by more than rounding for certain
            assert row["found"] in ("", "recomputing"), row
        elif row["in_sample"]:
            assert row["found"] == "recomputing" or row["as_swap"], row
        else:
            assert row["found"] == "" and row["says_fraction"] and row["says"].startswith("verified: "), row
        assert row["says_fraction"], row
    table = pd.DataFrame(rows)
    write(table, tmp_path, seed=0)
    assert len(page(table).splitlines()) == 2 + len(ALTERATIONS) and "hypergeometric" in expectation(table)
    assert len(pd.read_csv(tmp_path / "verify_fuzz.csv")) == COPIES
    assert all(line.endswith("| 0 |") for line in page(table).splitlines()[2:])
