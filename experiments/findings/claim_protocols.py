"""Which protocol separates CAM methods from controls better: multiplication by the map, or removal of the top 25 %?"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from claim_rows import Claim, Row
from claim_runs import REMOVE, SETTINGS, SOFT, drops, shared_run
from numpy.typing import NDArray

CAMS = ("cam", "grad_cam", "grad_cam_pp", "ablation_cam")
CONTROLS = ("random", "centre", "constant")
CLAIM = Claim(
    "Removing the highest scoring 25 % (method 2) works better than multiplying by the map (method 1).",
    "Bisen and Bakshi, sections 5.1 and 5.2",
    "",
    "",
    how="A protocol works if it tells methods from controls. Superiority: the share of images where a method's drop is better than a "
    f"control's (smaller under method 1, larger under method 2; ties count half; 50 is chance), the mean over {', '.join(CAMS)} (CAM only "
    "on networks that have it). The claim expects a higher superiority under method 2, paired by image, against each control. A constant "
    "map has no soft mask: method 1 shows a black image.",
)


def measure(data: Path, out: Path) -> list[Row]:
    """Return the rows of both networks."""
    rows = []
    for setting in SETTINGS:
        _, run = shared_run(setting, data, out)
        claim = replace(CLAIM, network=setting.network, data=setting.data)
        for score in ("confidence", "activation"):
            rows += compared(claim, drops(run, SOFT, score), drops(run, REMOVE, score), score)
    return rows


def compared(claim: Claim, soft: pd.DataFrame, remove: pd.DataFrame, score: str) -> list[Row]:
    """Return the rows of one network and score from the drops of each image (row) and method (column) under both protocols.

    The document measures confidence, so only that is judged.
    """
    rows = []
    for control in CONTROLS:
        first, second = superiority(soft, control, larger=False), superiority(remove, control, larger=True)
        expects = "> 0" if score == "confidence" else ""
        rows += [
            claim.level(f"superiority over {control} in {score}, method 1, %", first),
            claim.level(f"superiority over {control} in {score}, method 2, %", second),
            claim.difference(f"superiority over {control} in {score}, method 2 less method 1, points", second, first, expects=expects),
        ]
    return rows


def superiority(table: pd.DataFrame, control: str, larger: bool) -> NDArray[np.float64]:
    """Return for each image (n,) the percentage of the methods whose drop is better than the control's; nan if one is undefined."""
    gains = np.stack([table[method] - table[control] for method in CAMS if method in table]) * (1 if larger else -1)
    better = np.where(np.isnan(gains), np.nan, 100.0 * (gains > 0) + 50.0 * (gains == 0))
    return better.mean(0)
