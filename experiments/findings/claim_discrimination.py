"""Class discrimination: how alike the maps of two classes of the same image are, for pixel methods, CAMs and their products."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from claim_rows import Claim, Row
from claim_runs import SETTINGS, Setting
from coco_objects import CONF, run_overrides, write_lists

from evalkit import methods, protocol
from evalkit.config.compose import compose_jobs
from evalkit.evaluation.sanity import similarity
from evalkit.evaluation.session import Session, open_session
from evalkit.pixels import in_unit_range
from evalkit.probe import Probe

PLAIN = ("guided_backprop", "gradient", "grad_cam", "ablation_cam")
METHODS = (*PLAIN, "guided_grad_cam", "guided_ablation_cam")
ALIKE = 0.9
"""Correlation from which two maps count as almost identical."""
IMAGES = 60

HOW = (
    "Spearman's correlation of the absolute values of an image's maps of two classes, over all pixels; 1: the class is ignored. On "
    "imagenette224 and imagenet_val_acuity the two classes are those with the highest scores, on coco256 every two categories that the "
    "image shows and that have outputs, each explained by its highest output. An image whose map is empty for one class "
    "has no correlation. Pixel maps are maxima of absolute values over colours."
)
NEARLY_ALL = Claim(
    "Guided backpropagation is not class-discriminative: the maps of two classes are almost identical.",
    *("Desai and Ramaswamy 2020, section 2; Bisen and Bakshi, section 4", "", ""),
    how=f"{HOW} Almost identical: a correlation above {ALIKE}.",
)
CAMS = Claim(
    "Grad-CAM and Ablation-CAM are class-discriminative.",
    *("Desai and Ramaswamy 2020, sections 1 and 6.5; Bisen and Bakshi, section 4", "", ""),
    how=HOW,
)
PRODUCTS = Claim("Guided Grad-CAM and Guided Ablation-CAM are class-discriminative.", CAMS.source, "", "", how=HOW)


def measure(data: Path, out: Path) -> list[Row]:
    """Return the rows of all networks and sets of images."""
    rows = []
    for setting in SETTINGS:
        table = two_highest(session_of(setting, data, out))
        rows += compared(setting.network, f"{setting.data.split(',')[0]}, a seeded sample of {IMAGES} images", table)
    write_lists(data, out)
    (job,) = compose_jobs(run_overrides("mobilenet_v2", data, out, "pairs", ["grad_cam"]), conf=CONF)
    return [*rows, *compared("mobilenet_v2", "coco256, all images with two or more categories", shown_together(open_session(job.config)))]


def session_of(setting: Setting, data: Path, out: Path) -> Session:
    """Open a network and the sample of its images."""
    overrides = [one for one in setting.overrides(data) if not one.startswith("sample=")]
    (job,) = compose_jobs([*overrides, "method=[grad_cam]", f"sample={IMAGES}", f"out={out}/discrimination"], conf=CONF)
    return open_session(job.config)


def two_highest(session: Session) -> pd.DataFrame:
    """Return the correlations between the maps of the two highest classes: a row for each image, a column for each method."""
    rows = []
    for position in session.positions:
        image = read(session, position)
        first, second = Probe(session.model.net, image).logits[0].topk(2).indices.tolist()
        rows.append({"image": position, **correlations(session, image, [first, second])})
    return pd.DataFrame(rows)


def shown_together(session: Session) -> pd.DataFrame:
    """Return the correlations between the maps of every two categories of an image, a row for each pair."""
    rows = []
    for position in session.positions:
        image = read(session, position)
        logits = Probe(session.model.net, image).logits[0]
        outputs = [session.model.classes.outputs_of(key) for key in session.source.class_keys(position)]
        highest = sorted({max(of_category, key=lambda output: float(logits[output])) for of_category in outputs if of_category})
        maps = absolute_maps(session, image, highest) if len(highest) > 1 else {}
        for i in range(len(highest)):
            for j in range(i):
                rows.append({"image": position, **{name: spearman(found[[i]], found[[j]]) for name, found in maps.items()}})
    return pd.DataFrame(rows)


def read(session: Session, position: int) -> torch.Tensor:
    """Return an image (1,3,H,W) in [0,1]."""
    return in_unit_range(session.model.preprocess(session.source.load(position))[None], session.model.net.dtype)


def correlations(session: Session, image: torch.Tensor, targets: Sequence[int]) -> dict[str, float]:
    """Return each method's correlation between its maps of two classes of an image (1,3,H,W); nan if a map is constant."""
    return {name: spearman(maps[[0]], maps[[1]]) for name, maps in absolute_maps(session, image, targets).items()}


def absolute_maps(session: Session, image: torch.Tensor, targets: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return |maps| (n,H,W) of n classes of an image (1,3,H,W), by method; the products reuse guided backpropagation."""
    probe = Probe(session.model.net, image.expand(len(targets), -1, -1, -1), list(targets))
    plain = {name: protocol.upsample(getattr(methods, name)(probe).detach(), session.size).abs() for name in PLAIN}
    products = {f"guided_{name}": plain[name] * plain["guided_backprop"] for name in ("grad_cam", "ablation_cam")}
    return {**plain, **products}


def spearman(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the correlation of the ranks of two maps (1,H,W); nan if one of them is constant."""
    flat = any(float(one.amax()) == float(one.amin()) for one in (first, second))
    return float("nan") if flat else float(similarity(first, second)["spearman"][0])


def compared(network: str, data: str, table: pd.DataFrame) -> list[Row]:
    """Return the rows of one network: levels, and what the claims expect of the methods."""
    images = table.image.to_numpy()
    nearly, cams, products = (replace(claim, network=network, data=data) for claim in (NEARLY_ALL, CAMS, PRODUCTS))
    guided = table.guided_backprop
    rows = [nearly.level("guided_backprop", guided, images, expects=f"> {ALIKE}"), nearly.level("gradient", table.gradient, images)]
    for claim, names in ((cams, ("grad_cam", "ablation_cam")), (products, ("guided_grad_cam", "guided_ablation_cam"))):
        rows += [claim.level(name, table[name], images) for name in names]
        rows += [claim.difference(f"{name} less guided_backprop", table[name], guided, images, expects="< 0") for name in names]
    return rows
