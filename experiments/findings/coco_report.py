"""The tables of coco_objects.py in Markdown."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from coco_statistics import (
    BETTER,
    BETWEEN,
    DROPS,
    DROPS_FIRST,
    ENERGY,
    LIKENESS,
    MORE,
    ONE,
    OWN,
    RECOGNISED,
    RIGHT,
    SEVERAL,
    SHARE,
    TWO,
    claim,
)

from evalkit.analysis.load import Run


def markdown(table: pd.DataFrame, runs: Sequence[Run]) -> str:
    """Return the tables of all networks together; the first two runs are of one network, with pairs and with all objects."""
    provenance, pairs, instances = runs[0].provenance, table[table.part == "pairs"], table[table.part == "instances"]
    versions = ", ".join(f"{name} {provenance['versions'][name]}" for name in ("torch", "torchvision", "numpy"))
    hardware = f"{provenance['hardware']['processor']}, threads: {provenance['hardware']['threads']}, {provenance['device']}"
    network = "all" if "all" in set(table.network) else table.network.iloc[0]
    names = ", ".join(dict.fromkeys(run.name for run in runs))
    with_pairs, with_any = (run.counts() for run in runs[:2])
    parts = [
        "# Two categories, several instances: maps against boxes on COCO photographs",
        f"Made by `experiments/findings/coco_objects.py DATA OUT`: {names} with ImageNet weights, images resized without crop; "
        f"{hardware}; Python {provenance['python']}, {versions}. The images and weights are not part of this repository.",
        f"{with_any['images']} images show {with_any['items']} categories that have an output, {with_pairs['images']} of them two or more. "
        "Values with 95 % bootstrap intervals; images are drawn whole, with all their categories and in every network, and differences "
        f"are paired. No correction for the number of comparisons. Recognised: confidence above {RECOGNISED:g}. The tables show "
        f"{'all networks together, and n counts an item once for each' if network == 'all' else network}; `coco_objects.csv` shows each.",
        *_pair_sections(pairs, network),
        *_instance_sections(instances[instances.network == network]),
    ]
    return "\n\n".join(parts) + "\n"


def _pair_sections(pairs: pd.DataFrame, network: str) -> list[str]:
    plain = pairs[pairs.against == ""]
    level = plain[plain.network == network]
    right = level[level.measure == RIGHT]
    sizes = {items: f"{items} ({part.images.iloc[0]} images, n = {part.n.iloc[0]})" for items, part in right.groupby("items", sort=False)}
    several, recognised = level[level["items"] == MORE], level[level["items"] == OWN]
    each = plain[(plain["items"] == MORE) & (plain.network != "all")].groupby("network", sort=False)
    tests = pairs[(pairs.network == network) & (pairs.against != "") & (pairs.measure == RIGHT)]
    compared = tests.assign(method=tests.method + " over " + tests.against)
    return [
        "## Which of two categories?",
        "A map is right where its density (share of the positive values over share of the pixels) is higher in the boxes of the explained "
        "category than in those of another category of the image, without what both cover; ties count half, and images where nothing is "
        f"left of one category do not count. {TWO.capitalize()}: the paper's case. {MORE.capitalize()}: every category beside every other "
        "one. A map that ignores the class is right for one of the two: exactly 50 %, which p tests. In the last column, where only "
        "recognised categories are explained, it may differ from 50 %, since they tend to lie in the middle: compare with centre.",
        "Ablation-CAM paper, section 6.5: people were right about 73.6 % of Guided Ablation-CAM's and 65.4 % of Guided Grad-CAM's maps, "
        "the answer 'both' counted as wrong (VGG16 fine-tuned on PASCAL VOC 2007, 50 images and categories, 10 answers each).",
        f"{RIGHT} (higher is better):",
        _table({head: right[right["items"] == items] for items, head in sizes.items()}),
        "Gains in percentage points of the same, paired:",
        _table({head: compared[compared["items"] == items] for items, head in sizes.items()}, signed=True),
        f"{MORE.capitalize()}: {SHARE} (50: the class is ignored), and {LIKENESS} (Pearson's, of the pixels; 1: the class is ignored):",
        _table({SHARE: several[several.measure == SHARE], LIKENESS: several[several.measure == LIKENESS]}, 2),
        f"{MORE.capitalize()}: {RIGHT}, by network:",
        _table({str(name): part[part.measure == RIGHT] for name, part in each}),
        f"{MORE.capitalize()}: {LIKENESS}, by network:",
        _table({str(name): part[part.measure == LIKENESS] for name, part in each}, 2),
        f"Drops, {sizes[OWN]}, each once for every other category of its image; lower is better:",
        _table({name: recognised[recognised.measure == name] for name in DROPS.values() if (recognised.measure == name).any()}),
    ]


def _instance_sections(instances: pd.DataFrame) -> list[str]:
    counted = {items: part.iloc[0] for items, part in instances[instances.measure == ENERGY].groupby("items", sort=False)}
    sizes = {items: f"{items} ({row.images} images, n = {row.n})" for items, row in counted.items() if items != BETWEEN}
    sections = [
        "## One instance or several?",
        "Recognised categories only. The claim (Bisen and Bakshi, section 6): Grad-CAM++ outperforms Grad-CAM where an image shows several "
        "instances of the category; where it shows one there is no difference. Their method 1 is the soft mask, their method 2 removes the "
        "top 25 %. On a measure it holds if the intervals of the gain with several and of its excess over the gain with one "
        "lie above zero, does not if either lies below, and cannot be told otherwise.",
    ]
    for (method, other), gains in instances[instances.against != ""].groupby(["method", "against"], sort=False):
        lines = [["gain: positive is better", *sizes.values(), "several less one", "the claim"]]
        for name in DROPS_FIRST:
            by_items = {row["items"]: row for row in gains[gains.measure == name].to_dict("records")}
            lines.append(
                [name, *(_cell(by_items[items], signed=True) for items in (*sizes, BETWEEN)), claim(by_items[SEVERAL], by_items[BETWEEN])]
            )
        counts = pd.Series([line[-1] for line in lines[1:]]).value_counts()
        summary = ", ".join(f"{verdict} on {count}" for verdict, count in counts.items())
        apart = (gains["items"] == ONE) & ((gains.low > 0) | (gains.high < 0))
        sections.append(
            f"{method} over {other}, paired, in percentage points: {summary} of {len(lines) - 1} measures. "
            f"With one instance, where no difference is claimed, the interval excludes zero on {apart.sum()}."
        )
        sections.append(_pipes(lines))
    levels_of = instances[instances.against == ""]
    for items, head in sizes.items():
        part = levels_of[levels_of["items"] == items]
        methods = list(dict.fromkeys(part.method))
        rows = [
            [f"{name} ({BETTER[name]} is better)", *(_cell(row) for row in part[part.measure == name].to_dict("records"))]
            for name in DROPS_FIRST
        ]
        sections += [f"Levels, {head}:", _pipes([["", *methods], *rows])]
    return sections


def _table(columns: dict[str, pd.DataFrame], digits: int = 1, signed: bool = False) -> str:
    """Return a table with a line for each method and a column for each of the given tables."""
    methods = list(dict.fromkeys(method for part in columns.values() for method in part.method))
    cells = {head: {row["method"]: _cell(row, digits, signed) for row in part.to_dict("records")} for head, part in columns.items()}
    return _pipes([["", *columns], *([method, *(by_method.get(method, "") for by_method in cells.values())] for method in methods)])


def _cell(row: dict[str, Any], digits: int = 1, signed: bool = False) -> str:
    sign = "+" if signed else ""
    value, low, high = (f"{row[name]:{sign}.{digits}f}" for name in ("value", "low", "high"))
    p = "" if pd.isna(row["p"]) else ", p < 0.001" if row["p"] < 0.001 else f", p = {row['p']:.3f}"
    return f"{value} [{low}, {high}]{p}"


def _pipes(lines: list[list[str]]) -> str:
    rule = ["---", *("---:" for _ in lines[0][1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])
