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
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor

from evalkit import localisation, metrics, protocol, runner, stats
from evalkit.complexity import coherency
from evalkit.config import compose_jobs
from evalkit.data.boxes import to_input
from evalkit.runs import Point, Run, at_point, load_runs
from evalkit.session import Session, open_session
from evalkit.summary import SCORES, better
from evalkit.tables import describe_point

HALF = ("model.mean=[0.5,0.5,0.5]", "model.std=[0.5,0.5,0.5]")
NETWORKS = {
    "mobilenet_v2": ("model.resize=[225,225]", *HALF),
    "mobilenet_v3_small": ("model.resize=[225,225]", *HALF),
    "squeezenet1_0": ("model.resize=[227,227]",),
}
HAVE_CAM = ("mobilenet_v2",)
"""Global average pooling and one linear layer."""

PAIR_METHODS = (
    "grad_cam", "ablation_cam", "grad_cam_pp", "layer_cam", "hires_cam", "spatial_ablation",
    "guided_grad_cam", "guided_ablation_cam", "random", "constant", "centre", "edges",
)  # fmt: skip
PAIR_TESTS = (
    ("ablation_cam", "grad_cam"), ("guided_ablation_cam", "guided_grad_cam"), ("grad_cam_pp", "grad_cam"),
    ("layer_cam", "grad_cam"), ("spatial_ablation", "grad_cam"), ("guided_grad_cam", "grad_cam"),
)  # fmt: skip
CENTRE_TESTS = tuple((method, "centre") for method in PAIR_METHODS[:8])
TWO, MORE, BOTH, OWN = "two categories", "two or more", "both recognised", "explained one recognised"
"""Choices of pairs. Only the last can be told by who knows no class: what a network recognises is large and in the middle."""

INSTANCE_METHODS = ("grad_cam_pp", "grad_cam", "ablation_cam", "centre", "random")
INSTANCE_TESTS = (("grad_cam_pp", "grad_cam"), ("grad_cam_pp", "ablation_cam"))
ONE, SEVERAL, BETWEEN = "one instance", "several instances", "several less one"

KEEP: Point = ("keep_top", 20.0, "black")
SOFT: Point = ("soft", float("nan"), "black")
REMOVE: Point = ("remove_top", 25.0, "black")
POINTS = (  # Ablation-CAM paper, section 6.1; Bisen and Bakshi, methods 1 and 2
    "protocol=published",  # which names its points one by one
    "protocol.points=[{select: keep_top, top_percent: 20, fill: black}, {select: soft, fill: black}, "
    "{select: remove_top, top_percent: 25, fill: black}]",
)

RECOGNISED = 0.01
"""Confidence above which the network counts as seeing a category: ten times chance."""


def drop_name(point: Point, score: str) -> str:
    """What a drop is called in the tables."""
    return f"average drop in {score} %, {describe_point(point)}"


RIGHT, SHARE, LIKENESS, HIT = (
    "right category, %",
    "own share of both densities, %",
    "correlation of an image's two maps",
    "instances hit, %",
)
ENERGY, IOU = "energy inside, %", "best IoU, %"
DROPS = {(point, score): drop_name(point, score) for point in (SOFT, REMOVE, KEEP) for score in SCORES}
BETTER = {
    **dict.fromkeys((RIGHT, SHARE, HIT, ENERGY, IOU), "higher"),
    LIKENESS: "lower",
    **{name: better("average_drop", point[0]) for (point, _), name in DROPS.items()},
}
"""Every measure, and which way is better."""
DROPS_FIRST = (*DROPS.values(), ENERGY, IOU, HIT)
"""As the table of instances lists them: what the claim was judged by, then the boxes."""

ITEM = ("network", "index", "target", "other")
"""What tells rows of one method apart: an image, the explained output and, for pairs, that of the other category."""

Rows = list[dict[str, Any]]


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
    folder = runner.run(job)
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


def pair_statistics(table: pd.DataFrame) -> Rows:
    """Levels and gains by network, and of all networks together, on four choices of items."""
    own, other = table.prob_full > RECOGNISED, table.other_prob > RECOGNISED
    subsets = {TWO: table.categories == 2, MORE: table.categories > 1, BOTH: own & other, OWN: own}
    rows: Rows = []
    for items, chosen in subsets.items():
        for network, part in by_network(table[chosen]):
            about = {"part": "pairs", "network": network, "items": items}
            rows += levels(part, about, PAIR_TESTS if items != OWN else (*PAIR_TESTS, *CENTRE_TESTS), even=items != OWN)
    return rows


def instance_statistics(table: pd.DataFrame) -> Rows:
    """Levels on either kind of recognised items, and how the gain of one method over another differs between them."""
    rows: Rows = []
    for network, part in by_network(table[table.prob_full > RECOGNISED]):
        for items, chosen in ((ONE, part.instances == 1), (SEVERAL, part.instances > 1)):
            rows += levels(part[chosen], {"part": "instances", "network": network, "items": items}, ())
        rows += contrasts(part, {"part": "instances", "network": network}, INSTANCE_TESTS)
    return rows


def by_network(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each network, then all of them with the methods that all have."""
    yield from table.groupby("network", sort=False)
    count = table.network.nunique()
    if count > 1:
        yield "all", table[table.groupby("method").network.transform("nunique") == count]


def grid(table: pd.DataFrame) -> tuple[list[str], dict[str, NDArray[np.float64]], pd.DataFrame]:
    """Methods in the order of the rows, values (M,n) of each measure, and what its n columns are."""
    methods = list(dict.fromkeys(table.method))
    key = [name for name in (*ITEM, "instances") if name in table]
    pivoted = {name: table.pivot(index="method", columns=key, values=name).reindex(methods) for name in BETTER if name in table}
    items = next(iter(pivoted.values())).columns.to_frame(index=False)
    return methods, {name: found.to_numpy(float) for name, found in pivoted.items()}, items


def levels(table: pd.DataFrame, about: dict[str, str], tests: Iterable[tuple[str, str]], even: bool = True) -> Rows:
    """Every measure of every method with its interval, and the gains of one method over another; images are drawn whole.

    Where a map that knows no class has 50 % (`even`), what is right is tested against that.
    """
    methods, values, items = grid(table)
    images = items["index"].to_numpy()
    rows = []
    for name, found in stats.bootstrap(values, images).items():
        chance = stats.p_of_difference(found.resampled - 50) if name == RIGHT and even else np.full(len(methods), np.nan)
        for i, method in enumerate(methods):
            at = (found.value[i], found.low[i], found.high[i], chance[i])
            rows.append({**about, "method": method, **_row(name, "", values[name][i], images, at)})
    for (method, other), name in itertools.product(tests, values):
        gained = gain(methods, values, name, (method, other))
        found = stats.bootstrap({name: gained[None]}, images)[name]
        at = (found.value[0], found.low[0], found.high[0], stats.p_of_difference(found.resampled)[0])
        rows.append({**about, "method": method, **_row(name, other, gained, images, at)})
    return rows


def contrasts(table: pd.DataFrame, about: dict[str, str], tests: Iterable[tuple[str, str]]) -> Rows:
    """The gain over another method with one instance, with several, and the second less the first.

    An image may show one dog and several cars and is drawn with both, so that one set of resamples serves both kinds.
    """
    methods, values, items = grid(table)
    images, several = items["index"].to_numpy(), items.instances.to_numpy() > 1
    rows = []
    for (method, other), name in itertools.product(tests, values):
        gained = gain(methods, values, name, (method, other))
        kinds = {ONE: np.where(several, np.nan, gained), SEVERAL: np.where(several, gained, np.nan)}
        one, more = stats.bootstrap({kind: found[None] for kind, found in kinds.items()}, images).values()
        between = more.resampled - one.resampled
        low, high = np.nanpercentile(between, [2.5, 97.5])
        found = {
            ONE: (one.value[0], one.low[0], one.high[0], stats.p_of_difference(one.resampled)[0]),
            SEVERAL: (more.value[0], more.low[0], more.high[0], stats.p_of_difference(more.resampled)[0]),
            BETWEEN: (more.value[0] - one.value[0], low, high, stats.p_of_difference(between)[0]),
        }
        for kind, at in found.items():
            rows.append({**about, "items": kind, "method": method, **_row(name, other, kinds.get(kind, gained), images, at)})
    return rows


def gain(methods: Sequence[str], values: dict[str, NDArray[np.float64]], measure: str, pair: tuple[str, str]) -> NDArray[np.float64]:
    """By how much the first method is better than the second, item by item (n,)."""
    first, second = (values[measure][methods.index(method)] for method in pair)
    return first - second if BETTER[measure] == "higher" else second - first


def _row(measure: str, against: str, values: NDArray[np.float64], images: NDArray[np.int64], at: tuple[float, ...]) -> dict[str, Any]:
    defined = np.isfinite(values)
    numbers = dict(zip(("value", "low", "high", "p"), at, strict=True))
    counted = {"images": len(np.unique(images[defined])), "n": int(defined.sum())}
    return {"against": against, "measure": measure, "better": BETTER[measure], **counted, **numbers}


def markdown(found: pd.DataFrame, runs: Sequence[Run]) -> str:
    """The tables of all networks together, with how they came about; the first two runs are one network's, of pairs and of all."""
    said, pairs, instances = runs[0].provenance, found[found.part == "pairs"], found[found.part == "instances"]
    versions = ", ".join(f"{name} {said['versions'][name]}" for name in ("torch", "torchvision", "numpy"))
    hardware = f"{said['hardware']['processor']}, threads: {said['hardware']['threads']}, {said['device']}"
    network = "all" if "all" in set(found.network) else found.network.iloc[0]
    names = ", ".join(dict.fromkeys(run.name for run in runs))
    several, whole = (run.counts() for run in runs[:2])
    parts = [
        "# Two categories, several instances: maps against boxes on COCO photographs",
        f"Made by `experiments/coco_objects.py DATA OUT`: {names} with ImageNet weights, images resized without crop; "
        f"{hardware}; Python {said['python']}, {versions}. The images and weights are not part of this repository.",
        f"{whole['images']} images show {whole['items']} categories that have an output, {several['images']} of them two or more. "
        "Values with 95 % bootstrap intervals; images are drawn whole, with all their categories and in every network, and differences "
        f"are paired. No correction for the number of comparisons. Recognised: confidence above {RECOGNISED:g}. The tables show "
        f"{'all networks together, and n counts an item once for each' if network == 'all' else network}; `coco_objects.csv` shows each.",
        *_pair_sections(pairs, network),
        *_instance_sections(instances[instances.network == network]),
    ]
    return "\n\n".join(parts) + "\n"


def _pair_sections(pairs: pd.DataFrame, network: str) -> list[str]:
    here, plain = pairs[pairs.network == network], pairs[pairs.against == ""]
    level = plain[plain.network == network]
    right = level[level.measure == RIGHT]
    sizes = {items: f"{items} ({part.images.iloc[0]} images, n = {part.n.iloc[0]})" for items, part in right.groupby("items", sort=False)}
    several, seen = level[level["items"] == MORE], level[level["items"] == OWN]
    each = plain[(plain["items"] == MORE) & (plain.network != "all")].groupby("network", sort=False)
    tests = here[(here.against != "") & (here.measure == RIGHT)]
    compared = tests.assign(method=tests.method + " over " + tests.against)
    return [
        "## Which of two categories?",
        "A map is right where its density (share of the positive values over share of the pixels) is higher in the boxes of the explained "
        "category than in those of another category of the image, without what both cover; ties count half, and images where nothing is "
        f"left of one category do not count. {TWO.capitalize()}: the paper's case. {MORE.capitalize()}: every category beside every other "
        "one. A map that knows no class is right about one of the two: exactly 50 %, against which p is. In the last column, where only "
        "recognised categories are explained, it need not be: what a network recognises tends to lie in the middle; centre is the rival.",
        "Ablation-CAM paper, section 6.5: people were right about 73.6 % of Guided Ablation-CAM's and 65.4 % of Guided Grad-CAM's maps, "
        "the answer 'both' counted as wrong (VGG16 fine-tuned on PASCAL VOC 2007, 50 images and categories, 10 answers each).",
        f"{RIGHT} (higher is better):",
        _table({head: right[right["items"] == items] for items, head in sizes.items()}),
        "Gains in percentage points of the same, paired:",
        _table({head: compared[compared["items"] == items] for items, head in sizes.items()}, signed=True),
        f"{MORE.capitalize()}: {SHARE} (50 knows no class), and {LIKENESS} (Pearson's, of the pixels; 1 knows no class):",
        _table({SHARE: several[several.measure == SHARE], LIKENESS: several[several.measure == LIKENESS]}, 2),
        f"{MORE.capitalize()}: {RIGHT}, by network:",
        _table({str(name): part[part.measure == RIGHT] for name, part in each}),
        f"{MORE.capitalize()}: {LIKENESS}, by network:",
        _table({str(name): part[part.measure == LIKENESS] for name, part in each}, 2),
        f"Drops, {sizes[OWN]}, each once for every other category of its image; lower is better:",
        _table({name: seen[seen.measure == name] for name in DROPS.values() if (seen.measure == name).any()}),
    ]


def _instance_sections(here: pd.DataFrame) -> list[str]:
    counted = {items: part.iloc[0] for items, part in here[here.measure == ENERGY].groupby("items", sort=False)}
    sizes = {items: f"{items} ({row.images} images, n = {row.n})" for items, row in counted.items() if items != BETWEEN}
    sections = [
        "## One instance or several?",
        "Recognised categories only. The claim (Bisen and Bakshi, section 6): Grad-CAM++ outperforms Grad-CAM where an image shows several "
        "instances of the category; where it shows one there is no difference. Their method 1 is the soft mask, their method 2 removes the "
        "top 25 %. On a measure it holds if the intervals of the gain with several and of its excess over the gain with one "
        "lie above zero, does not if either lies below, and cannot be told otherwise.",
    ]
    for method, other in INSTANCE_TESTS:
        gains = here[(here.method == method) & (here.against == other)]
        lines = [["gain: positive is better", *sizes.values(), "several less one", "the claim"]]
        for name in DROPS_FIRST:
            at = {row["items"]: row for row in gains[gains.measure == name].to_dict("records")}
            lines.append([name, *(_cell(at[items], signed=True) for items in (*sizes, BETWEEN)), claim(at[SEVERAL], at[BETWEEN])])
        counts = pd.Series([line[-1] for line in lines[1:]]).value_counts()
        summary = ", ".join(f"{verdict} on {count}" for verdict, count in counts.items())
        apart = (gains["items"] == ONE) & ((gains.low > 0) | (gains.high < 0))
        sections.append(
            f"{method} over {other}, paired, in percentage points: {summary} of {len(lines) - 1} measures. "
            f"With one instance, where no difference is claimed, the interval excludes zero on {apart.sum()}."
        )
        sections.append(_pipes(lines))
    levels_of = here[here.against == ""]
    for items, head in sizes.items():
        part = levels_of[levels_of["items"] == items]
        methods = list(dict.fromkeys(part.method))
        rows = [
            [f"{name} ({BETTER[name]} is better)", *(_cell(row) for row in part[part.measure == name].to_dict("records"))]
            for name in DROPS_FIRST
        ]
        sections += [f"Levels, {head}:", _pipes([["", *methods], *rows])]
    return sections


def claim(several: dict[str, Any], between: dict[str, Any]) -> str:
    """Whether a gain is found with several instances, and more of it than with one."""
    if several["high"] < 0 or between["high"] < 0:
        return "does not hold"
    return "holds" if several["low"] > 0 and between["low"] > 0 else "cannot be told"


def _table(columns: dict[str, pd.DataFrame], digits: int = 1, signed: bool = False) -> str:
    """A line a method, a column for each of the tables."""
    methods = list(dict.fromkeys(method for part in columns.values() for method in part.method))
    cells = {head: {row["method"]: _cell(row, digits, signed) for row in part.to_dict("records")} for head, part in columns.items()}
    return _pipes([["", *columns], *([method, *(found.get(method, "") for found in cells.values())] for method in methods)])


def _cell(row: dict[str, Any], digits: int = 1, signed: bool = False) -> str:
    sign = "+" if signed else ""
    value, low, high = (f"{row[name]:{sign}.{digits}f}" for name in ("value", "low", "high"))
    p = "" if pd.isna(row["p"]) else ", p < 0.001" if row["p"] < 0.001 else f", p = {row['p']:.3f}"
    return f"{value} [{low}, {high}]{p}"


def _pipes(lines: list[list[str]]) -> str:
    rule = ["---", *("---:" for _ in lines[0][1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


if __name__ == "__main__":
    typer.run(main)
