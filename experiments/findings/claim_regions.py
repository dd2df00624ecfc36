"""Does Grad-CAM highlight smaller, less complete regions of an object than Ablation-CAM? The share of the boxes that the maps cover."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from claim_rows import Claim, Row
from claim_runs import KEEP, SETTINGS, shared_run
from coco_objects import images_of, maps_of

from evalkit import protocol
from evalkit.analysis.load import Run
from evalkit.data.boxes import to_input
from evalkit.evaluation import localisation
from evalkit.evaluation.session import Session

HIGHLIGHTED = 0.2
"""Share of the maximum above which a pixel is highlighted: the threshold of CAM (Zhou et al., CVPR 2016, section 3.2)."""
ABOVE = "of the box above 20 % of the map's maximum, %"
TOP = "of the box in the top 20 % of the pixels, %"
WHOLE = "of the image above 20 % of the map's maximum, %"
CLAIM = Claim(
    "Grad-CAM highlights relatively smaller, incomplete regions of an object, which Ablation-CAM does not.",
    "Desai and Ramaswamy 2020, sections 2 and 5",
    "",
    "",
    how="Correctly classified images with boxes. Both maps are upsampled to the input; a pixel is highlighted above 20 % of its map's "
    "maximum, or where it is among the top 20 % of all pixels. Differences are Ablation-CAM less Grad-CAM, paired, in points. Images "
    "whose map is empty for one method are left out.",
)


def measure(data: Path, out: Path) -> list[Row]:
    """Return the rows of both networks."""
    rows = []
    for setting in SETTINGS:
        table = covered(*shared_run(setting, data, out))
        rows += compared(replace(CLAIM, network=setting.network, data=setting.data), table)
    return rows


def covered(session: Session, run: Run) -> pd.DataFrame:
    """Return the measures of both methods, a row for each correctly classified image with a box and method."""
    rows = []
    for of_image in images_of(run):
        index, label = int(of_image["index"].iloc[0]), of_image.label.iloc[0]
        boxes = [to_input(box, session.model.preprocess) for box in session.source.boxes(index)]
        region = localisation.region([box for box in boxes if box is not None], *session.size)
        if label != of_image.target.iloc[0] or not region.any():
            continue
        for method in ("ablation_cam", "grad_cam"):
            found = shares(protocol.upsample(maps_of(of_image[of_image.method == method]), session.size), region)
            rows.append({"index": index, "method": method, **found})
    return pd.DataFrame(rows)


def shares(maps: torch.Tensor, region: torch.Tensor) -> dict[str, float]:
    """Return the measures of a map (1,H,W) and a region (H,W); nan for a map without a positive value."""
    highest = float(maps.amax())
    if highest <= 0:
        return dict.fromkeys((ABOVE, TOP, WHOLE), float("nan"))
    above, top = maps[0] > HIGHLIGHTED * highest, protocol.Ranking(maps).top(KEEP.top_percent or 0)[0]
    inside = region.sum()
    return {
        ABOVE: 100 * float((above & region).sum() / inside),
        TOP: 100 * float((top & region).sum() / inside),
        WHOLE: 100 * float(above.double().mean()),
    }


def compared(claim: Claim, table: pd.DataFrame) -> list[Row]:
    """Return levels and differences of each measure; the claim expects that Ablation-CAM covers more of the boxes."""
    rows = []
    for measure in (ABOVE, TOP, WHOLE):
        values = table.pivot(index="index", columns="method", values=measure)
        ablation, grad = values.ablation_cam, values.grad_cam
        rows += [claim.level(f"Ablation-CAM: {measure}", ablation), claim.level(f"Grad-CAM: {measure}", grad)]
        rows.append(claim.difference(f"difference: {measure}", ablation, grad, expects="" if measure == WHOLE else "> 0"))
    return rows
