"""The paper's Tables 1 and 2 of any set of runs, as rows of text, with captions."""

import math

import pandas as pd

from evalkit.analysis.cautions import cautions
from evalkit.analysis.evaluated import Evaluated
from evalkit.analysis.load import CONTROLS, Run, at_point, exclusions, in_words
from evalkit.analysis.metrics import direction
from evalkit.analysis.shard_facts import NO_TARGET
from evalkit.analysis.summary import FLIP, PAPER_METRICS, SCORES, rival
from evalkit.analysis.top1 import expected_top1, outputs, random_weights
from evalkit.errors import counted, shards_in_words
from evalkit.layer_names import at, layers_in_words, method_of
from evalkit.output.stopping import QUOTE, ending
from evalkit.point import Point

LABELS = {
    "average_drop": "Average drop %",
    "increase": "Increase %",
    "win": "Win %",
    "best_of_all": "Best of all %",
    "median_drop": "Median drop %",
    "drop_of_sums": "Drop of sums %",
    "average_gain": "Average gain %",
    "score_change": "Mean change of the score",
}
MANY = 6
"""Largest number of methods that are columns; more are rows."""
PAPERS = {"table1": "VGG16", "table2": "Inception-v3"}
"""The network of each table of the paper."""
PAPER_POINT = Point("keep_top", 20.0, "black")
UNDEFINED = "undefined"
"""Stands for a value that does not exist, as a ratio to 0."""
LINES = [
    *((metric, score) for metric in PAPER_METRICS for score in ("confidence", "activation")),
    ("best_of_all", "confidence"),
    ("drop_of_sums", "activation"),
    ("median_drop", "activation"),
    ("average_gain", "confidence"),
    ("score_change", "confidence"),
    ("score_change", "activation"),
]
RAW_LINES = [(metric, "score") for metric in (*PAPER_METRICS, "best_of_all", "drop_of_sums", "median_drop", "score_change")]
"""The lines of a run without confidences."""
RAW = (
    "Scores are the network's outputs themselves (model.output=raw), without confidences or top-1. Drops are relative to |Y|: "
    "max(0, Y - O) / |Y|, Y being the explained output on the whole image and O on what is left of it."
)
QUANTITY = (
    "Of one output z, z is explained where it is positive and -z where it is negative, so that a drop brings z nearer to 0, or past it."
)
DIRECTIONS = {
    (0,): "Of one output z, z itself is explained for every image, also where it is negative, so that a drop lowers z.",
    (1,): "Of one output z, -z is explained for every image, also where z is positive, so that a drop raises z.",
    (0, 1): "Of one output z, both z and -z are explained for every image, so that Y is negative for one of them.",
}
"""What is explained of one output z where the target is named, by the outputs, 0 for z and 1 for -z."""
CHANGE = (
    "Mean change of the score: after minus before, in points of confidence or units of the logit; where pixels were removed, "
    "the more negative the better."
)
RAW_CHANGE = (
    "Mean change of the score: after minus before, in units of the output; where pixels were removed, the more negative the better."
)


def title(run: Run) -> str:
    """Return what a run's tables show, with random weights in capitals."""
    number = f"Table {run.provenance['paper_table'][-1]}: " if network_in_paper(run) else ""
    identity = run.provenance["identity"]
    random = " with RANDOM WEIGHTS" if random_weights(run) else ""
    tag = f" ({run.tag})" if run.tag else ""
    return f"{number}{run.name}{random} at {layers_in_words(identity['model']['layer'])} on {identity['data']['name']}{tag}"


def describe_point(point: Point) -> str:
    """Describe a protocol point in words."""
    top = f"top {point.top_percent:g} %" if point.top_percent is not None else ""
    kept = {"keep_top": f"{top} kept", "remove_top": f"{top} removed", "soft": "soft mask"}[point.select]
    return f"{kept}, {point.fill} fill"


def caption(run: Run) -> list[str]:
    """Return the lines of the caption: which images were counted, which were not, why, and other facts."""
    counts, identity = run.counts(), run.provenance["identity"]
    explained = f" ({counts['items']} explained classes)" if counts["items"] > counts["scored"] else ""
    lines = [
        f"{scored_of(run)}{explained} at {counts['images_per_second']:.1f} images/s once started; "
        f"target: {identity['target']}. Values with 95 % bootstrap intervals over images."
    ]
    lines += stopped(run)
    if identity["sample"] or identity["limit"]:
        lines.append(
            f"A seeded stratified sample of {run.provenance['images']} images (sample={identity['sample']})."
            if identity["sample"]
            else f"Only the first {run.provenance['images']} images (limit={identity['limit']})."
        )
    if identity["images"] == "correct":
        lines.append(f"Only correctly classified images; {counts['left_out']} others left out.")
    elif counts["left_out"]:
        lines.append(f"{counts['left_out']} images left out: none of their labels is in the model's class map.")
    if run.provenance["missing_shards"]:
        lines.append(f"INCOMPLETE: {shards_in_words(run.provenance['missing_shards'])} missing.")
    per_method = f" ({counted(counts['nonfinite_of'])})" if counts["nonfinite"] else ""
    lines.append(f"Excluded: {counts['unreadable']} unreadable, {counts['nonfinite']} with non-finite maps or scores{per_method}.")
    degenerate = ", ".join(
        f"{method} {number} ({100 * number / max(counts['maps'], 1):.1f} %)" for method, number in counts["degenerate"].items() if number
    )
    lines.append(f"Constant maps, ranked by pixel index and included: {degenerate or 'none'}.")
    lines.append(signs(run))
    lines += undefined(run)
    if run.raw:
        lines.append(f"Weights: {run.provenance['weights']}.")
    elif outputs(run) == 1:
        lines.append(f"No top-1, since the network has one output; weights: {run.provenance['weights']}.")
    elif counts["top1_percent"] is not None and identity["images"] == "all":
        expected = expected_top1(run)
        source = f" (expected {expected:g}, {run.provenance['expected_top1_source']})" if expected is not None else ""
        of = f" of {counts['labelled']} labelled images" if counts["labelled"] < counts["images"] else ""
        lines.append(f"Top-1 {counts['top1_percent']:.2f} %{of}{source}; weights: {run.provenance['weights']}.")
    seconds = ", ".join(f"{method} {took:.2g}" for method, took in run.seconds_per_map().items() if math.isfinite(took))
    if seconds and len(run.methods) <= MANY:  # else they are a column of tables.md
        lines.append(f"Seconds per map, what methods share falling to the first: {seconds}.")
    if counts["code_versions"] > 1:
        lines.append(f"Shards were computed by {counts['code_versions']} versions of the code.")
    lines.append(f"Data fingerprint {identity['data']['fingerprint'][:12]}, weights {identity['model']['weights_hash']}.")
    if whom_win_beats(run):
        lines.append(f"{whom_win_beats(run)}.")
    lines += several_layers(run)
    lines.append(RAW_CHANGE if run.raw else CHANGE)
    if network_in_paper(run) and PAPER_POINT in run.points:
        lines.append(published_note(run))
    return lines


def warnings_of(run: Run) -> list[str]:
    """Return what a page on a run says before anything else: its cautions, and how `until` ended it."""
    return [*cautions(run), *stopped(run)]


def stopped(run: Run) -> list[str]:
    """Return why a run with `until` ended, and what may be quoted of it; empty for other runs."""
    ended = ending(run.provenance, describe_point)
    return [ended, QUOTE] if ended else []


def several_layers(run: Run) -> list[str]:
    """Return what the names of methods say of layers where a run explains several; empty for one layer."""
    settings = run.provenance["identity"]["model"]
    layers, how = settings["layer"], settings.get("fuse")
    if isinstance(layers, str):
        return []
    fused = {"mean": "the mean", "max": "the largest"}.get(how, "")
    of_all = f"; {at('method', how)}: {fused} over the layers of the method's normalised maps" if fused else ""
    return [f"{at('method', 'layer')}: a method's maps at that layer{of_all}. Methods without a layer in their names do not depend on it."]


def signs(run: Run) -> str:
    """Return which images the drops leave out for the sign of their score, and without confidences which sign is a drop."""
    counts = run.counts()
    if not run.raw:
        return (
            f"Left out of the drop in activation because Y <= 0: {counts['logit_not_positive']}. "
            f"Confidence above 0.9999 on {counts['nearly_certain_percent']:.1f} % of images."
        )
    direction = _direction(run)
    return f"{RAW}{direction and f' {direction}'} Left out of the drops because Y = 0: {counts['logit_not_positive']}."


def _direction(run: Run) -> str:
    """Return which of z and -z the rows of a network with one quantity explain; empty for other networks."""
    first, *rest = run.provenance.get("class_names") or [""]
    if rest != [f"-{first}"]:
        return ""
    if run.provenance["identity"]["target"] == "predicted":
        return QUANTITY
    explained = sorted({int(target) for target in run.table.items.target if target != NO_TARGET})
    return DIRECTIONS.get(tuple(explained), "")


def scored_of(run: Run) -> str:
    """Return how many images are scored, of how many, and why the others are not: `49 of 60 images scored (11 excluded: 11 unreadable)`."""
    counts, reasons = run.counts(), exclusions(run)
    excluded = f" ({sum(reasons.values())} excluded: {in_words(reasons)})" if reasons else ""
    if run.provenance["missing_shards"]:
        return f"{counts['scored']} of the {run.provenance['images']} images scored so far{excluded}"
    return f"{counts['scored']} of {counts['scored'] + sum(reasons.values())} images scored{excluded}"


def undefined(run: Run) -> list[str]:
    """Return a sentence for each value that the tables call undefined, with the reason."""
    scored, lines = run.table.scored_items, []
    if run.raw and not scored.logit_full.any():
        lines.append("Drops are undefined: Y is 0 for every image, so that there is nothing to divide by.")
    for score, column in SCORES.items() if not run.raw else ():
        if not (scored[f"{column}_full"] > 0).any():
            lines.append(f"Drops in {score} are undefined: no image has Y > 0 to divide by.")
    if (scored.prob_full >= 1).all():
        lines.append("The average gain is undefined: every confidence is 1, so 1 - Y is 0 and nothing can be divided by it.")
    return lines


def network_in_paper(run: Run) -> str:
    """Return the network (`PAPERS`) whose values in the paper are shown beside this run's; empty if there are none."""
    return PAPERS.get(str(run.provenance["paper_table"]), "")


def published_label(run: Run, point: Point) -> str:
    """Return the label of published values: the network of the paper's values, which `published_note` explains, or "published"."""
    return (network_in_paper(run) if point == PAPER_POINT else "") or "published"


def published_note(run: Run) -> str:
    """Explain the paper's values, which this run's table shows beside its own."""
    network = network_in_paper(run)
    return f"Named {network}: the paper's own values, of {network} on ImageNet val, which other networks and data need not meet."


def whom_win_beats(run: Run) -> str:
    """Describe which method each method's `win` compares with (`summary.rival`); empty for a single method."""
    if len(run.methods) < 2:
        return ""
    first = str(rival(run.methods, ""))
    second = rival(run.methods, first)
    return f"Win: {first} and {second} against each other" + (f", every other method against {first}" if len(run.methods) > 2 else "")


def cells(evaluated: Evaluated, point: Point) -> list[list[str]]:
    """Return one table as text: a header, then a line for each metric, with published values in separate columns.

    With more than MANY methods, the methods are the lines and the metrics the columns.
    """
    table = _by_metric(evaluated, point)
    if len(evaluated.run.methods) <= MANY:
        return table
    transposed = [list(column) for column in zip(*table, strict=True)]
    return [["method", *transposed[0][1:]], *transposed[1:]]


def _by_metric(evaluated: Evaluated, point: Point) -> list[list[str]]:
    run, summary = evaluated.run, at_point(evaluated.summary, point)
    methods = run.methods
    published = [m for m in methods if summary[summary.method == m].reference.notna().any()]
    table = [["", *methods, *(f"{method} ({published_label(run, point)})" for method in published)]]
    for metric, score in RAW_LINES if run.raw else LINES:
        rows = summary[(summary.metric == metric) & (summary.score == score)].set_index("method")
        if rows.empty:
            continue
        label = f"{_label(metric, score)} ({direction(metric, point.select)} is better)"
        values = [interval(rows.loc[m, "value"], rows.loc[m, "low"], rows.loc[m, "high"]) for m in methods]
        references = [f"{rows.loc[m, 'reference']:.2f}" if pd.notna(rows.loc[m, "reference"]) else "" for m in published]
        table.append([label, *values, *references])
    return table


def _label(metric: str, score: str) -> str:
    return LABELS[metric] if LABELS[metric].endswith(score) else f"{LABELS[metric]}, {score}"


def interval(value: float, low: float, high: float, decimals: int = 2) -> str:
    """Format a value with its interval, whose ends have so many decimals: `41.52 [40.90, 42.11]`; `undefined` for nan (`undefined`)."""
    if not math.isfinite(value):
        return UNDEFINED
    if not math.isfinite(low):
        return f"{value:z.2f} [no interval: too few images]"
    return f"{value:z.2f} [{low:z.{decimals}f}, {high:z.{decimals}f}]"


def paired(evaluated: Evaluated) -> str:
    """Return what stands above the paired tests: which tests, and for how many comparisons p is corrected."""
    kinds = "average drop: sign-flip permutation; increase: McNemar; win: sign test"
    if set(evaluated.comparisons.get("test", ())) == {FLIP}:
        kinds = "sign-flip permutation of whole images"
    family = evaluated.comparisons.get("p", pd.Series(dtype=float)).notna().sum()
    return f"Paired tests ({kinds}); p is uncorrected, p (Holm) corrected for the {family} comparisons of this run (comparisons.csv)"


def comparison_table(evaluated: Evaluated, point: Point) -> list[list[str]]:
    """Return the paired tests of the first method against the others and the centre control; empty for a single method.

    With more than MANY methods, only the second and the control are compared with the first, or the same method at other layers.
    """
    run = evaluated.run
    if evaluated.comparisons.empty:
        return []
    tests = at_point(evaluated.comparisons, point)
    first = run.methods[0]
    rivals = [m for m in run.methods[1:] if m not in CONTROLS]
    if len(run.methods) > MANY:
        rivals = [m for m in rivals if method_of(m) == method_of(first)] or rivals[:1]
    if first not in CONTROLS and "centre" in run.methods:
        rivals.append("centre")
    lines = [["difference", "metric", "value", "p", "p (Holm)"]]
    for other in rivals:
        for row in tests[(tests["first"] == first) & (tests["second"] == other)].itertuples():
            bounds = f"[{row.low:+.2f}, {row.high:+.2f}]" if math.isfinite(row.low) else "[no interval]"
            difference = f"{row.difference:+.2f} {bounds}" if math.isfinite(row.difference) else UNDEFINED
            lines.append(
                [
                    f"{first} - {other}",
                    f"{LABELS[row.metric].removesuffix(' %')}, {row.score}",
                    difference,
                    p_value(row.p),
                    p_value(row.p_holm),
                ]
            )
    return lines if len(lines) > 1 else []


def p_value(p: float) -> str:
    """Return a p value as `0.031`, `< 0.001`, or `undefined`."""
    return UNDEFINED if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def main_points(run: Run) -> list[Point]:
    """Return the points whose tables are shown first: those nearest to the paper's 20 %, and the soft ones."""
    nearest = min((abs(p.top_percent - 20) for p in run.points if p.top_percent is not None), default=0)
    return [p for p in run.points if p.top_percent is None or abs(p.top_percent - 20) == nearest]
