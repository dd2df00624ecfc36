"""The rows, verdicts and tables of claims.py on hand-made values."""

import claims
import numpy as np
import pandas as pd
import pytest
from builders import fresh
from claim_report import markdown, read
from claim_rows import COLUMNS, Claim, together, verdict

from evalkit.errors import UserError

CLAIM = Claim("Snow is white.", "Frost 1901, section 1", "net", "pictures", seeds="0", how="Looked at.")


@pytest.mark.parametrize(
    ("expects", "low", "high", "says"),
    [
        ("> 0", 0.1, 2, "holds"), ("> 0", -0.1, 2, "cannot be told"), ("> 0", -2, -0.1, "does not hold"), ("> 0", 0, 0, "cannot be told"),
        ("< 0.5", 0.1, 0.4, "holds"), ("< 0.5", 0.4, 0.6, "cannot be told"), ("< 0.5", 0.6, 0.7, "does not hold"),
        ("within 1", -0.9, 0.9, "holds"), ("within 1", -1.1, 0.9, "cannot be told"), ("within 1", 1.1, 2, "does not hold"),
        ("within 1", -2, -1.1, "does not hold"), ("> 0", float("nan"), float("nan"), "cannot be told"), ("", 1, 2, ""),
    ],
)  # fmt: skip
def test_verdict_of_an_interval(expects, low, high, says):
    assert verdict(expects, low, high) == says


def test_verdict_of_several_rows():
    assert together(["", ""]) == "" and together(["holds", ""]) == "holds"
    assert together(["holds", "cannot be told"]) == "cannot be told"
    assert together(["holds", "cannot be told", "does not hold"]) == "does not hold"


def test_rows_by_hand():
    values = fresh().normal(0, 1, 50)
    images = np.repeat(np.arange(25), 2)
    row = CLAIM.difference("gain", values + 3, values + 1, images, expects="> 0")
    assert row["value"] == row["low"] == row["high"] == pytest.approx(2)
    assert row["verdict"] == "holds" and row["p"] < 0.001 and (row["images"], row["n"]) == (25, 50)
    level = CLAIM.level("size", [1.0, 3.0, np.nan])
    assert level["value"] == 2 and level["n"] == 2 and np.isnan(level["p"]) and level["verdict"] == "" and tuple(level) == COLUMNS


def test_the_driver_keeps_what_was_measured(tmp_path, monkeypatch):
    of_snow = [CLAIM.level("size | weight", [1.0, 2.0]), CLAIM.difference("gain", [2.0, 2.0], [1.0, 1.0], expects="> 0")]
    of_ice = [Claim("Ice is hot.", "Frost 1901, 2", "net", "p").difference("heat", [0.0, 0.0], [1.0, 1.0], expects="> 0")]
    modules = {"first": lambda data, out: of_snow, "second": lambda data, out: of_ice}
    monkeypatch.setattr(claims, "MODULES", modules)
    claims.main(tmp_path, tmp_path / "out", ["second"])
    claims.main(tmp_path, tmp_path / "out", ["first"])
    text = (tmp_path / "out" / "claims.md").read_text()
    table = read(tmp_path / "out" / "claims.csv")
    assert table.module.to_list() == ["first", "first", "second"] and list(table.columns) == [*COLUMNS, "module"]
    claims.main(tmp_path, tmp_path / "out", ["none"])
    assert (tmp_path / "out" / "claims.md").read_text() == text == markdown(table)
    assert "| Snow is white. | Frost 1901, section 1 | gain: 1 [1, 1] (net, n = 2) | holds |" in text
    assert "| Ice is hot. | Frost 1901, 2 | heat: -1 [-1, -1] (net, n = 2) | does not hold |" in text
    assert "| gain | 1 [1, 1] | 0.500 | 2 | 2 | > 0 | holds |" in text and "| size \\| weight | 1.5 [0.793, 2.21] |" in text
    table.drop(columns=["expects", "verdict", "how"]).to_csv(tmp_path / "out" / "claims.csv", index=False)  # as earlier versions wrote it
    assert read(tmp_path / "out" / "claims.csv").expects.eq("").all()
    with pytest.raises(UserError, match="no claim 'frist'"):
        claims.main(tmp_path, tmp_path / "out", ["frist"])


def test_a_claim_with_different_rows_says_how_many():
    rows = [CLAIM.difference("gain", [2.0, 2], [1.0, 1], expects=expects) for expects in ("> 0", "< 0", "> 2", "within 2")]
    text = markdown(pd.DataFrame(rows).assign(module="first"))
    assert "| does not hold (holds on 2, does not hold on 2 of 4 rows) |" in text and text.count("Looked at.") == 1
