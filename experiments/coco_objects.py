"""Does a map show the category it is asked about, and every instance of it? COCO photographs, ImageNet networks.

    python experiments/coco_objects.py DATA OUT        (nine minutes on two busy CPU cores with OMP_NUM_THREADS=1)

DATA holds coco256/ (images/, boxes.csv with file, w, h, class, x1, y1, x2, y2, and coco_to_imagenet.csv with coco_class,
imagenet_index) and weights/<network>_imagenet.safetensors. OUT receives the runs, coco_objects.csv and coco_objects.md.
A category is explained through the output that scores best of those it stands for; people have none.

Pairs. Ablation-CAM paper, section 6.5: people saw one of two maps of an image with two categories and said which of them
it explains. Here the boxes answer. A map's density in a region is the share of its positive values that lies there over
the share of the pixels; a map is right where it is denser in the boxes of its own category than in the other's, without
what both cover. A tie counts half. A map that knows no class is right about one of the two, so that its 50 % is exact.

Instances. Bisen and Bakshi, "Evaluating explainable CNN techniques", section 6: Grad-CAM++ outperforms Grad-CAM where an
image has several instances of the category, and does not where it has one. Both kinds are compared, and so is the
difference of the two differences, which is what the claim is about.
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
from evalkit.config.compose import compose_jobs
from evalkit.data.boxes import to_input
from evalkit.evaluation import localisation
from evalkit.evaluation.complexity import coherency
from evalkit.evaluation.session import Session, open_session
from evalkit.launch.run import run_job

HALF = ("model.mean=[0.5,0.5,0.5]", "model.std=[0.5,0.5,0.5]")
NETWORKS = {
    "mobilenet_v2": ("model.resize=[225,225]", *HALF),
    "mobilenet_v3_small": ("model.resize=[225,225]", *HALF),
    "squeezenet1_0": ("model.resize=[227,227]",),
}
HAVE_CAM = ("mobilenet_v2",)
"""Global average pooling and one linear layer."""

PAIR_METHODS = (*RIVALS_OF_CENTRE, "random", "constant", "centre", "edges")
INSTANCE_METHODS = ("grad_cam_pp", "grad_cam", "ablation_cam", "centre", "random")
POINTS = (  # Ablation-CAM paper, section 6.1; Bisen and Bakshi, methods 1 and 2
    "protocol=published",  # which names its points one by one
    "protocol.points=[{select: keep_top, top_percent: 20, fill: black}, {select: soft, fill: black}, "
    "{select: remove_top, top_percent: 25, fill: black}]",
)


def main(
    data: Annotated[Path, typer.Argument(help="Folder that holds coco256 and weights.")],
    out: Annotated[Path, typer.Argument(help="Folder for the runs and the two tables.")],
    networks: Annotated[list[str], typer.Option("--network", help="Each of these.")] = list(NETWORKS),  # noqa: B006 - typer copies it
) -> None:
    """Run all networks, measure, write coco_objects.csv and coco_objects.md."""
    write_lists(data, out)
    pairs, instances, runs = [], [], []
    for network in networks:
        methods = (*(["cam"] if network in HAVE_CAM else []), *PAIR_METHODS)
        session, run = finished(overrides(network, data, out, "pairs", methods))
        pairs.append(pair_table(session, run))
        session, again = finished([*overrides(network, data, out, "objects", INSTANCE_METHODS), *POINTS])
        instances.append(instance_table(session, again))
        runs += [run, again]
        print(f"{network}: measured", flush=True)
    beside, seen = pd.concat(pairs, ignore_index=True), pd.concat(instances, ignore_index=True)
    found = pd.DataFrame([*pair_statistics(beside), *instance_statistics(seen)])
    found.to_csv(out / "coco_objects.csv", index=False, float_format="%.4g")
    (out / "coco_objects.md").write_text(markdown(found, runs), encoding="utf-8")
    print(f"written: {out}/coco_objects.csv, coco_objects.md")


def write_lists(data: Path, out: Path) -> None:
    """The class map, and as labels all categories that have an output, of all images and of those with several."""
    known = pd.read_csv(data / "coco256" / "coco_to_imagenet.csv").rename(columns={"coco_class": "class", "imagenet_index": "index"})
    boxes = pd.read_csv(data / "coco256" / "boxes.csv")
    objects = boxes[boxes["class"].isin(known["class"])][["file", "class"]].drop_duplicates()
    out.mkdir(parents=True, exist_ok=True)
    known.to_csv(out / "class_map.csv", index=False)
    objects.to_csv(out / "objects.csv", index=False)
    objects[objects.groupby("file")["class"].transform("size") > 1].to_csv(out / "pairs.csv", index=False)


def overrides(network: str, data: Path, out: Path, labels: str, methods: Iterable[str]) -> list[str]:
    """One run: every listed category of every listed image is explained, and its maps are kept."""
    return [
        f"model={network}", f"model.weights={data}/weights/{network}_imagenet.safetensors", *NETWORKS[network], "model.crop=null",
        "model.expected_top1=null", f"model.class_map={out}/class_map.csv", "data=image_folder", f"data.root={data}/coco256",
        f"data.labels={out}/{labels}.csv", f"data.boxes={data}/coco256/boxes.csv", f"method=[{','.join(methods)}]", "target=label",
        "maps=store", f"out={out}/{labels}-{network}",
    ]  # fmt: skip


def finished(given: Sequence[str]) -> tuple[Session, Run]:
    """One run, computed or taken up again, and what its images are read with."""
    (job,) = compose_jobs(given)
    folder = run_job(job)
    return open_session(job.config), load_runs([folder.path])[0]


def pair_table(session: Session, run: Run) -> pd.DataFrame:
    """Each explained category beside each other one of its image, by method; `categories` counts those of the image."""
    rows = pd.DataFrame([row for of_image in images_of(run) for row in pair_rows(session, of_image)])
    scores = scored(run)
    other = scores[["index", "target", "prob_full"]].drop_duplicates().rename(columns={"target": "other", "prob_full": "other_prob"})
    table = rows.merge(scores, on=["index", "target", "method"]).merge(other, on=["index", "other"])
    return table.assign(network=run.name, categories=table.groupby("index").target.transform("nunique"))


def instance_table(session: Session, run: Run) -> pd.DataFrame:
    """Each explained category of each image, by method; `instances` counts its boxes."""
    rows = pd.DataFrame([row for of_image in images_of(run) for row in instance_rows(session, of_image)])
    maps = run.maps.assign(**{ENERGY: run.maps.energy_inside * 100, IOU: run.maps.best_iou * 100})
    maps = maps[["index", "target", "method", ENERGY, IOU]]
    return rows.merge(maps, on=["index", "target", "method"]).merge(scored(run), on=["index", "target", "method"]).assign(network=run.name)


def scored(run: Run) -> pd.DataFrame:
    """Drops in percent at each protocol point of the run, one row for each image, explained category and method."""
    key = ["index", "target", "method"]
    table = run.scored[[*key, "prob_full"]].drop_duplicates(key)
    for point, (score, column) in itertools.product(run.points, SCORES.items()):
        here = at_point(run.scored, point)
        drop = metrics.relative_drop(here[f"{column}_full"].to_numpy(), here[f"{column}_masked"].to_numpy())
        table = table.merge(here[key].assign(**{drop_name(point, score): drop}), on=key)
    return table


def images_of(run: Run) -> Iterator[pd.DataFrame]:
    """The stored maps, image by image."""
    stored = pd.read_parquet(run.path / "maps")
    for _, of_image in stored[stored.status != "error"].groupby("index"):
        yield of_image


def pair_rows(session: Session, of_image: pd.DataFrame) -> Rows:
    """One row for each method and ordered pair of categories of which either has boxes that the other's do not cover."""
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
            found = density(maps[[i, j]], own).tolist()
            for a, b, (one, another) in ((i, j, found[0]), (j, i, found[1][::-1])):
                about = {"index": index, "target": targets[a], "other": targets[b], "method": method}
                rows.append({**about, RIGHT: verdict(one, another), SHARE: share(one, another), LIKENESS: likeness})
    return rows


def instance_rows(session: Session, of_image: pd.DataFrame) -> Rows:
    """One row for each category and method; a box is hit where the map is denser than outside all of the category's boxes."""
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
    """Category -> masks (R,H,W) of its boxes as the network sees them; one too small to hold a pixel's centre is empty."""
    found: dict[str, list[Tensor]] = {}
    for box in session.source.boxes(position):
        shown = to_input(box, session.model.preprocess)
        if shown is not None:
            found.setdefault(str(box.key), []).append(localisation.region([shown], *session.size))
    return {name: torch.stack(masks) for name, masks in found.items()}


def maps_of(table: pd.DataFrame) -> Tensor:
    """The raw maps (n,h,w) of some rows of one method, in float64, in which a constant map has one density exactly."""
    height, width = int(table.height.iloc[0]), int(table.width.iloc[0])
    return torch.from_numpy(np.stack(table["map"].to_list())).view(-1, height, width).double()


def density(maps: Tensor, regions: Tensor) -> Tensor:
    """Maps (N,H,W), regions (R,H,W) -> share of the map's positive values over share of the pixels (N,R).

    1 for a constant map, 0 for one without a positive value; nan for an empty region.
    """
    inside = torch.stack([localisation.energy_inside(maps, region.expand_as(maps)) for region in regions], 1)
    nothing = (maps.amax((1, 2)) <= 0)[:, None]
    pixels = regions.double().mean((1, 2))
    return torch.where(pixels > 0, torch.where(nothing, 0, inside) / pixels, torch.nan)


def verdict(own: float, other: float) -> float:
    """100 where the first density is larger, 50 where they tie, else 0; nan where either is."""
    if np.isnan([own, other]).any():
        return float("nan")
    return 50.0 if own == other else 100.0 * (own > other)


def share(own: float, other: float) -> float:
    """The first density in both, in percent: 50 where the map shows neither."""
    return 100 * own / (own + other) if own + other else 50.0


if __name__ == "__main__":
    typer.run(main)
