"""Test whether a map shows the explained category and every instance of it: COCO photographs, ImageNet networks.

    python experiments/findings/coco_objects.py DATA OUT        (nine minutes on two busy CPU cores with OMP_NUM_THREADS=1)

DATA holds coco256/ (images/, boxes.csv with file, w, h, class, x1, y1, x2, y2, and coco_to_imagenet.csv with coco_class,
imagenet_index) and weights/<network>_imagenet.safetensors. OUT receives the runs, coco_objects.csv and coco_objects.md.
The explained output of a category is the one with the highest score of all outputs that belong to it; people have none.

Pairs. Ablation-CAM paper, section 6.5: people saw one of two maps of an image with two categories and said which category
it explains. Here the boxes decide. The density of a map in a region is the share of its positive values in the region divided by
the region's share of the pixels; a map is right where its density is higher in the boxes of its own category than in those of
the other one, without pixels that both cover. A tie counts half. A map that does not depend on the class is right for one of
the two categories: exactly 50 %.

Instances. Bisen and Bakshi, "Evaluating explainable CNN techniques", section 6: Grad-CAM++ outperforms Grad-CAM where an
image has several instances of the category, and does not where it has one. Both cases are compared, and so is the
difference between the two gains, which tests the claim.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from coco_report import markdown
from coco_statistics import (
    ENERGY,
    HIT,
    IOU,
    LIKENESS,
    RIGHT,
    RIVALS_OF_CENTRE,
    SHARE,
    Rows,
    drop_name,
    instance_statistics,
    pair_statistics,
)
from torch import Tensor

from evalkit import protocol
from evalkit.analysis import metrics
from evalkit.analysis.load import Run, at_point, load_runs
from evalkit.analysis.summary import SCORES
from evalkit.cli.script import run_script
from evalkit.config.compose import compose_jobs
from evalkit.data.boxes import to_input
from evalkit.evaluation import localisation
from evalkit.evaluation.complexity import coherency
from evalkit.evaluation.session import Session, open_session
from evalkit.launch.run import run_job

CONF = Path(__file__).parents[1] / "conf"
NETWORKS = {
    "mobilenet_v2": "mobilenet_v2_half",
    "mobilenet_v3_small": "mobilenet_v3_small_half",
    "squeezenet1_0": "squeezenet1_0_227",
}
"""Networks, and their files in experiments/conf/model."""
HAVE_CAM = ("mobilenet_v2",)
"""Networks with global average pooling and one linear layer."""

PAIR_METHODS = (*RIVALS_OF_CENTRE, "random", "constant", "centre", "edges")
INSTANCE_METHODS = ("grad_cam_pp", "grad_cam", "ablation_cam", "centre", "random")
POINTS = (  # Ablation-CAM paper, section 6.1; Bisen and Bakshi, methods 1 and 2
    "protocol=published",
    "protocol.points=[{select: keep_top, top_percent: 20, fill: black}, {select: soft, fill: black}, "
    "{select: remove_top, top_percent: 25, fill: black}]",
)


def main(
    data: Annotated[Path, typer.Argument(help="Folder that holds coco256 and weights.")],
    out: Annotated[Path, typer.Argument(help="Folder for the runs and the two tables.")],
    networks: Annotated[list[str], typer.Option("--network", help="Networks; all by default.")] = list(NETWORKS),  # noqa: B006 - typer copies it
) -> None:
    """Run all networks, measure, write coco_objects.csv and coco_objects.md."""
    write_lists(data, out)
    pairs, instances, runs = [], [], []
    for network in networks:
        methods = (*(["cam"] if network in HAVE_CAM else []), *PAIR_METHODS)
        session, run = finished(run_overrides(network, data, out, "pairs", methods))
        pairs.append(pair_table(session, run))
        session, objects_run = finished([*run_overrides(network, data, out, "objects", INSTANCE_METHODS), *POINTS])
        instances.append(instance_table(session, objects_run))
        runs += [run, objects_run]
        print(f"{network}: measured", flush=True)
    rows = pair_statistics(pd.concat(pairs, ignore_index=True)) + instance_statistics(pd.concat(instances, ignore_index=True))
    table = pd.DataFrame(rows)
    table.to_csv(out / "coco_objects.csv", index=False, float_format="%.4g")
    (out / "coco_objects.md").write_text(markdown(table, runs), encoding="utf-8")
    print(f"written: {out}/coco_objects.csv, coco_objects.md")


def write_lists(data: Path, out: Path) -> None:
    """Write the class map, and the lists of labels: categories that have an output, of all images and of those with several."""
    class_map = pd.read_csv(data / "coco256" / "coco_to_imagenet.csv").rename(columns={"coco_class": "class", "imagenet_index": "index"})
    boxes = pd.read_csv(data / "coco256" / "boxes.csv")
    objects = boxes[boxes["class"].isin(class_map["class"])][["file", "class"]].drop_duplicates()
    out.mkdir(parents=True, exist_ok=True)
    class_map.to_csv(out / "class_map.csv", index=False)
    objects.to_csv(out / "objects.csv", index=False)
    objects[objects.groupby("file")["class"].transform("size") > 1].to_csv(out / "pairs.csv", index=False)


def run_overrides(network: str, data: Path, out: Path, labels: str, methods: Iterable[str]) -> list[str]:
    """Return the overrides of a run that explains every listed category of every listed image and stores the maps."""
    return [
        f"model={NETWORKS[network]}", f"model.weights={data}/weights/{network}_imagenet.safetensors",
        f"model.class_map={out}/class_map.csv", "data=image_folder", f"data.root={data}/coco256",
        f"data.labels={out}/{labels}.csv", f"data.boxes={data}/coco256/boxes.csv", f"method=[{','.join(methods)}]", "target=label",
        "maps=store", f"out={out}/{labels}-{network}",
    ]  # fmt: skip


def finished(overrides: Sequence[str]) -> tuple[Session, Run]:
    """Compute or resume a run; return it, and the session that reads its images."""
    (job,) = compose_jobs(overrides, conf=CONF)
    folder = run_job(job)
    return open_session(job.config), load_runs([folder.path])[0]


def pair_table(session: Session, run: Run) -> pd.DataFrame:
    """Return a row for each method and ordered pair of categories of an image; `categories` counts those of the image."""
    rows = pd.DataFrame([row for of_image in images_of(run) for row in pair_rows(session, of_image)])
    scores = scored(run)
    other = scores[["index", "target", "prob_full"]].drop_duplicates().rename(columns={"target": "other", "prob_full": "other_prob"})
    table = rows.merge(scores, on=["index", "target", "method"]).merge(other, on=["index", "other"])
    return table.assign(network=run.name, categories=table.groupby("index").target.transform("nunique"))


def instance_table(session: Session, run: Run) -> pd.DataFrame:
    """Return a row for each method and explained category of an image; `instances` counts its boxes."""
    rows = pd.DataFrame([row for of_image in images_of(run) for row in instance_rows(session, of_image)])
    maps = run.maps.assign(**{ENERGY: run.maps.energy_inside * 100, IOU: run.maps.best_iou * 100})
    maps = maps[["index", "target", "method", ENERGY, IOU]]
    return rows.merge(maps, on=["index", "target", "method"]).merge(scored(run), on=["index", "target", "method"]).assign(network=run.name)


def scored(run: Run) -> pd.DataFrame:
    """Return drops in percent at each protocol point of the run: one row for each image, explained category and method."""
    key = ["index", "target", "method"]
    table = run.scored[[*key, "prob_full"]].drop_duplicates(key)
    for point, (score, column) in itertools.product(run.points, SCORES.items()):
        rows = at_point(run.scored, point)
        drop = metrics.relative_drop(rows[f"{column}_full"].to_numpy(), rows[f"{column}_masked"].to_numpy())
        table = table.merge(rows[key].assign(**{drop_name(point, score): drop}), on=key)
    return table


def images_of(run: Run) -> Iterator[pd.DataFrame]:
    """Yield the stored maps, image by image."""
    stored = pd.read_parquet(run.path / "maps")
    for _, of_image in stored[stored.status != "error"].groupby("index"):
        yield of_image


def pair_rows(session: Session, of_image: pd.DataFrame) -> Rows:
    """Return a row for each method and ordered pair of categories that both have boxes not covered by the other's."""
    index = int(of_image["index"].iloc[0])
    masks = {name: boxes.any(0) for name, boxes in boxed(session, index).items()}
    rows: Rows = []
    for method, of_method in of_image.groupby("method", sort=False):
        names, targets = list(of_method.target_name), list(of_method.target)
        maps = protocol.upsample(maps_of(of_method), session.size)
        for i, j in itertools.combinations(range(len(names)), 2):
            first, second = masks[names[i]], masks[names[j]]
            own = torch.stack([first & ~second, second & ~first])
            if not own.any(2).any(1).all():
                continue
            likeness = 1.0 if torch.equal(maps[i], maps[j]) else 2 * float(coherency(maps[[i]], maps[[j]])) - 1
            densities = density(maps[[i, j]], own).tolist()
            for a, b, (inside, outside) in ((i, j, densities[0]), (j, i, densities[1][::-1])):
                key = {"index": index, "target": targets[a], "other": targets[b], "method": method}
                rows.append({**key, RIGHT: verdict(inside, outside), SHARE: share(inside, outside), LIKENESS: likeness})
    return rows


def instance_rows(session: Session, of_image: pd.DataFrame) -> Rows:
    """Return a row for each category and method; a box is hit if its density is higher than outside all of the category's boxes."""
    index = int(of_image["index"].iloc[0])
    boxes = boxed(session, index)
    rows: Rows = []
    for (target, name, method), one in of_image.groupby(["target", "target_name", "method"], sort=False):
        masks = boxes[name]
        regions = torch.cat([masks, ~masks.any(0, keepdim=True)])
        *inside, outside = density(protocol.upsample(maps_of(one), session.size), regions)[0].tolist()
        hits = [hit for box in inside if not np.isnan(hit := verdict(box, outside))]
        rate = float(np.mean(hits)) if hits else float("nan")
        rows.append({"index": index, "target": target, "method": method, "instances": len(masks), HIT: rate})
    return rows


def boxed(session: Session, position: int) -> dict[str, Tensor]:
    """Return category -> masks (R,H,W) of its boxes in the network's input; a box without the centre of a pixel gives an empty mask."""
    masks: dict[str, list[Tensor]] = {}
    for box in session.source.boxes(position):
        input_box = to_input(box, session.model.preprocess)
        if input_box is not None:
            masks.setdefault(str(box.key), []).append(localisation.region([input_box], *session.size))
    return {name: torch.stack(regions) for name, regions in masks.items()}


def maps_of(table: pd.DataFrame) -> Tensor:
    """Return the raw maps (n,h,w) of some rows of one method, in float64, so that a constant map has a density of exactly 1."""
    height, width = int(table.height.iloc[0]), int(table.width.iloc[0])
    return torch.from_numpy(np.stack(table["map"].to_list())).view(-1, height, width).double()


def density(maps: Tensor, regions: Tensor) -> Tensor:
    """Return the share of each map's positive values in each region over the region's share of the pixels (N,R).

    Maps are (N,H,W), regions (R,H,W). The result is 1 for a constant map, 0 for one without a positive value, nan for an empty region.
    """
    inside = torch.stack([localisation.energy_inside(maps, region.expand_as(maps)) for region in regions], 1)
    empty = (maps.amax((1, 2)) <= 0)[:, None]
    pixels = regions.double().mean((1, 2))
    return torch.where(pixels > 0, torch.where(empty, 0, inside) / pixels, torch.nan)


def verdict(own: float, other: float) -> float:
    """Return 100 if the first density is larger, 50 if both are equal, else 0; nan if either is nan."""
    if np.isnan([own, other]).any():
        return float("nan")
    return 50.0 if own == other else 100.0 * (own > other)


def share(own: float, other: float) -> float:
    """Return the first density over the sum of both, in percent: 50 where both are zero."""
    return 100 * own / (own + other) if own + other else 50.0


if __name__ == "__main__":
    run_script(main)
