"""Ablation-CAM against Grad-CAM where an image shows several instances of a category, and where it shows one (COCO photographs)."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
from claim_rows import Claim, Row
from coco_objects import NETWORKS, finished, instance_table, run_overrides, write_lists
from coco_statistics import BETWEEN, ENERGY, HIT, IOU, ONE, RECOGNISED, SEVERAL, by_network, contrasts, levels

PAIR = ("ablation_cam", "grad_cam")
LOCATED = (HIT, ENERGY, IOU)
"""Measures of detection, which the claim is about; drops describe."""
CLAIM = Claim(
    "Ablation-CAM is even better than Grad-CAM at detecting multiple occurrences of an object.",
    "Desai and Ramaswamy 2020, section 5 and figure 3",
    "",
    "coco256, all images and categories that have an output",
    how="The gain of Ablation-CAM over Grad-CAM, paired, in points (positive is better), for categories that the network recognises "
    f"(confidence above {RECOGNISED:g}): where the image shows several instances, where it shows one, and the difference of the two. "
    f"The claim expects a gain with several instances, and a larger one than with one, on {', '.join(LOCATED)}. An instance is hit if the "
    "map is denser in its box than outside all of its category. n counts categories of images in each network; images are drawn whole.",
)


def measure(data: Path, out: Path) -> list[Row]:
    """Return the rows of all networks together, and of each network."""
    write_lists(data, out)
    tables = []
    for network in NETWORKS:
        overrides = [*run_overrides(network, data, out, "objects", (*PAIR, "centre")), "protocol.top_percent=20", "workers=0"]
        tables.append(instance_table(*finished(overrides)))
    return compared(CLAIM, pd.concat(tables, ignore_index=True))


def compared(claim: Claim, table: pd.DataFrame) -> list[Row]:
    """Return the rows of a table as `coco_objects.instance_table` makes it: levels and gains; those of each network for hits alone."""
    rows = []
    parts = list(by_network(table[table.prob_full > RECOGNISED]))
    for network, part in reversed(parts):
        whole = network == parts[-1][0]
        about = replace(claim, network="all networks" if network == "all" else network)
        for items, chosen in ((SEVERAL, part.instances > 1), (ONE, part.instances == 1)):
            found = [row for row in levels(part[chosen], {}, ()) if row["measure"] == HIT and whole]
            rows += [_row(about, row, f"{row['method']}, {items}: {HIT}", "") for row in found]
        for row in contrasts(part, {}, (PAIR,)):
            tested = whole and row["measure"] in LOCATED and row["items"] in (SEVERAL, BETWEEN)
            if whole or row["measure"] == HIT:
                rows.append(_row(about, row, f"gain, {row['items']}: {row['measure']}", "> 0" if tested else ""))
    return rows


def _row(claim: Claim, row: dict[str, float], measure: str, expects: str) -> Row:
    numbers = {name: row[name] for name in ("value", "low", "high", "p")}
    return claim.estimate(measure, **numbers, images=int(row["images"]), n=int(row["n"]), expects=expects)
